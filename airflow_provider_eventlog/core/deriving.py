"""Deriving: one part per slice and generation, published once, adopted by every later attempt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_eventlog.core import accounting, landing, partfile, rawfile
from airflow_provider_eventlog.core.arrow import empty_table
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import NotReadyError, StagingMissingError
from airflow_provider_eventlog.core.offsets import OffsetRange, PlannedBatch, RunPlan
from airflow_provider_eventlog.core.protocols import Outcome, PartRecord, SliceRecord, StagedFile
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.transforming import transform_slice
from airflow_provider_eventlog.declare.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

TYPED = "typed"


def derive(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, wanted: OffsetRange) -> dict[str, int]:
    """Derive the part of one slice, or adopt the one that stands; returns its accounting.

    Raises NotReadyError before the slice is landed, StagingCorruptError if its bytes changed since, DecodeError,
    TransformError, AccountingError. After a failure nothing of this attempt is visible.
    """
    batch, number = planned.batch, planned.generation
    landed = _landed(engine, planned, wanted)
    recorded = {p.range: p for p in engine.ledger.parts(pipeline.name, batch.batch_id, number)}.get(wanted)
    path = paths.part(batch.stream, pipeline.name, batch.batch_id, number, TYPED, wanted)
    if recorded is None:
        outcome, file = Outcome.EXISTED, engine.staging.stat(path)
        if file is None:
            outcome, file = _publish(engine, pipeline, planned, landed, path)
        part = _adopt(engine, outcome, file)
        recorded = engine.ledger.record_part(pipeline.name, batch.batch_id, number, part)
    elif not engine.staging.exists(path):
        raise StagingMissingError(f"The part {path} was derived and is gone from staging; restore it from a copy.")
    return accounting.transform_counts(recorded, landed)


def _landed(engine: Engine, planned: PlannedBatch, wanted: OffsetRange) -> SliceRecord:
    for record in engine.ledger.slices(planned.batch.batch_id):
        if record.range == wanted:
            return record
    raise NotReadyError(f"The slice {wanted} of batch {planned.batch.batch_id} is not landed yet; run or clear land.")


def _publish(
    engine: Engine, pipeline: Pipeline, planned: PlannedBatch, landed: SliceRecord, path: str
) -> tuple[Outcome, StagedFile]:
    raw = engine.staging.open(landed.file.path, landed.file)

    def write(temporary: Path) -> None:
        result = transform_slice(pipeline, raw)
        engine.check_cancelled()
        partfile.write_part(temporary, result, kind=TYPED, wanted=landed.range, recipe=pipeline.recipe)

    return engine.staging.publish(path, write)


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
            raw = rawfile.read_table(engine.staging.open(record.file.path, record.file))
            tables.append(decode_table(pipeline.decode, raw).table)
    return pa.concat_tables(tables)
