"""From a task to the reports of its run's batches: written by the task, shown by Airflow's own server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from airflow_provider_eventlog.core.errors import BatchHeldError

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from airflow_provider_eventlog.core.engine import Engine
    from airflow_provider_eventlog.declare.pipeline import Pipeline


class BatchReportLink(BaseOperatorLink):
    """A button on the task: the reports of what its run took, as a page of `plugins.reports`."""

    name = "Batch report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The path on the server that shows the task; what is there is decided when somebody looks."""
        pipeline = getattr(operator, "pipeline", None)
        if pipeline is None:
            return ""
        # A server behind a prefix has it in its address; a path stays on the host by which it was reached.
        prefix = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
        words = (quote(str(word), safe="") for word in (ti_key.dag_id, ti_key.run_id, pipeline.name))
        return f"{prefix}/eventlog/report/{'/'.join(words)}"


@contextmanager
def reported(engine: Engine, pipeline: Pipeline, run_key: str, log: Any) -> Iterator[None]:
    """Publish the reports of a run's batches behind a stage, also where the gate holds one of them.

    A page for people never fails a batch: what goes wrong with it is logged.
    """
    try:
        yield
    except BatchHeldError:
        _publish(engine, pipeline, run_key, log)
        raise
    _publish(engine, pipeline, run_key, log)


def _publish(engine: Engine, pipeline: Pipeline, run_key: str, log: Any) -> None:
    try:
        from airflow_provider_eventlog.core.report.publish import publish

        bound = engine.ledger.run(run_key, pipeline.name)
        for batch_id, generation, _ in bound.batches if bound is not None else ():
            log.info("report: %s", publish(engine, pipeline.name, batch_id, generation))
    except Exception as error:
        log.warning("the report of this run could not be written: %s: %s", type(error).__name__, error)
