"""Records in staging read back into the values that they were made of; each is checked against its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.errors import EventLogError, StagingCorruptError, StagingMissingError
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, Slice, TopicIdentity
from airflow_provider_eventlog.core.protocols import Decision, PartRecord, SliceRecord, StagedFile, Staging
from airflow_provider_eventlog.core.staging import paths, records


@dataclass(frozen=True, slots=True)
class Landed:
    """A manifest: a landed batch with the topic and the cuts that it was planned by; `digest` is of the record."""

    plan: BatchPlan
    identity: TopicIdentity
    cuts: tuple[Cut | None, Cut | None]
    slices: tuple[SliceRecord, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit record: a generation that was validated, with its parts."""

    pipeline: str
    batch_id: str
    number: int
    recipe: str
    digest: str
    parts: tuple[PartRecord, ...]
    accounting: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a pipeline declared under a recipe, which was its `number`-th."""

    pipeline: str
    stream: str
    recipe: str
    number: int
    declaration: Mapping[str, Any]


def landed(staging: Staging, path: str) -> Landed:
    """Read a manifest; raises StagingCorruptError, ManifestVersionError."""
    record = _record(staging, path)
    with _reading(path):
        batch = record["batch"]
        plan = BatchPlan(
            batch_id=batch["batch_id"],
            stream=batch["stream"],
            epoch=batch["epoch"],
            kind=batch["kind"],
            from_instant=batch["from_instant"],
            to_instant=batch["to_instant"],
            ranges=_ranges(batch["ranges"]),
            slices=_ranges(piece["range"] for piece in record["slices"]),
        )
        first, last = (None if cut is None else cut_of(cut) for cut in record["cuts"])
        found = Landed(
            plan=plan,
            identity=TopicIdentity(**record["topic"]),
            cuts=(first, last),
            slices=tuple(_slice(piece) for piece in record["slices"]),
            digest=records.digest(record),
        )
    _named(path, paths.manifest(plan.stream, plan.epoch, plan.batch_id))
    for piece in found.slices:
        _named(piece.file.path, paths.raw_slice(Slice(plan.stream, plan.epoch, piece.range)), within=path)
    return found


def committed(staging: Staging, path: str, stream: str) -> Committed:
    """Read the commit record of a generation of one of the stream's batches; raises as `landed` does."""
    record = _record(staging, path)
    with _reading(path):
        found = Committed(
            pipeline=record["pipeline"],
            batch_id=record["batch_id"],
            number=record["generation"],
            recipe=record["recipe"],
            digest=record["digest"],
            parts=tuple(_part(part) for part in record["parts"]),
            accounting=record["accounting"],
        )
    _named(path, paths.commit(stream, found.pipeline, found.batch_id, found.number))
    return found


def declared(staging: Staging, path: str) -> Declared:
    """Read what a pipeline declared under a recipe; raises as `landed` does."""
    record = _record(staging, path)
    with _reading(path):
        found = Declared(**{name: record[name] for name in Declared.__slots__})
    _named(path, paths.recipe(found.stream, found.pipeline, found.recipe))
    return found


def decision(staging: Staging, path: str) -> Decision:
    """Read a decision; raises as `landed` does."""
    record = _record(staging, path)
    with _reading(path):
        found = Decision(**record)
    _named(path, paths.decision(found.stream, found.kind, found.id))
    return found


def cut_of(value: Mapping[str, Any]) -> Cut:
    """What `landing.cut_json` gave, read back."""
    found = value["offsets"]
    return Cut(value["instant"], value["kind"], {p: offset for p, offset, _ in found}, {p: by for p, _, by in found})


def _record(staging: Staging, path: str) -> dict[str, Any]:
    record = staging.read_json(path)
    if record is None:
        raise StagingMissingError(f"{path} was there and is gone: something else works on this staging root.")
    return record


def _slice(piece: Mapping[str, Any]) -> SliceRecord:
    counts = piece["accounting"]
    return SliceRecord(
        range=OffsetRange.parse(piece["range"]),
        file=StagedFile(piece["path"], piece["file_bytes"], piece["sha256"]),
        digest=piece["digest"],
        rows=counts["landed"],
        invisible=counts["invisible"],
        aborted=counts["aborted"],
        lost=counts["lost"],
        gaps=_ranges(piece["gaps"]),
        payload_bytes=counts["bytes"],
        losses=_ranges(piece["losses"]),
    )


def _part(part: Mapping[str, Any]) -> PartRecord:
    return PartRecord(
        kind=part["kind"],
        range=OffsetRange.parse(part["range"]),
        file=StagedFile(part["path"], part["file_bytes"], part["sha256"]),
        digest=part["digest"],
        recipe=part["recipe"],
        counts=part["counts"],
        failures=part["failures"],
    )


def _ranges(texts: Any) -> tuple[OffsetRange, ...]:
    return tuple(OffsetRange.parse(text) for text in texts)


def _named(path: str, wanted: str, *, within: str = "") -> None:
    if path != wanted:
        raise StagingCorruptError(
            f"{within or path} is not the record that its name says: by what it holds, {path} would be {wanted}."
        )


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, EventLogError) as error:
        raise StagingCorruptError(
            f"{path} does not hold what a record of its kind has ({type(error).__name__}: {error}); restore it."
        ) from error
