"""Land: copy a group's offsets to staging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.operators.common import StageOperator, figures, warn_of_loss

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine


class GroupOperator(StageOperator):
    """A stage over one group of a run's slices.

    pointer  `{"run_key": ..., "group": ...}` as plan pushes it; map over `plan.output`
    """

    template_fields: Sequence[str] = (*StageOperator.template_fields, "pointer")

    def __init__(self, *, pointer: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pointer = pointer


class LandSlicesOperator(GroupOperator):
    """Lands the slices of one group, nothing parsed and nothing dropped; a retry lands what is missing."""

    def work(self, engine: Engine, context: Context) -> None:
        """Land the group."""
        from airflow_provider_eventlog.core import stages

        report = stages.land(engine, self.pipeline, self.pointer["run_key"], self.pointer["group"])
        warn_of_loss(self.log.warning, report)
        self.log.info("landed %s slices: %s", report["slices"], figures(report["accounting"]))
