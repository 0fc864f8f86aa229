"""Applying: an output's table takes the change-sets of its log in their order, each in one transaction."""

from __future__ import annotations

import pyarrow as pa

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import files
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, OutputId
from airflow_provider_eventlog.core.staging.records import digest
from airflow_provider_eventlog.core.windows.corrected import KEY
from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

# The output whose table has an output's late rows.
_LATE = "{}.late"
# Of what a fold leaves, what goes into each table: rows to upsert, and keys to delete.
KINDS, LATE_KINDS = (files.UPSERTS, files.DELETES), (files.LATE, files.LATE_GONE)


def late_output(output: str) -> str:
    """The name under which the table of an output's late rows is owned."""
    return _LATE.format(output)


def change_digest(record: FoldRecord, kinds: tuple[str, str] = KINDS) -> str:
    """Digest of what a fold does to a table."""
    return digest([record.n, [record.files[kind][1] if kind in record.files else None for kind in kinds]])


def apply_changes(engine: Engine, pipeline: Pipeline, output: Windows, plan: WindowPlan, log: FoldLog) -> int:
    """Apply what the table does not have yet, and the late rows to theirs; how many change-sets that were.

    Raises the target errors, StagingMissingError, StagingCorruptError; what was applied before stays.
    """
    name = OutputId(engine.ledger.ledger_id, pipeline.name, output.name)
    applied = _bring_up(engine, name, output.target, log, plan.result, plan.key, KINDS)
    if output.late is not None:
        late = OutputId(engine.ledger.ledger_id, pipeline.name, late_output(output.name))
        _bring_up(engine, late, output.late, log, plan.late, KEY, LATE_KINDS)
    return applied


def _bring_up(
    engine: Engine,
    name: OutputId,
    declared: DuckDB,
    log: FoldLog,
    schema: pa.Schema,
    key: tuple[str, ...],
    kinds: tuple[str, str],
) -> int:
    target = engine.open_target(Rows(declared, name=name.output))
    at = target.cursor(name)
    newest = engine.ledger.last_fold(log.pipeline, log.output, log.log)
    behind = at[1] if at is not None and at[0] == log.log else 0
    if newest is None or (at is not None and at >= (log.log, newest.n)):
        return 0
    applied = 0
    for record in engine.ledger.folds(log.pipeline, log.output, log.log, behind):
        engine.check_cancelled()
        changed = change_digest(record, kinds)
        upserts, deletes = (files.local(engine, record, kind) for kind in kinds)
        target.apply_changes(name, log.log, record.n, changed, upserts, deletes, schema, key)
        applied += 1
        engine.progress(f"change-sets of {name.output}", record.n, newest.n)
    return applied
