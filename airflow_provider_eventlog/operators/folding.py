"""Waiting for windows: a task that has loaded its rows steps aside until they have taken its run's batches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import DeclarationError, FoldDeadlineError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.duration import milliseconds
from airflow_provider_eventlog.operators.common import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_eventlog.core.engine import Engine

# Between two looks; each opens the ledger on a worker for a moment.
_LOOK_S = 60.0
DEADLINE = "1 day"


class FoldWaitingOperator(StageOperator):
    """A stage operator that may wait for windows.

    wait_for_fold  whether to wait where the windows have not taken the run's batches yet: behind a hole or a held
                   batch. The task is deferred, so that it holds no worker; each look folds what can be folded by then
    fold_deadline  after how long the task gives up; what was loaded stays, and a later load folds the rest

    Raises DeclarationError for values without meaning.
    """

    def __init__(
        self, *, wait_for_fold: bool = False, fold_deadline: str | timedelta | float = DEADLINE, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(wait_for_fold, bool):
            raise DeclarationError(f"wait_for_fold={printable(wait_for_fold)} must be True or False.")
        self.wait_for_fold = wait_for_fold
        self.fold_deadline_s = milliseconds("fold_deadline", fold_deadline) / 1000
        self._until: float | None = None

    def look_again(self, context: Context, event: Mapping[str, Any] | None = None, until: float = 0.0) -> Any:
        """What a deferred task goes on with: all of it once more, which finds what is done."""
        self._until = until
        return self.staged(context)

    def wait_for_windows(self, engine: Engine, run_key: str, loaded: Mapping[str, Any]) -> None:
        """Step aside if windows have not taken the run's batches; FoldDeadlineError when the time is over.

        loaded  the report of load
        """
        from airflow_provider_eventlog.core import stages

        waits = stages.unfolded(engine, self.pipeline, run_key, loaded["windows"]) if self.wait_for_fold else []
        if not waits:
            return
        until = time.time() + self.fold_deadline_s if self._until is None else self._until
        left = until - time.time()
        if left <= 0:
            raise FoldDeadlineError(
                f"Windows have not taken the batches of this run within {timedelta(seconds=self.fold_deadline_s)}: "
                f"{'; '.join(waits)}. What was loaded stays, and the next load of any run folds them once nothing is "
                f"in the way; clear this task to wait on."
            )
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        for line in waits:
            self.log.info("waiting: %s", line)
        pause = timedelta(seconds=min(_LOOK_S, left))
        self.defer(trigger=TimeDeltaTrigger(pause), method_name="look_again", kwargs={"until": until})
