"""`@task.eventlog`: a user's function over one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.pipeline import FRAMES, Pipeline
from airflow_provider_eventlog.hooks.config import open_stream_engine
from airflow_provider_eventlog.operators.common import (
    Progress,
    Verbatim,
    checked_pipeline,
    retried_only_if_it_can_help,
    warn_of_expiry,
    warn_of_loss,
)
from airflow_provider_eventlog.operators.plan import plan_run
from airflow_provider_eventlog.operators.request import Planning

if TYPE_CHECKING:
    from airflow.sdk import Context

# Holds the place of the batch among the arguments until the worker has it.
_BATCH = "(the batch)"


class EventLogDecoratedOperator(DecoratedOperator):
    """Plans and lands this run's batch, and calls the function with its typed rows.

    pipeline  its stream says what is read, its `decode` how; its transform, checks and outputs are not applied
    frame     "arrow": a pyarrow.Table, "pandas": a DataFrame
    read, gap, parallelism, max_batches_per_run  as PlanBatchOperator has them

    The rows come in partition and offset order with the decoded columns and `_key, _timestamp, _headers,
    _partition, _offset`; an empty batch has the same columns. What the function returns is pushed. A retry is given
    the same rows.
    """

    custom_operator_name = "@task.eventlog"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, "declaration")
    template_fields_renderers = {**DecoratedOperator.template_fields_renderers, "declaration": "json"}  # noqa: RUF012
    shallow_copy_attrs: Sequence[str] = (*DecoratedOperator.shallow_copy_attrs, "pipeline")
    _cancel: threading.Event | None = None

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        python_callable: Callable[..., Any],
        task_id: str,
        frame: str = "arrow",
        read: str = "interval",
        gap: str | None = None,
        parallelism: int = 4,
        max_batches_per_run: int | None = None,
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        checked_pipeline("@task.eventlog", pipeline)
        if frame not in FRAMES:
            raise DeclarationError(f"@task.eventlog: frame={printable(frame)} must be 'arrow' or 'pandas'.")
        super().__init__(
            python_callable=python_callable,
            task_id=task_id,
            op_args=(_BATCH, *(op_args or ())),
            op_kwargs=op_kwargs,
            **kwargs,
        )
        self.pipeline, self.frame = pipeline, frame
        self.planning = Planning(read, gap, parallelism, max_batches_per_run)
        self.declaration: Any = Verbatim(pipeline.serialize())

    def execute(self, context: Context) -> Any:
        """Plan, land, and call the function."""
        self._cancel = threading.Event()
        with retried_only_if_it_can_help():
            batch = self._batch(context)
        _, *arguments = self.op_args
        named = self.determine_kwargs({**context, **self.op_kwargs})
        return self._handle_output(return_value=self.python_callable(batch, *arguments, **named))

    def _batch(self, context: Context) -> Any:
        from airflow_provider_eventlog.core import stages

        engine = open_stream_engine(self.pipeline.stream, cancel=self._cancel, progress=Progress(self.log.info))
        with engine:
            made = plan_run(engine, self.pipeline, self.planning, context, self.log.info)
            warn_of_expiry(self.log.warning, self.log.info, engine, self.pipeline.stream, made)
            for group in range(len(made.groups)):
                warn_of_loss(self.log.warning, stages.land(engine, self.pipeline, made.run_key, group))
            table = stages.batch_table(engine, self.pipeline, made.run_key)
        return table.to_pandas() if self.frame == "pandas" else table

    def on_kill(self) -> None:
        """Stop planning or landing at the next step."""
        if self._cancel is not None:
            self._cancel.set()


def eventlog_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a function a task over one batch: `@task.eventlog(pipeline=..., frame="arrow")`.

    The function's first argument is the batch; call it without. The other arguments are those of
    EventLogDecoratedOperator.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=EventLogDecoratedOperator,
        **kwargs,
    )
