"""Load: one transaction in each target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.operators.common import run_key, tell_of_windows
from airflow_provider_eventlog.operators.folding import FoldWaitingOperator
from airflow_provider_eventlog.operators.links import BatchReportLink, reported

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine


class LoadBatchOperator(FoldWaitingOperator):
    """Loads every batch of the run into every output, in order; twice has the effect of once.

    Windows take what stands at their frontier, of this run or of others; where every output waits the task is skipped,
    or with `wait_for_fold` deferred until `fold_deadline`, as FoldWaitingOperator says.
    Pushes the report, `{"stage": "load", "batches": [...], "windows": {...}}`.
    """

    operator_extra_links = (BatchReportLink(),)

    def work(self, engine: Engine, context: Context) -> dict[str, Any]:
        """Load the run's batches."""
        from airflow_provider_eventlog.core import stages

        with reported(engine, self.pipeline, run_key(context), self.log):
            report = stages.load(engine, self.pipeline, run_key(context))
        self.log.info("loaded %s batches", len(report["batches"]))
        self.wait_for_windows(engine, run_key(context), report)
        tell_of_windows(self.log, self.pipeline, report)
        return report
