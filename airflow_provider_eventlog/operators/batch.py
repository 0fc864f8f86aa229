"""`eventlog_batch`: a pipeline's stages as one task group, and the Dag params by which people steer a run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.operators.common import checked_pipeline
from airflow_provider_eventlog.operators.folding import DEADLINE
from airflow_provider_eventlog.operators.land import LandSlicesOperator
from airflow_provider_eventlog.operators.load import LoadBatchOperator
from airflow_provider_eventlog.operators.plan import PlanBatchOperator
from airflow_provider_eventlog.operators.request import (
    BATCH,
    CHECKS,
    CODES,
    FROM,
    OFFSETS,
    PIPELINE,
    REASON,
    RECOMPUTE,
    TO,
    WHAT,
    WHATS,
    pipelines_of,
)
from airflow_provider_eventlog.operators.run import RunBatchOperator
from airflow_provider_eventlog.operators.transform import TransformSlicesOperator
from airflow_provider_eventlog.operators.validate import ValidateBatchOperator

_RANGES = r"^\s*\d{1,10}:\d{1,19}-\d{1,19}\s*(,\s*\d{1,10}:\d{1,19}-\d{1,19}\s*)*$"
_SECTION = "What this run takes"


def eventlog_batch(
    pipeline: Pipeline,
    *,
    tasks: str = "stages",
    parallelism: int = 4,
    gap: str | None = None,
    read: str = "interval",
    max_batches_per_run: int | None = None,
    wait_for_fold: bool = False,
    fold_deadline: str | timedelta | float = DEADLINE,
    group_id: str | None = None,
) -> TaskGroup:
    """Add a pipeline's batch to the current DAG: plan >> land (mapped) >> transform (mapped) >> validate >> load.

    tasks                "stages", or "one" for a single task `run` that does them all
    parallelism, gap, read, max_batches_per_run   as PlanBatchOperator has them
    wait_for_fold, fold_deadline   as LoadBatchOperator has them: whether load waits for windows, and how long
    group_id             default: the pipeline's name, dots as underscores

    Adds the Dag params `eventlog_what`, `eventlog_offsets`, `eventlog_from`, `eventlog_to`, `eventlog_recompute`,
    `eventlog_batch`, `eventlog_codes`, `eventlog_checks` and `eventlog_reason` to the DAG, and `eventlog_pipeline`
    where it holds several pipelines; they steer manual runs and show in the trigger form.
    Returns the task group. Raises DeclarationError outside of a DAG, and for malformed arguments.
    """
    checked_pipeline("eventlog_batch", pipeline)
    if tasks not in ("stages", "one"):
        raise DeclarationError(f"eventlog_batch: tasks={printable(tasks)} must be 'stages' or 'one'.")
    planning: dict[str, Any] = {
        "pipeline": pipeline,
        "read": read,
        "gap": gap,
        "parallelism": parallelism,
        "max_batches_per_run": max_batches_per_run,
    }
    waiting: dict[str, Any] = {"wait_for_fold": wait_for_fold, "fold_deadline": fold_deadline}
    with _group(pipeline, group_id) as group:
        if tasks == "one":
            RunBatchOperator(task_id="run", **planning, **waiting)
        else:
            plan = PlanBatchOperator(task_id="plan", **planning)
            land = LandSlicesOperator.partial(task_id="land", pipeline=pipeline).expand(pointer=plan.output)
            transform = TransformSlicesOperator.partial(task_id="transform", pipeline=pipeline).expand(
                pointer=plan.output
            )
            validate = ValidateBatchOperator(task_id="validate", pipeline=pipeline)
            load = LoadBatchOperator(task_id="load", pipeline=pipeline, **waiting)
            plan >> land >> transform >> validate >> load
    add_params(group.dag)
    return group


def _group(pipeline: Pipeline, group_id: str | None) -> TaskGroup:
    try:
        return TaskGroup(group_id or pipeline.name.replace(".", "_"), tooltip=f"pipeline {pipeline.name}")
    except RuntimeError as error:
        raise DeclarationError(
            f"eventlog_batch({pipeline.name!r}) was called outside of a DAG; call it inside `with DAG(...):` or in a "
            f"function decorated with @dag."
        ) from error


def add_params(dag: DAG) -> None:
    """Give the DAG the params that steer manual runs; what its author has set under these names stays."""
    for name, param in _params().items():
        if name not in dag.params:
            dag.params[name] = param
    names = [p.name for p in pipelines_of(dag.tasks)]
    if len(names) > 1:
        dag.params[PIPELINE] = Param(
            None,
            type=["null", "string"],
            enum=[None, *names],
            title="Pipeline",
            section=_SECTION,
            description="The one pipeline that a manual run takes; none: all of them.",
        )


def _params() -> dict[str, Param]:
    time: dict[str, Any] = {"type": ["null", "string"], "format": "date-time", "section": _SECTION}
    text: dict[str, Any] = {"type": ["null", "string"], "section": _SECTION}
    return {
        WHAT: Param(
            "auto",
            type="string",
            enum=list(WHATS),
            title="What",
            section=_SECTION,
            description=(
                "Manual runs only; scheduled and back-fill runs take their interval. auto and since_last: everything "
                "since the last batch. interval: from and to. offsets: exactly the offsets named. redrive: quarantined "
                "records again. release: a held batch. skip: windows wait no more for a batch, or a hole. resume: what "
                "was left validated or released, and what windows can take."
            ),
        ),
        OFFSETS: Param(
            None,
            type=["null", "string"],
            pattern=_RANGES,
            title="Offsets",
            section=_SECTION,
            description=(
                "For what=offsets: partition:start-end, comma separated, the end not included; 0:100-200,1:0-50. "
                "Offsets that a batch has already are replayed with it, never doubled. For what=redrive: only the "
                "quarantined records at these."
            ),
        ),
        FROM: Param(
            None,
            title="From",
            description="For what=interval: its start, by record timestamp. For what=skip: where the hole begins.",
            **time,
        ),
        TO: Param(None, title="To", description="For what=interval: its end, not included.", **time),
        RECOMPUTE: Param(
            False,
            type="boolean",
            title="Recompute",
            section=_SECTION,
            description=(
                "For what=interval, offsets and redrive: derive again from staging and load as a new generation, also "
                "where transform and raw data are unchanged. For transforms that read more than the batch."
            ),
        ),
        BATCH: Param(
            None,
            title="Batch",
            description="For what=release and skip: the batch. For what=redrive: only its records.",
            **text,
        ),
        CODES: Param(None, title="Codes", description="For what=redrive: only stopped for these, with commas.", **text),
        CHECKS: Param(
            None, title="Checks", description="For what=redrive: only stopped by these, with commas.", **text
        ),
        REASON: Param(
            None,
            title="Reason",
            description="For what=redrive, release and skip: why; kept with the decision and your name.",
            **text,
        ),
    }
