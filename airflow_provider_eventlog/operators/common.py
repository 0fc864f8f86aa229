"""What every stage's operator shares: the declaration, the engine, stopping, and which failures may be retried."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_eventlog.core.errors import DeclarationError, EventLogError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.hooks.config import open_stream_engine

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine
    from airflow_provider_eventlog.core.offsets import RunPlan
    from airflow_provider_eventlog.declare.stream import Stream

# A task log is read by people: progress at most so often, in seconds.
_PROGRESS_S = 10.0


class Verbatim:
    """A template field's text that is shown as it is: SQL may hold what Jinja takes for a template."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, context: Any, jinja_env: Any) -> str:
        """How Airflow renders a callable template field."""
        return self.text

    def serialize(self) -> str:
        """What Airflow writes into the serialised DAG."""
        return self.text


@contextmanager
def retried_only_if_it_can_help() -> Iterator[None]:
    """The one place that decides on retries: a failure that trying again cannot help fails the task at once.

    Such an EventLogError becomes AirflowFailException with the same message, chained; all else passes through and
    is retried as the task says. A `retry_policy` of the user's still rules what passes.
    """
    try:
        yield
    except EventLogError as error:
        if error.retriable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


class Progress:
    """Writes a stage's progress to a log, at a bounded rate and at its end."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._last = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report `done` of `total`."""
        if done < total and self._clock() - self._last < _PROGRESS_S:
            return
        self._last = self._clock()
        self._write(f"{what}: {done:,} of {total:,}")


class StageOperator(BaseOperator):
    """Base of the stages: `work(engine, context)` does one, on the worker.

    pipeline  the Pipeline; the worker finds it by parsing the DAG file, Airflow stores its declaration only

    Nothing is opened before `execute`. A kill stops the stage at its next step, within seconds; what it had not
    published is dropped, and a retry goes on from there.
    """

    template_fields: Sequence[str] = ("declaration",)
    template_fields_renderers = {"declaration": "json"}  # noqa: RUF012
    shallow_copy_attrs: Sequence[str] = ("pipeline",)
    ui_color = "#e8eef7"
    _cancel: threading.Event | None = None

    def __init__(self, *, pipeline: Pipeline, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = checked_pipeline(type(self).__name__, pipeline)
        self.declaration: Any = Verbatim(pipeline.serialize())

    def execute(self, context: Context) -> Any:
        """Do the stage."""
        return self.staged(context)

    def staged(self, context: Context) -> Any:
        """Open the engine and do the stage."""
        self._cancel = threading.Event()
        with retried_only_if_it_can_help():
            with open_stream_engine(
                self.pipeline.stream, cancel=self._cancel, progress=Progress(self.log.info)
            ) as opened:
                return self.work(opened, context)

    def work(self, engine: Engine, context: Context) -> Any:
        """Do the stage."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """Stop at the next step."""
        if self._cancel is not None:
            self._cancel.set()


def tell_of_windows(log: Any, pipeline: Pipeline, loaded: Mapping[str, Any]) -> None:
    """Say what the windows took and what they wait for; AirflowSkipException if that leaves nothing that was loaded."""
    from airflow_provider_eventlog.core import stages

    for line in stages.windows_lines(loaded["windows"]):
        log.info(line)
    reports = loaded["windows"].values()
    if len(reports) == len(pipeline.outputs) and all(r["waiting"] and not r["folded"] for r in reports):
        raise AirflowSkipException("Every output of the pipeline has windows that wait; the log above says for what.")


def checked_pipeline(where: str, pipeline: object) -> Pipeline:
    """`pipeline` if it is one; else DeclarationError."""
    if not isinstance(pipeline, Pipeline):
        raise DeclarationError(f"{where}: pipeline={printable(pipeline)} must be a Pipeline.")
    return pipeline


def run_key(context: Context) -> str:
    """The name under which ledger and tasks know a DAG run: the same through retries and clears."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def warn_of_loss(warn: Callable[[str], object], landed: Mapping[str, Any]) -> None:
    """Say which offsets are lost by a report of land."""
    from airflow_provider_eventlog.core import stages

    said = stages.loss_headline(landed)
    if said is not None:
        warn(said)


def warn_of_expiry(
    warn: Callable[[str], object], say: Callable[[str], object], engine: Engine, stream: Stream, made: RunPlan
) -> None:
    """Say behind a plan what expires soon, where the plan has just asked Kafka for new batches.

    Never a failure of the plan: where the forecast cannot be made, `say` is told why.
    """
    from airflow_provider_eventlog.core.forecast import Expiry, forecast

    if not any(planned.mode == "new" for planned in made.batches):
        return
    source = engine.source(stream)
    found = forecast(engine.ledger, source, stream.name, engine.clock(), exact=False, looked=made.looked)
    if found.warning is not None:
        warn(found.warning)
    if found.expiry is Expiry.UNKNOWN:
        say(f"retention forecast: {found.text}")


def figures(accounting: Mapping[str, Any]) -> str:
    """Counts for one line of a log."""
    return ", ".join(f"{name} {value:,}" for name, value in accounting.items() if isinstance(value, int))
