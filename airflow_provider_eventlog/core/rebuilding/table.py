"""A target's table made anew: what a target gives for it, beside the one in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from airflow_provider_eventlog.core.protocols import ApplyResult, LoadedBatch


class Standing(StrEnum):
    """What has the name of an output's table: never made, gone since it was loaded, or its own table."""

    NEVER = "never made"
    GONE = "gone"
    OWN = "standing"


@dataclass(frozen=True, slots=True)
class Swap:
    """How taking a table's place ended.

    aside   where the table that stood there is kept; None if none stood
    behind  batches that it holds and the new one lacks, or has an earlier generation of: nothing was swapped then
    """

    aside: str | None
    behind: tuple[str, ...] = ()


class NewTable(Protocol):
    """A table that is made anew beside an output's own, and is not seen before it takes that one's place.

    Every method is one transaction, and may be called again. A process that is killed leaves what it had loaded to the
    next one that asks for a new table of the same columns.
    """

    @property
    def standing(self) -> Standing:
        """What had the name when it was looked at."""

    @property
    def difference(self) -> tuple[str, ...]:
        """How the columns of the own table differ from the wanted ones."""

    @property
    def old(self) -> Mapping[str, LoadedBatch]:
        """What was recorded of the own table, or of the one that is gone."""

    @property
    def held(self) -> Mapping[str, LoadedBatch]:
        """What an earlier attempt has loaded into the new one."""

    def begin(self, *, anew: bool = False) -> None:
        """Make the new table, or go on with one that was begun; with `anew` that one is dropped."""

    def apply_rows(self, batch_id: str, generation: int, digest: str, files: Sequence[Path]) -> ApplyResult:
        """As `Target.apply_rows`; raises TargetBusyError if another process has taken the new table away."""

    def apply_changes(
        self, log: int, n: int, digest: str, upserts: Sequence[Path], deletes: Sequence[Path], key: Sequence[str]
    ) -> ApplyResult:
        """As `Target.apply_changes`, for a table of windows."""

    @property
    def position(self) -> tuple[int, int] | None:
        """(log, n) of the newest change-set of the new table; None before the first."""

    def swap(self, *, replace: bool) -> Swap:
        """Let the new table take the place of the own one, which is renamed and kept, if `replace` allows it.

        Raises ContentMismatchError if its rows are not those that were loaded, TargetOwnedError for a table that is
        not the output's or must not be replaced, TargetSchemaError for one that cannot be renamed, TargetBusyError.
        """
