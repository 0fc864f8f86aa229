"""What the stores hold, as upkeep asks for it: in bulk, bounded, read only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange
from airflow_provider_eventlog.core.protocols import (
    BatchState,
    GenerationRecord,
    GenerationState,
    LoadedBatch,
    PartRecord,
    SliceRecord,
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below the staging root, published or not: path relative to it, bytes, and its last change.

    `changed` is in milliseconds since 1970 UTC by the store's clock: of its content or of its names, whichever is
    later, so that a file that was written long ago and published just now is new.
    """

    path: str
    bytes: int
    changed: int


@dataclass(frozen=True, slots=True)
class TargetContents:
    """A target table at one moment.

    loads  (batch id, what is recorded of it), one for each record, in order
    rows   how many rows really carry each batch id; None for rows that carry none
    """

    loads: tuple[tuple[str, LoadedBatch], ...]
    rows: Mapping[str | None, int]


if TYPE_CHECKING:
    import pyarrow as pa

# Number of a change-set, the files of its upserts, the files of its deletes.
Changes = tuple[int, Sequence[Path], Sequence[Path]]


@dataclass(frozen=True, slots=True)
class AddedUp:
    """A table of windows as its change-sets give it.

    at       (log, n) of the last of them
    changes  all of them in order; asked for one by one, before the table is looked at
    schema, key  the table's columns, and those of them that tell its rows apart
    """

    at: tuple[int, int]
    changes: Iterable[Changes]
    schema: pa.Schema
    key: Sequence[str]


@dataclass(frozen=True, slots=True)
class Differing:
    """How a table of windows differs from what its change-sets add up to.

    keys   how many keys differ
    first  the first ones in order: "changed", "missing" or "not ours", and the key's values as text
    """

    keys: int
    first: tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch with all that the ledger has of its landing; `planned` are its slices as coverage holds them."""

    plan: BatchPlan
    state: BatchState
    manifest_digest: str | None
    planned: tuple[OffsetRange, ...]
    slices: tuple[SliceRecord, ...]


@dataclass(frozen=True, slots=True)
class HeldGenerations:
    """A batch with its generations under one pipeline, in order, each with its parts."""

    batch: HeldBatch
    generations: tuple[tuple[GenerationRecord, tuple[PartRecord, ...]], ...]


class LedgerAudit(Protocol):
    """One stream of the ledger in bulk.

    Iterators read in pages, each at a moment of its own: what is added meanwhile may be missing, nothing is torn.
    """

    def overlaps(self, epoch: int, limit: int = 100) -> tuple[tuple[OffsetRange, str, int], ...]:
        """Slices (range, batch) that begin in front of the end (the number) of one before them."""

    def backward_cuts(self, epoch: int, limit: int = 100) -> tuple[tuple[int, int, int, int], ...]:
        """(partition, instant, offset, offset of the cut before) where a cut runs backwards."""

    def extents(self, epoch: int) -> tuple[OffsetRange, ...]:
        """Per partition what lies between the first cut and the last; a later partition from offset 0 on."""

    def unplanned(self, epoch: int) -> tuple[tuple[Cut, Cut], ...]:
        """Segments between neighbouring cuts that no chain batch has."""

    def astray(self, epoch: int) -> tuple[str, ...]:
        """Chain batches whose two cuts are not neighbours."""

    def planned(self, epoch: int, partition: int) -> Mapping[OffsetRange, str]:
        """The planned slices of a partition with their batches."""

    def batches(self, epoch: int) -> Iterator[HeldBatch]:
        """All batches, by id."""

    def generations(self, pipeline: str) -> Iterator[HeldGenerations]:
        """All batches of the stream that a pipeline has taken, by id."""

    def pipelines(self) -> tuple[str, ...]:
        """Pipelines that are registered over the stream, or have taken one of its batches; by name."""

    def manifest_digest(self, batch_id: str) -> str | None:
        """The digest of the manifest that a batch was sealed with."""

    def standings(self, pipeline: str) -> Mapping[str, tuple[int, GenerationState]]:
        """Number and state of the newest generation of each batch that a pipeline has taken, of any stream."""

    def declarations(self, pipeline: str) -> Mapping[str, str]:
        """The declaration of a pipeline under each of its recipes."""

    def raw_bytes(self) -> int:
        """Bytes of all raw files as recorded."""

    def part_bytes(self, pipeline: str) -> int:
        """Bytes of all parts of a pipeline as recorded."""
