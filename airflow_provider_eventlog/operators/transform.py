"""Transform: from landed bytes to checked rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_eventlog.operators.common import figures
from airflow_provider_eventlog.operators.land import GroupOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine


class TransformSlicesOperator(GroupOperator):
    """Decodes and transforms the slices of one group and checks their rows; a retry does what is missing."""

    def work(self, engine: Engine, context: Context) -> None:
        """Transform the group."""
        from airflow_provider_eventlog.core import stages

        report = stages.transform(engine, self.pipeline, self.pointer["run_key"], self.pointer["group"])
        self.log.info("transformed %s slices: %s", report["slices"], figures(report["accounting"]))
