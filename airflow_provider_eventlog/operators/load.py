"""Load: one transaction in each target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.operators.common import StageOperator, run_key

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine


class LoadBatchOperator(StageOperator):
    """Loads every batch of the run into every output, in order; twice has the effect of once.

    Pushes the report, `{"stage": "load", "batches": [...]}`.
    """

    def work(self, engine: Engine, context: Context) -> dict[str, Any]:
        """Load the run's batches."""
        from airflow_provider_eventlog.core import stages

        report = stages.load(engine, self.pipeline, run_key(context))
        self.log.info("loaded %s batches", len(report["batches"]))
        return report
