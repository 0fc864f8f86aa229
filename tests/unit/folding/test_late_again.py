"""Corrections and the late output: what final windows do not hold of a corrected generation is there, no more."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import listing
from airflow_provider_eventlog.core.folding.upgrading import upgrade
from airflow_provider_eventlog.core.rebuilding.output import rebuild_outputs
from airflow_provider_eventlog.declare import DuckDB, Hopping, Pipeline, Session, Tumbling
from tests.support.listlog import ListLog
from tests.unit.folding.world import CATCHING_UP, interval, pipeline, rows, send, windows

ACT = {"who": "me", "why": "a test"}
PLACES = "_partition, _offset, CAST((epoch_ms(_window_start) - 1704067200000) / 60000 AS INTEGER), v"


def made(where: str, window: Any = None, **more: Any) -> Pipeline:
    """Rows for which `where` holds, in windows with a table of late rows."""
    output = windows(window=window or Tumbling("1 minute"), late=DuckDB("w.duckdb", table="late"))
    return pipeline(output, stream=CATCHING_UP, transform=f"select k, v, ts from batch where {where}", **more)


def run(engine: Engine, one: Pipeline, number: int, key: str | None = None) -> dict[str, Any]:
    report: dict[str, Any] = stages.run(engine, one, interval(number), key or f"r{number}")["load"]["windows"]["w"]
    return report


def corrected(engine: Engine, to: Pipeline, number: int) -> dict[str, Any]:
    """The interval again under another recipe."""
    upgrade(engine, to, "from-next-batch", **ACT)
    report = run(engine, to, number)
    assert [fold["cause"] for fold in report["folded"]] == ["correction"]
    return report


def test_new_rows_for_final_windows_are_late_and_old_ones_go(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A correction that takes a row in and another out: the first is late, what was late of the second is no more."""
    send(log, ("a", 1, 1.0), ("a", 2, 5.0))
    # Late by themselves: their windows are final when their batch comes.
    send(log, ("a", 10, 2.0), ("a", 11, 3.0), ("a", 12, 4.0), ("a", 3, 15.0), recorded=12)
    first, second = made("v <> 11"), made("v <> 10")
    run(engine, first, 0)
    run(engine, first, 1)
    assert rows(tmp_path, PLACES, "late") == [(0, 2, 2, 10), (0, 4, 4, 12)]
    before = rows(tmp_path, "k, window_start, n, s")
    told = corrected(engine, second, 1)["folded"][0]
    assert (told["corrected_late"], told["late_gone"], told["late_pairs"]) == (1, 1, 0)
    assert rows(tmp_path, PLACES, "late") == [(0, 3, 3, 11), (0, 4, 4, 12)]
    assert rows(tmp_path, "k, window_start, n, s") == before
    (overview,) = listing.overview(engine, "p", second.canonical())
    assert (overview["late"], overview["corrected_late"], overview["late_gone"], overview["late_pairs"]) == (2, 1, 1, 2)
    again = corrected(engine, made("v <> 10 and true"), 1)["folded"][0]
    assert (again["corrected_late"], again["late_gone"]) == (0, 0)


def test_a_row_that_a_final_window_holds_is_not_late(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Rows that entered in time stay where they are by their position, also with other values; new ones are late."""
    send(log, ("a", 1, 1.0), ("a", 2, 1.5), ("a", 3, 8.0))
    run(engine, made("v <> 2"), 0)
    doubled = dataclasses.replace(made("true"), transform="select k, 2 * v as v, ts from batch")
    corrected(engine, doubled, 0)
    assert rows(tmp_path, PLACES, "late") == [(0, 1, 1, 4)]
    assert rows(tmp_path, "n, s") == [(1, 1), (1, 6)]


def test_sliding_windows_are_told_one_by_one(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A row that is taken in is late for the windows that are final, and counts in those that are open."""
    send(log, ("a", 1, 1.0), ("a", 2, 7.5), ("a", 3, 8.5))
    sliding = Hopping("3 minutes", "1 minute")
    run(engine, made("v <> 2", sliding), 0)
    told = corrected(engine, made("true", sliding), 0)["folded"][0]
    assert rows(tmp_path, PLACES, "late") == [(0, 1, 5, 2)]
    assert (told["corrected_late"], told["late_pairs"]) == (0, 1)
    assert (2, 5) in rows(tmp_path, "n, s")


def test_sessions(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A row that touches a final session is late; one that was late and is gone leaves the late output."""
    send(log, ("a", 1, 1.0), ("a", 9, 1.2), ("a", 2, 9.0))
    session = Session("1 minute", max_duration="5 minutes")
    run(engine, made("v <> 9", session), 0)
    corrected(engine, made("true", session), 0)
    assert [row[:2] for row in rows(tmp_path, "_offset, v", "late")] == [(1, 9)]
    corrected(engine, made("v < 9", session), 0)
    assert rows(tmp_path, "_offset", "late") == []
    assert rows(tmp_path, "n, s") == [(1, 1), (1, 2)]


def test_the_late_table_is_made_anew_from_the_log(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A rebuilt table of late rows is the one that corrections have left."""
    send(log, ("a", 1, 1.0), ("a", 2, 5.0))
    send(log, ("a", 10, 2.0), ("a", 11, 3.0), ("a", 3, 15.0), recorded=12)
    run(engine, made("v <> 11"), 0)
    run(engine, made("v <> 11"), 1)
    second = made("v <> 10")
    corrected(engine, second, 1)
    before = rows(tmp_path, "*", "late")
    assert [row[1] for row in before] == [11]
    assert rebuild_outputs(engine, second, "w.late", replace=True)["outputs"][0]["rows"] == 1
    assert rows(tmp_path, "*", "late") == before


@pytest.mark.parametrize("where", ["true", "v <> 2"])
def test_nothing_is_late_where_nothing_is_final(engine: Engine, log: ListLog, tmp_path: Path, where: str) -> None:
    """As long as windows are open corrections change them and the late output stays empty."""
    send(log, ("a", 1, 9.1), ("a", 2, 9.2))
    run(engine, made("v <> 1"), 0)
    corrected(engine, made(where), 0)
    assert rows(tmp_path, PLACES, "late") == []
    assert rows(tmp_path, "n") == [(2 if where == "true" else 1,)]
