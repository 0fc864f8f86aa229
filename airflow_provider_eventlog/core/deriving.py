"""Deriving: one part per slice and generation, published once, adopted by every later attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from airflow_provider_eventlog.core import accounting, landing, partfile, quarantine, rawfile, retention
from airflow_provider_eventlog.core.arrow import empty_table
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import ContentMismatchError, NotReadyError, StagingMissingError
from airflow_provider_eventlog.core.folding import partials
from airflow_provider_eventlog.core.offsets import OffsetRange, PlannedBatch, RunPlan
from airflow_provider_eventlog.core.protocols import Outcome, PartRecord, SliceRecord, StagedFile
from airflow_provider_eventlog.core.redriving import decided, merging
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.transforming import TransformResult, transform_slice
from airflow_provider_eventlog.declare.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

TYPED = partfile.TYPED


def derive(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, wanted: OffsetRange) -> dict[str, int]:
    """Derive the parts of one slice, or adopt those that stand; returns its accounting.

    A slice has a typed part, one of partial results for each windows output, and a quarantine part if anything was
    stopped. Raises NotReadyError before the slice is
    landed, StagingCorruptError if its bytes changed since, TransformError, AccountingError, ContentMismatchError for a
    part that stands and is of another recipe. After a failure nothing of this attempt is visible, or parts beside the
    typed one, which nothing names.
    """
    batch, number = planned.batch, planned.generation
    landed = _landed(engine, planned, wanted)
    parts = [p for p in engine.ledger.parts(pipeline.name, batch.batch_id, number) if p.range == wanted]
    recorded = {p.kind: p for p in parts}
    if TYPED not in recorded:
        _derive(engine, pipeline, planned, landed, recorded)
    for part in recorded.values():
        if not engine.staging.exists(part.file.path):
            of = (batch.stream, pipeline.name, batch.batch_id, number)
            raise retention.missing_part(engine, *of, part.file.path)
    return accounting.transform_counts(recorded[TYPED], landed)


@dataclass(frozen=True, slots=True)
class Derived:
    """What one slice of a generation holds: rows, partial results by kind of part, and what was stopped."""

    typed: TransformResult
    partials: Mapping[str, TransformResult]
    stopped: TransformResult | None

    def of(self, kind: str) -> TransformResult:
        """What stands in the part of a kind."""
        if kind == TYPED:
            return self.typed
        if kind == quarantine.KIND:
            return self.stopped or TransformResult(empty_table(quarantine.SCHEMA), {})
        return self.partials[kind]


def make(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, landed: SliceRecord) -> Derived:
    """Make one slice of a generation: whole from raw, or for a redrive from its base's parts; nothing is published.

    Raises what the transform and reading from staging raise.
    """
    batch, number = planned.batch, planned.generation
    stamps: Mapping[str, int | None] = {}
    redrive = decided.find(engine.ledger, pipeline.name, batch, number)
    if redrive is None:
        raw = _raw(engine, planned, landed)
        typed, stopped = transform_slice(pipeline, raw), None
        if typed.stopped is not None:
            last = typed.stopped.table()
            rows = quarantine.addressed(last, engine.topic(batch), batch.batch_id, number, pipeline.recipe)
            stopped = TransformResult(rows, dict(sorted(typed.stopped.codes.items())))
    else:
        remade = merging.remake(engine, pipeline, redrive, number, landed.range)
        typed, stopped, stamps = remade.typed, remade.stopped, remade.stamps
    found = partials.of_slice(pipeline, batch, lambda: _raw(engine, planned, landed), typed.table, stamps)
    return Derived(typed, found, stopped)


def _derive(
    engine: Engine,
    pipeline: Pipeline,
    planned: PlannedBatch,
    landed: SliceRecord,
    recorded: dict[str, PartRecord],
) -> None:
    """Publish and record what is missing of a slice's parts; the typed one last, since it tells that all are there."""
    typed = _path(pipeline, planned, TYPED, landed.range)
    outcome, file = Outcome.EXISTED, engine.staging.stat(typed)
    if file is None:
        made = make(engine, pipeline, planned, landed)
        for kind in (*made.partials, *([quarantine.KIND] if made.stopped is not None else [])):
            path = _path(pipeline, planned, kind, landed.range)
            found = engine.staging.publish(path, _writer(engine, pipeline, landed, made.of(kind), kind))
            recorded[kind] = _record(engine, pipeline, planned, _adopt(engine, *found))
        outcome, file = engine.staging.publish(typed, _writer(engine, pipeline, landed, made.typed, TYPED))
    part = _adopt(engine, outcome, file)
    if part.recipe != pipeline.recipe:
        raise ContentMismatchError(
            f"{typed} was derived under the recipe {part.recipe[:12]}, not {pipeline.recipe[:12]}: a ledger that is "
            f"gone had given its generation's number to another one. Move the file away, then clear transform."
        )
    wanted = [partials.kind_of(output.name) for output in partials.windows_of(pipeline)]
    wanted += [quarantine.KIND] if accounting.stopped(part) else []
    for kind in wanted:
        if kind not in recorded:
            path = _path(pipeline, planned, kind, landed.range)
            found = Outcome.EXISTED, engine.staging.stat(path) or _missing(path)
            recorded[kind] = _record(engine, pipeline, planned, _adopt(engine, *found))
    recorded[TYPED] = _record(engine, pipeline, planned, part)


