"""Validate: the gate before anything is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.operators.common import StageOperator, run_key
from airflow_provider_eventlog.operators.links import BatchReportLink, reported

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine


class ValidateBatchOperator(StageOperator):
    """Proves every batch of the run whole and balanced; a broken check holds it, and nothing of the run loads.

    Pushes the report, `{"stage": "validate", "batches": [...]}`.
    """

    operator_extra_links = (BatchReportLink(),)

    def work(self, engine: Engine, context: Context) -> dict[str, Any]:
        """Validate the run's batches."""
        from airflow_provider_eventlog.core import stages

        with reported(engine, self.pipeline, run_key(context), self.log):
            report = stages.validate(engine, self.pipeline, run_key(context))
        self.log.info("validated %s batches", len(report["batches"]))
        return report
