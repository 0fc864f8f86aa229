"""Redriven rows in windows: they take part once, by the policy that late rows have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, RecipeChangedError
from airflow_provider_eventlog.core.folding.upgrading import upgrade
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.selection import Selection
from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import CATCHING_UP, MINUTE, SHOWN, T0, interval, pipeline, rows, send, windows

WORDS = {"who": "eve", "why": "the limit was wrong"}
SMALL = Check("small", "v < 10", on_fail="quarantine")


@pytest.fixture
def log() -> ListLog:
    return ListLog([], [])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    ticks = iter(range(10**9))
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE + next(ticks)) as made:
        yield made


def strict(*outputs: Any, **more: Any) -> Pipeline:
    return pipeline(*outputs, **{"stream": CATCHING_UP, "max_quarantine_ratio": 1.0, "checks": [SMALL], **more})


def redrive(engine: Engine, made: Pipeline, **more: Any) -> dict[str, Any]:
    request = RunRequest("redrive", selection=Selection(), **WORDS, **more)
    report: dict[str, Any] = stages.run(engine, made, request)["load"]["windows"]["w"]
    return report


@pytest.mark.parametrize("on_late", ["late", "amend"])
def test_open_and_final_windows_by_policy(engine: Engine, log: ListLog, tmp_path: Path, on_late: str) -> None:
    """A redriven row enters an open window; a final one stays and the row is late, or it is amended, as declared."""
    output = windows(on_late=on_late, **({"late": DuckDB("w.duckdb", table="late")} if on_late == "late" else {}))
    send(log, ("a", 1, 1.0), ("a", 20, 1.5), ("a", 2, 9.2), ("a", 30, 9.5))
    stages.run(engine, strict(output), interval(0), "r0")
    assert rows(tmp_path, SHOWN) == [("a", 1.0, 1, 1, True, 1), ("a", 9.0, 1, 2, False, 1)]
    relaxed = strict(output, checks=[dataclasses.replace(SMALL, expression="v < 100")])
    with pytest.raises(RecipeChangedError, match="checks was"):
        redrive(engine, relaxed)
    upgrade(engine, relaxed, "from-next-batch", **WORDS)
    folded = redrive(engine, relaxed)["folded"]
    assert [one["cause"] for one in folded] == ["correction"]
    first = ("a", 1.0, 2, 21, True, 2) if on_late == "amend" else ("a", 1.0, 1, 1, True, 1)
    assert [row[:5] for row in rows(tmp_path, SHOWN)] == [first[:5], ("a", 9.0, 2, 32, False)]
    assert next(row[5] for row in rows(tmp_path, SHOWN) if row[1] == 1.0) == first[5]
    if on_late == "late":
        assert rows(tmp_path, "v, _reason, _offset", "late") == [(20, "final before the row came", 1)]


def test_a_gate_that_held_windows_back_lets_all_go_on(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Later intervals wait behind a held batch; its redrive lets every one of them enter, as if it had been right."""
    held = Check("small", "v < 10", on_fail="quarantine", tolerance=0)
    send(log, ("a", 1, 1.0), ("a", 20, 2.0), ("a", 3, 11.0), ("a", 4, 21.0))
    made = strict(checks=[held])
    with pytest.raises(CheckFailedError):
        stages.run(engine, made, interval(0), "r0")
    for number in (1, 2):
        report = stages.run(engine, made, interval(number), f"r{number}")["load"]["windows"]["w"]
        assert (report["folded"], "the gate holds" in report["waiting"]) == ([], True)
    reads = list(log.reads)
    relaxed = strict(checks=[dataclasses.replace(held, expression="v < 100")])
    redrive(engine, relaxed)
    assert log.reads == reads
    stages.run(engine, relaxed, interval(1), "r1")
    stages.run(engine, relaxed, interval(2), "r2")
    assert rows(tmp_path, "k, n, s") == [("a", 1, 1), ("a", 1, 3), ("a", 1, 4), ("a", 1, 20)]
