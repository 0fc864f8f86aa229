"""Runs that take no new offsets: a release or a skip on a worker, and what was left before loading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, RequestError
from airflow_provider_eventlog.core.requests import Act, RunRequest
from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline, Rows
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import CATCHING_UP, MINUTE, T0, interval, pipeline, rows, send, up_to_validated, windows

WORDS = {"who": "eve", "why": "known"}
HOLDING = Check("small", "v < 10", on_fail="quarantine", tolerance=0)


@pytest.fixture
def log() -> ListLog:
    return ListLog([], [])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    ticks = iter(range(10**9))
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE + next(ticks)) as made:
        yield made


def strict() -> Pipeline:
    outputs = [Rows(DuckDB("w.duckdb", table="t")), windows()]
    return pipeline(*outputs, stream=CATCHING_UP, max_quarantine_ratio=1.0, checks=[HOLDING])


def held(engine: Engine, log: ListLog) -> str:
    """Three intervals, of which the gate holds the first; its batch."""
    send(log, ("a", 1, 1.0), ("a", 20, 2.0), ("a", 3, 11.0), ("a", 4, 21.0))
    with pytest.raises(CheckFailedError):
        stages.run(engine, strict(), interval(0), "r0")
    for number in (1, 2):
        stages.run(engine, strict(), interval(number), f"r{number}")
    return engine.ledger.run_plan("r0", "p").batches[0].batch.batch_id


def resume(engine: Engine, act: Act | None = None, key: str = "m", **more: Any) -> dict[str, Any]:
    return stages.run(engine, strict(), RunRequest("resume", act=act, **(WORDS if act else {}), **more), key)


def test_a_release_is_decided_and_done_by_one_run(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The run releases in its user's name, loads the held batch from staging, and windows take all that waited."""
    batch = held(engine, log)
    reads, asked = list(log.reads), list(log.asked)
    done = resume(engine, Act("release", batch))
    assert [(b["batch_id"], b["generation"]) for b in done["load"]["batches"]] == [(batch, 1)]
    assert (log.reads, log.asked) == (reads, asked)
    assert rows(tmp_path, "v", "t") == [(1,), (3,), (4,)]
    assert rows(tmp_path, "n, s") == [(1, 1), (1, 3), (1, 4)]
    (decision,) = engine.ledger.decisions("s", gate.RELEASE)
    assert (decision.who, decision.why, decision.batch_id) == ("eve", "known", batch)
    again = resume(engine, Act("release", batch))
    assert (again["run"]["batches"], len(engine.ledger.decisions("s"))) == (done["run"]["batches"], 1)


def test_a_killed_release_is_not_decided_twice(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Where the decision stood and the plan did not, the run that is tried again goes on with it."""
    batch = held(engine, log)
    gate.release(engine, "p", batch, **WORDS)
    resume(engine, Act("release", batch))
    assert (len(engine.ledger.decisions("s")), rows(tmp_path, "v", "t")) == (1, [(1,), (3,), (4,)])


def test_a_release_is_of_one_pipeline(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Where two pipelines hold the same batch, the release of one is none of the other, which is decided by itself."""
    other = Pipeline("q", stream=CATCHING_UP, outputs=[Rows(DuckDB("w.duckdb", table="q"))], checks=[HOLDING],
                     max_quarantine_ratio=1.0)  # fmt: skip
    batch = held(engine, log)
    with pytest.raises(CheckFailedError):
        stages.run(engine, other, interval(0), "q0")
    resume(engine, Act("release", batch))
    stages.run(engine, other, RunRequest("resume", act=Act("release", batch), **WORDS), "mine")
    assert [(d.pipeline, d.batch_id) for d in engine.ledger.decisions("s", gate.RELEASE)] == [
        ("p", batch),
        ("q", batch),
    ]
    assert rows(tmp_path, "v", "q") == [(1,)]


def test_a_skip_lets_windows_pass(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Windows pass the held batch and take what came behind it; its rows stay out, and nothing is released."""
    batch = held(engine, log)
    done = resume(engine, Act("skip", batch))
    assert (done["run"]["batches"], [d.kind for d in engine.ledger.decisions("s")]) == ([], ["skip"])
    assert rows(tmp_path, "n, s") == [(1, 3), (1, 4)]
    assert rows(tmp_path, "v", "t") == [(3,), (4,)]
    resume(engine, Act("skip", batch), "once more")
    assert len(engine.ledger.decisions("s")) == 1


def test_what_was_validated_and_never_loaded_is_loaded(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Resume takes generations that stand before loading, whichever run made them, and nothing else."""
    send(log, ("a", 1, 1.0), ("a", 3, 11.0))
    up_to_validated(engine, strict(), interval(0), "r0")
    done = resume(engine)
    assert [b["generation"] for b in done["load"]["batches"]] == [1]
    assert (rows(tmp_path, "v", "t"), rows(tmp_path, "n, s")) == ([(1,)], [(1, 1)])
    assert resume(engine, key="later")["run"]["batches"] == []
    assert done["run"]["notes"] == ["1 batches that were left before loading are loaded; windows take what they can."]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (Act("release", "none"), "is not held"),
        (Act("skip", "none"), "is no chain batch"),
        (Act("skip", hole=T0), "No windows of pipeline 'p' wait"),
    ],
    ids=str,
)
def test_an_act_that_has_no_object_changes_nothing(engine: Engine, log: ListLog, act: Act, message: str) -> None:
    """A release of what is not held and a skip of what nothing waits for are refused before anything is bound."""
    held(engine, log)
    with pytest.raises(RequestError, match=message):
        resume(engine, act)
    assert (engine.ledger.decisions("s"), engine.ledger.run("m", "p")) == ((), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "resume", "act": Act("release", "b")},
        {"mode": "since_last", "act": Act("release", "b"), **WORDS},
        {"mode": "resume", "recompute": True},
        {"mode": "redrive", **WORDS},
    ],
    ids=str,
)
def test_requests_without_meaning_are_refused(wrong: dict[str, Any]) -> None:
    """An act without who and why, with another mode, or computed anew, and a redrive of nothing, are no requests."""
    with pytest.raises(RequestError):
        RunRequest(**wrong)
    for values in (("release", None, None), ("skip", "b", 1), ("forget", "b", None)):
        with pytest.raises(RequestError):
            Act(*values)


def test_a_stream_that_was_never_planned_has_nothing_left(engine: Engine) -> None:
    """Without a plan there is nothing to go on with, and the message says so."""
    with pytest.raises(RequestError, match="never planned"):
        resume(engine)
