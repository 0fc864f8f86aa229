"""All stages in one task, where the overhead of five matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.operators.common import tell_of_windows, warn_of_loss
from airflow_provider_eventlog.operators.folding import FoldWaitingOperator
from airflow_provider_eventlog.operators.links import BatchReportLink, reported
from airflow_provider_eventlog.operators.plan import PlanningOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine


class RunBatchOperator(PlanningOperator, FoldWaitingOperator):
    """Plans, lands, transforms, validates and loads; the arguments are those of Plan- and LoadBatchOperator.

    A retry goes on where the last attempt stopped. Pushes the report, `{"run": ..., "validate": ..., "load": ...}`.
    """

    operator_extra_links = (BatchReportLink(),)

    def work(self, engine: Engine, context: Context) -> dict[str, Any]:
        """Do all stages."""
        from airflow_provider_eventlog.core import stages

        made = self.plan(engine, context)
        for group in range(len(made.groups)):
            warn_of_loss(self.log.warning, stages.land(engine, self.pipeline, made.run_key, group))
        for group in range(len(made.groups)):
            stages.transform(engine, self.pipeline, made.run_key, group)
        with reported(engine, self.pipeline, made.run_key, self.log):
            validated = stages.validate(engine, self.pipeline, made.run_key)
        with reported(engine, self.pipeline, made.run_key, self.log):
            loaded = stages.load(engine, self.pipeline, made.run_key)
        self.log.info("loaded %s batches", len(loaded["batches"]))
        self.wait_for_windows(engine, made.run_key, loaded)
        tell_of_windows(self.log, self.pipeline, loaded)
        return {
            "run": made.run_key,
            "validate": validated["batches"],
            "load": loaded["batches"],
            "windows": loaded["windows"],
        }
