"""What a redrive has decided: which offsets of which generation a new one runs again, and what was dropped for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, format_ranges, merged, parse_ranges
from airflow_provider_eventlog.core.protocols import Decision, Ledger, PartRecord
from airflow_provider_eventlog.core.staging.records import digest

REDRIVE, DROP = "redrive", "drop"
# A decision is one row and one small file; where more is scattered, deriving the batch whole is as cheap.
MOST_RANGES = 100_000


@dataclass(frozen=True, slots=True)
class Redrive:
    """Some records of a batch that are to be run again.

    base         the generation in whose quarantine they are, and whose other rows stay as they are
    base_recipe  its recipe
    base_digest  digest of its parts, by which it is known whatever its number
    ranges       the records, sorted; every offset in them is in the base's quarantine
    rows         how many quarantined rows these records have
    """

    batch: BatchPlan
    base: int
    base_recipe: str
    base_digest: str
    ranges: tuple[OffsetRange, ...]
    rows: int

    @property
    def records(self) -> int:
        """How many records are run again."""
        return sum(map(len, self.ranges))

    def inputs(self, recipe: str, run_key: str | None) -> str:
        """Digest of what the generation is made from; `run_key` is of a run that recomputes."""
        made = [recipe, self.batch.batch_id, [str(r) for r in self.batch.slices]]
        made += ["redrive", self.base_digest, format_ranges(self.ranges)]
        return digest(made if run_key is None else [*made, run_key])

    def payload(self) -> dict[str, Any]:
        """What its decision keeps of it; `of_decision` reads it back."""
        return {
            "base": self.base,
            "base_recipe": self.base_recipe,
            "base_digest": self.base_digest,
            "ranges": format_ranges(self.ranges),
            "rows": self.rows,
        }


def of_decision(batch: BatchPlan, decision: Decision) -> Redrive:
    """Read `Redrive.payload` back."""
    said: Mapping[str, Any] = decision.payload
    ranges = parse_ranges(said["ranges"])
    return Redrive(batch, said["base"], said["base_recipe"], said["base_digest"], ranges, said["rows"])


def parts_digest(parts: Iterable[PartRecord]) -> str:
    """Digest of what a generation holds: the logical digests of all of its parts."""
    return digest(sorted([part.kind, str(part.range), part.digest] for part in parts))


def find(ledger: Ledger, pipeline: str, batch: BatchPlan, generation: int) -> Redrive | None:
    """What a generation runs again; None for one that derives its batch whole."""
    for decision in ledger.decisions(batch.stream, REDRIVE, batch.batch_id):
        of = (decision.pipeline, decision.batch_id, decision.payload["generation"])
        if of == (pipeline, batch.batch_id, generation):
            return of_decision(batch, decision)
    return None


def dropped(ledger: Ledger, stream: str, pipeline: str) -> dict[str, tuple[OffsetRange, ...]]:
    """The records that somebody has dropped for good, by batch."""
    found: dict[str, list[OffsetRange]] = {}
    for decision in ledger.decisions(stream, DROP):
        if decision.pipeline == pipeline and decision.batch_id is not None:
            found.setdefault(decision.batch_id, []).extend(parse_ranges(decision.payload["ranges"]))
    return {batch_id: merged(ranges) for batch_id, ranges in found.items()}
