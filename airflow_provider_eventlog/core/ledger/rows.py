"""Values to rows and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Row, RowMapping

from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import (
    Decision,
    EpochRecord,
    FoldRecord,
    GenerationRecord,
    GenerationState,
    PartRecord,
    SliceRecord,
    StagedFile,
)
from airflow_provider_eventlog.core.staging.records import canonical

T = TypeVar("T")
# So many values a statement: databases bound the parameters of one.
_AT_ONCE = 500


def portions(wanted: Iterable[T]) -> Iterator[list[T]]:
    """Values in their order, as many at once as a statement takes."""
    left = iter(wanted)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def ranges_json(ranges: Iterable[OffsetRange]) -> list[list[int]]:
    """Ranges as [partition, start, end] each, in the order given."""
    return [[r.partition, r.start, r.end] for r in ranges]


def ranges_of(value: Iterable[Sequence[int] | Row[int, int, int]]) -> tuple[OffsetRange, ...]:
    """What `ranges_json` gave, read back."""
    return tuple(OffsetRange(partition, start, end) for partition, start, end in value)


def plan_text(plan: BatchPlan) -> str:
    """The frozen ranges and slices; slices that are the ranges themselves, the common case, are written as null."""
    slices = None if plan.slices == plan.ranges else ranges_json(plan.slices)
    return canonical({"ranges": ranges_json(plan.ranges), "slices": slices})


def batch_of(row: RowMapping) -> BatchPlan:
    """A row of `chain.batches`."""
    frozen = json.loads(row["plan"])
    ranges = ranges_of(frozen["ranges"])
    return BatchPlan(
        batch_id=row["batch_id"],
        stream=row["stream"],
        epoch=row["epoch"],
        kind=row["kind"],
        from_instant=row["from_instant"],
        to_instant=row["to_instant"],
        ranges=ranges,
        slices=ranges if frozen["slices"] is None else ranges_of(frozen["slices"]),
    )


def epoch_of(row: RowMapping) -> EpochRecord:
    """A row of table epoch."""
    identity = TopicIdentity(row["cluster_id"], row["topic"], row["topic_id"])
    return EpochRecord(row["stream"], row["epoch"], identity, row["reason"])


def slice_row(record: SliceRecord) -> dict[str, Any]:
    """The columns of table slice that landing fills."""
    return {
        "path": record.file.path,
        "file_bytes": record.file.bytes,
        "sha256": record.file.sha256,
        "digest": record.digest,
        "rows": record.rows,
        "invisible": record.invisible,
        "aborted": record.aborted,
        "lost": record.lost,
        "gaps": canonical(ranges_json(record.gaps)),
        "losses": canonical(ranges_json(record.losses)),
        "payload_bytes": record.payload_bytes,
    }


def slice_of(row: RowMapping) -> SliceRecord:
    """A landed row of table slice."""
    return SliceRecord(
        range=OffsetRange(row["partition"], row["start"], row["end"]),
        file=StagedFile(row["path"], row["file_bytes"], row["sha256"]),
        digest=row["digest"],
        rows=row["rows"],
        invisible=row["invisible"],
        aborted=row["aborted"],
        lost=row["lost"],
        gaps=ranges_of(json.loads(row["gaps"])),
        payload_bytes=row["payload_bytes"],
        losses=ranges_of(json.loads(row["losses"])),
    )


def part_row(record: PartRecord) -> dict[str, Any]:
    """The columns of table part, but for the generation's key."""
    return {
        "kind": record.kind,
        "partition": record.range.partition,
        "start": record.range.start,
        "end": record.range.end,
        "path": record.file.path,
        "file_bytes": record.file.bytes,
        "sha256": record.file.sha256,
        "digest": record.digest,
        "recipe": record.recipe,
        "counts": canonical(dict(record.counts)),
        "failures": canonical(dict(record.failures)),
    }


def part_of(row: RowMapping) -> PartRecord:
    """A row of table part."""
    return PartRecord(
        kind=row["kind"],
        range=OffsetRange(row["partition"], row["start"], row["end"]),
        file=StagedFile(row["path"], row["file_bytes"], row["sha256"]),
        digest=row["digest"],
        recipe=row["recipe"],
        counts=json.loads(row["counts"]),
        failures=json.loads(row["failures"]),
    )


def generation_of(row: RowMapping) -> GenerationRecord:
    """A row of table generation."""
    return GenerationRecord(
        pipeline=row["pipeline"],
        batch_id=row["batch_id"],
        generation=row["gen"],
        recipe=row["recipe"],
        state=GenerationState(row["state"]),
        digest=row["digest"],
        accounting=None if row["accounting"] is None else json.loads(row["accounting"]),
    )


_FOLD = ("pipeline", "output", "log", "n", "cause", "batch_id", "about", "watermark")


def fold_row(record: FoldRecord) -> dict[str, Any]:
    """The columns of table fold."""
    files = {kind: [f.path, f.bytes, f.sha256, digest] for kind, (f, digest) in record.files.items()}
    return {
        **{name: getattr(record, name) for name in _FOLD},
        "inputs": canonical([list(one) for one in record.inputs]),
        "files": canonical(files),
        "accounting": canonical(dict(record.accounting)),
    }


def fold_of(row: RowMapping) -> FoldRecord:
    """A row of table fold."""
    return FoldRecord(
        **{name: row[name] for name in _FOLD},
        inputs=tuple((batch_id, gen, digest) for batch_id, gen, digest in json.loads(row["inputs"])),
        files={
            kind: (StagedFile(path, size, sha256), digest)
            for kind, (path, size, sha256, digest) in json.loads(row["files"]).items()
        },
        accounting=json.loads(row["accounting"]),
    )


def decision_row(decision: Decision) -> dict[str, Any]:
    """The columns of table decision."""
    return {**decision.to_json(), "id": decision.id, "payload": canonical(dict(decision.payload))}


def decision_of(row: RowMapping) -> Decision:
    """A row of table decision."""
    values = {name: row[name] for name in Decision.__slots__}
    return Decision(**{**values, "payload": json.loads(row["payload"])})
