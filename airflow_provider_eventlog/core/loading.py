"""Loading: one transaction in each target; twice has the effect of once."""

from __future__ import annotations

from typing import Any

from airflow_provider_eventlog.core import quarantine
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import ContentMismatchError, NotReadyError
from airflow_provider_eventlog.core.offsets import PlannedBatch
from airflow_provider_eventlog.core.partfile import part_schema
from airflow_provider_eventlog.core.protocols import GenerationState, OutputId
from airflow_provider_eventlog.core.validating import rows_digest
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline

_READY = (GenerationState.VALIDATED, GenerationState.LOADED)


def load_batch(engine: Engine, pipeline: Pipeline, planned: PlannedBatch) -> dict[str, Any]:
    """Make a validated generation the visible one of its batch in every output of rows.

    Raises NotReadyError before validation, StagingCorruptError for changed parts, and the target errors. Outputs
    that were loaded before a failure stay loaded; a retry does the rest.
    """
    batch, number = planned.batch, planned.generation
    record = engine.ledger.generation(pipeline.name, batch.batch_id, number)
    if record.state not in _READY:
        raise NotReadyError(
            f"Batch {batch.batch_id}, generation {number} is {record.state.value}, not validated; run or clear "
            f"validate."
        )
    parts = tuple(p for p in engine.ledger.parts(pipeline.name, batch.batch_id, number) if p.kind == TYPED)
    digest = rows_digest(parts)
    if digest != record.digest:
        raise ContentMismatchError(
            f"Batch {batch.batch_id}, generation {number}: its parts are not the ones that were validated; "
            f"clear validate."
        )
    files = [engine.staging.open(p.file.path, p.file) for p in parts]
    outputs = {}
    for output in (o for o in pipeline.outputs if isinstance(o, Rows)):
        engine.check_cancelled()
        result = engine.open_target(output).apply_rows(
            OutputId(engine.ledger.ledger_id, pipeline.name, output.name),
            batch.batch_id,
            number,
            digest,
            files,
            part_schema(pipeline),
        )
        outputs[output.name] = {
            "outcome": result.outcome.value,
            "rows": result.rows,
            "superseded": result.superseded,
        }
    if pipeline.quarantine is not None:
        outputs[quarantine.KIND] = _load_quarantine(engine, pipeline, planned, pipeline.quarantine)
    engine.ledger.advance_generation(pipeline.name, batch.batch_id, number, GenerationState.LOADED)
    return {"batch_id": batch.batch_id, "generation": number, "outputs": outputs}


def _load_quarantine(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, target: DuckDB) -> dict[str, Any]:
    """Load what the generation has stopped, also if that is nothing: it takes the place of an earlier generation's."""
    batch, number = planned.batch, planned.generation
    stored = engine.ledger.parts(pipeline.name, batch.batch_id, number)
    parts = [p for p in stored if p.kind == quarantine.KIND]
    result = engine.open_target(Rows(target, name=quarantine.KIND)).apply_rows(
        OutputId(engine.ledger.ledger_id, pipeline.name, quarantine.KIND),
        batch.batch_id,
        number,
        rows_digest(parts, quarantine.KIND),
        [engine.staging.open(p.file.path, p.file) for p in parts],
        quarantine.SCHEMA,
    )
    return {"outcome": result.outcome.value, "rows": result.rows, "superseded": result.superseded}
