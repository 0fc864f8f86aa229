"""Loads that wait for windows: deferred without a worker, gone on with when the way is free, ended by a deadline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, DeclarationError
from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline, Rows
from airflow_provider_eventlog.operators import common, folding
from airflow_provider_eventlog.operators.load import LoadBatchOperator
from airflow_provider_eventlog.operators.run import RunBatchOperator
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import CATCHING_UP, MINUTE, T0, interval, pipeline, rows, send, up_to_validated, windows


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that the operators get too; the gate holds the first of two intervals."""
    log, ticks = ListLog([], []), iter(range(10**9))
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE + next(ticks)) as made:

        @contextmanager
        def opened(*_: object, **__: object) -> Iterator[Engine]:
            yield made

        monkeypatch.setattr(common, "open_stream_engine", opened)
        send(log, ("a", 1, 1.0), ("a", 20, 2.0), ("a", 3, 11.0))
        with pytest.raises(CheckFailedError):
            stages.run(made, strict(), interval(0), "d/r0")
        up_to_validated(made, strict(), interval(1), "d/r1")
        yield made


def strict() -> Pipeline:
    holding = Check("small", "v < 10", on_fail="quarantine", tolerance=0)
    outputs = [Rows(DuckDB("w.duckdb", table="t")), windows()]
    return pipeline(*outputs, stream=CATCHING_UP, max_quarantine_ratio=1.0, checks=[holding])


def context(run_id: str = "r1") -> Any:
    return {"dag_run": SimpleNamespace(dag_id="d", run_id=run_id), "ti": SimpleNamespace(xcom_push=lambda **_: None)}


def load(**more: Any) -> LoadBatchOperator:
    return LoadBatchOperator(task_id="load", pipeline=strict(), **more)


def test_without_it_a_load_ends_and_says_what_windows_wait_for(engine: Engine, tmp_path: Path) -> None:
    """By default rows are loaded, windows wait, and the task is done."""
    report = load().execute(context())
    assert "the gate holds" in report["windows"]["w"]["waiting"]
    assert rows(tmp_path, "v", "t") == [(3,)]


def test_a_waiting_load_is_deferred_and_goes_on(engine: Engine, tmp_path: Path) -> None:
    """Rows load at once; the task steps aside with its deadline, and ends when windows can take its batch."""
    task = load(wait_for_fold=True, fold_deadline="2 hours")
    with pytest.raises(TaskDeferred) as first:
        task.execute(context())
    assert rows(tmp_path, "v", "t") == [(3,)]
    assert first.value.method_name == "look_again"
    kept = dict(first.value.kwargs or {})
    with pytest.raises(TaskDeferred) as second:
        load(wait_for_fold=True).look_again(context(), None, **kept)
    assert dict(second.value.kwargs or {}) == kept
    batch = engine.ledger.run_plan("d/r0", "p").batches[0].batch.batch_id
    gate.release(engine, "p", batch, who="me", why="a test")
    stages.validate(engine, strict(), "d/r0")
    report = load(wait_for_fold=True).look_again(context(), None, **kept)
    assert [fold["cause"] for fold in report["windows"]["w"]["folded"]] == ["batch", "batch"]
    assert rows(tmp_path, "n, s") == [(1, 1), (1, 3)]


def test_a_deadline_ends_the_wait_for_good(engine: Engine, tmp_path: Path) -> None:
    """Past its deadline the task fails at once, says what windows wait for, and what was loaded stays."""
    with pytest.raises(AirflowFailException, match=r"FoldDeadlineError.*have not taken batch.*the gate holds"):
        load(wait_for_fold=True).look_again(context(), None, until=1.0)
    assert rows(tmp_path, "v", "t") == [(3,)]


def test_one_task_for_all_stages_waits_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """RunBatchOperator takes the same arguments and is deferred behind its load."""
    task = RunBatchOperator(task_id="run", pipeline=strict(), wait_for_fold=True)
    monkeypatch.setattr(task, "plan", lambda engine, _: engine.ledger.run_plan("d/r1", "p"))
    with pytest.raises(TaskDeferred):
        task.execute(context())


def test_a_pause_ends_with_the_deadline(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look comes after a minute, or at the deadline where that is earlier."""
    monkeypatch.setattr(folding.time, "time", lambda: 1000.0)
    paused = []
    for until in (5000.0, 1007.0):
        with pytest.raises(TaskDeferred) as deferred:
            load(wait_for_fold=True).look_again(context(), None, until=until)
        paused.append(deferred.value.trigger.moment)
    assert timedelta(seconds=52) < paused[0] - paused[1] < timedelta(seconds=54)


@pytest.mark.parametrize("given", [{"wait_for_fold": "yes"}, {"fold_deadline": "soon"}])
def test_malformed_arguments_are_refused(given: dict[str, Any]) -> None:
    """A malformed argument is refused where the DAG is parsed."""
    with pytest.raises(DeclarationError):
        load(**given)