def _path(pipeline: Pipeline, planned: PlannedBatch, kind: str, wanted: OffsetRange) -> str:
    batch = planned.batch
    return paths.part(batch.stream, pipeline.name, batch.batch_id, planned.generation, kind, wanted)


def _record(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, part: PartRecord) -> PartRecord:
    return engine.ledger.record_part(pipeline.name, planned.batch.batch_id, planned.generation, part)


def rewriter(
    engine: Engine, pipeline: Pipeline, planned: PlannedBatch, landed: SliceRecord, kind: str
) -> Callable[[Path], None]:
    """What writes the part of one kind of a slice again, for repair."""

    def write(temporary: Path) -> None:
        _writer(engine, pipeline, landed, make(engine, pipeline, planned, landed).of(kind), kind)(temporary)

    return write


def _raw(engine: Engine, planned: PlannedBatch, landed: SliceRecord) -> Path:
    return retention.open_raw(engine, planned.batch.stream, planned.batch.batch_id, landed)


def _missing(path: str) -> NoReturn:
    raise StagingMissingError(
        f"The part {path} was derived and is gone from staging. `eventlog fsck --repair --pipeline FILE.py:VARIABLE` "
        f"derives it again; or restore it from a copy."
    )


def _landed(engine: Engine, planned: PlannedBatch, wanted: OffsetRange) -> SliceRecord:
    for record in engine.ledger.slices(planned.batch.batch_id):
        if record.range == wanted:
            return record
    raise NotReadyError(f"The slice {wanted} of batch {planned.batch.batch_id} is not landed yet; run or clear land.")


def _writer(
    engine: Engine, pipeline: Pipeline, landed: SliceRecord, rows: TransformResult, kind: str
) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        engine.check_cancelled()
        partfile.write_part(temporary, rows, kind=kind, wanted=landed.range, recipe=pipeline.recipe)

    return write


def _adopt(engine: Engine, outcome: Outcome, file: StagedFile) -> PartRecord:
    local = engine.staging.open(file.path)
    part = partfile.read_part(local, file)
    if outcome is not Outcome.LANDED:
        partfile.verify_rows(local, part.digest)
    return part


def decoded(engine: Engine, pipeline: Pipeline, bound: RunPlan) -> pa.Table:
    """The decoded rows of all batches of a landed run, before the transform.

    Raises NotReadyError before a batch's manifest stands, StagingCorruptError, DecodeError.
    """
    import pyarrow as pa

    from airflow_provider_eventlog.core.decoding import decode_table, decoded_schema

    assert pipeline.decode is not None
    tables = [empty_table(decoded_schema(pipeline.decode))]
    for planned in bound.batches:
        for record in landing.verified_slices(engine, planned.batch):
            engine.check_cancelled()
            raw = rawfile.read_table(_raw(engine, planned, record))
            tables.append(decode_table(pipeline.decode, raw).table)
    return pa.concat_tables(tables)
