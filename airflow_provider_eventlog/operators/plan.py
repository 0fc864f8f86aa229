"""Plan: freeze what the run takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.operators.common import StageOperator, run_key, warn_of_expiry
from airflow_provider_eventlog.operators.request import Planning

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine
    from airflow_provider_eventlog.core.offsets import RunPlan
    from airflow_provider_eventlog.declare.pipeline import Pipeline

# A run over a long pause may take hundreds of batches; the ledger names them all.
_SHOWN = 20


class PlanningOperator(StageOperator):
    """A stage operator that plans; the arguments are those of `request.Planning`."""

    def __init__(
        self,
        *,
        read: str = "interval",
        gap: str | None = None,
        parallelism: int = 4,
        max_batches_per_run: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.planning = Planning(read, gap, parallelism, max_batches_per_run)

    def plan(self, engine: Engine, context: Context) -> RunPlan:
        """Plan the run, or find its plan, and say what it takes."""
        made = plan_run(engine, self.pipeline, self.planning, context, self.log.info)
        warn_of_expiry(self.log.warning, self.log.info, engine, self.pipeline.stream, made)
        return made


class PlanBatchOperator(PlanningOperator):
    """Freezes which offsets this run takes, before any of them is landed.

    pipeline             the Pipeline
    read                 what the schedule means: "interval" (the run's data interval) or "since_last"
    gap                  where an interval's start has no cut but an older one exists: "absorb" starts there, "hole"
                         leaves the hole for the run whose interval it is; None: hole if the DAG has catchup
    parallelism          into at most how many groups (mapped land and transform tasks) the slices are packed
    max_batches_per_run  since_last takes at most so many batches

    A manual run goes by the Dag params that `eventlog_batch` adds. A retried or cleared run finds its first plan.
    Pushes pointers to map over, always at least one: `{"run_key": "<dag_id>/<run_id>", "group": 0}`.
    """

    def work(self, engine: Engine, context: Context) -> list[dict[str, Any]]:
        """Plan, and point at the groups."""
        made = self.plan(engine, context)
        return [{"run_key": made.run_key, "group": group} for group in range(len(made.groups))]


def plan_run(
    engine: Engine, pipeline: Pipeline, planning: Planning, context: Context, say: Callable[[str], object]
) -> RunPlan:
    """Plan what the run asks for; the first line said is what it takes."""
    from airflow_provider_eventlog.core import stages

    made = stages.plan(engine, pipeline, planning.request(context, pipeline), run_key(context))
    say(stages.headline(made))
    for line in stages.describe_windows(pipeline):
        say(line)
    for planned in made.batches[:_SHOWN]:
        ranges = "; ".join(r.people for r in planned.batch.ranges[:_SHOWN]) or "no offsets"
        say(f"batch {planned.batch.batch_id}, generation {planned.generation}, {planned.mode}: {ranges}")
    return made
