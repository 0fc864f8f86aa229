"""Looking at completeness: the command, the report, check, and tables of counts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import checking
from airflow_provider_eventlog.core.errors import CountsUnavailableError, IncompleteError, TopicNotFoundError
from airflow_provider_eventlog.core.report.collect import collect
from airflow_provider_eventlog.core.report.html import page
from airflow_provider_eventlog.declare import CountsTable, DuckDB, Rows, Sequence, Tumbling, Windows
from tests.unit.completeness.world import MINUTE, T0, World, counts, of, pipeline

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two producers with numbers, and a third one that has lost a record; nothing is run yet."""
    made = World(tmp_path)
    made.send(*of("a", 1, 2), at=1)
    made.send(*of(HOSTILE, 4), at=2)
    made.publish("a", 0, 2)
    made.publish(HOSTILE, 0, 2)
    return made


def asked(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> tuple[int, Any]:
    """Exit code and document of a command."""
    capsys.readouterr()
    where = ("--ledger", str(home / "ledger.sqlite"), "--staging-root", str(home / "staging"))
    code = main([words[0], "--home", str(home), *where, *words[1:], "--output", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_lists_intervals_sequences_and_windows(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each interval stands once with its newest verdict, sequences by batch and over all, windows with their counts."""
    outputs = [
        Rows(DuckDB("out.duckdb", table="t")),
        Windows(Tumbling("5 minutes"), aggregates={"c": "count(*)"}, target=DuckDB("out.duckdb", table="w")),
    ]
    made = pipeline(counts(on_fail="warn"), Sequence(by=["d"], column="n"), outputs=outputs)
    world.run(made, 0)
    code, document = asked(capsys, tmp_path, "completeness", "--pipeline", "p", "--windows", "w")
    assert code == 0
    assert [(i["producer"], i["expected"], i["found"], i["verdict"]) for i in document["intervals"]] == [
        (HOSTILE, 2, 1, "short"),
        ("a", 2, 2, "complete"),
    ]
    assert [(s["numbers"], s["missing"], s["first"][0]["low"]) for s in document["standing"]] == [(3, 1, 3)]
    assert [(w["expected"], w["found"], w["share"], w["verdict"]) for w in document["windows"]] == [
        (4, 3, 0.75, "short")
    ]
    world.send(*of(HOSTILE, 3), at=9)
    world.send(*of("a", 5), at=11)
    world.run(made, 1)
    _, document = asked(capsys, tmp_path, "completeness", "--pipeline", "p")
    newest = {(i["producer"], i["start"][11:16]): (i["found"], i["verdict"]) for i in document["intervals"]}
    assert newest == {
        (HOSTILE, "00:00"): (2, "complete"), ("a", "00:00"): (2, "complete"), ("a", "00:10"): (1, "missing"),
    }  # fmt: skip
    assert [(s["numbers"], s["missing"]) for s in document["standing"]] == [(5, 0)]
    assert [(s["filled"], s["missing"]) for s in document["sequences"]] == [(0, 1), (1, 0)]
    _, only = asked(capsys, tmp_path, "completeness", "--pipeline", "p", "--verdict", "missing", "--limit", "1")
    assert [i["producer"] for i in only["intervals"]] == ["a"]
    assert asked(capsys, tmp_path, "completeness", "--pipeline", "p", "--windows", "x")[0] == 2
    assert asked(capsys, tmp_path, "completeness", "--pipeline", "p", "--limit", "0")[0] == 2
    assert asked(capsys, tmp_path, "completeness", "--pipeline", "p", "--batch", "x")[0] == 2
    where = ("--home", str(tmp_path), "--ledger", str(tmp_path / "ledger.sqlite"))
    assert main(["completeness", "--pipeline", "p", *where, "--staging-root", str(tmp_path / "staging")]) == 0
    assert "sequences over all batches" in capsys.readouterr().out


def test_a_report_shows_the_verdict_and_runs_nothing(world: World) -> None:
    """The page names the rule that holds, with its interval; a producer's name in it is text."""
    with pytest.raises(IncompleteError):
        world.validated(pipeline(counts(), Sequence(by=["d"], column="n")), 0)
    with world.engine() as engine:
        (held,) = engine.ledger.generations("p")
        document = collect(engine, "p", held.batch_id)
    assert document["gate"]["rules"] == ["completeness counts"]
    shown = page(document)
    assert "3 of 4 published records were landed (75 %" in shown
    assert HOSTILE not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_check_asks_for_the_control_topic(world: World) -> None:
    """`eventlog check` tells of the control topic, and fails where it is missing; nothing is written."""
    with world.engine() as engine:
        found = checking.check_all(engine, pipeline(counts()))["checked"]
        assert found["completeness counts"] == "topic orders_counts, 1 partitions"
    world.missing = True
    with world.engine() as engine, pytest.raises(TopicNotFoundError, match="control topic 'orders_counts'"):
        checking.check_all(engine, pipeline(counts()))
    assert not (world.home / "staging" / "s").exists()


def duckdb_table(home: Path, rows: list[tuple[Any, ...]]) -> str:
    """A table of timestamps in DuckDB."""
    with duckdb.connect(str(home / "counts.duckdb")) as connection:
        connection.execute(
            'CREATE OR REPLACE TABLE sent (producer VARCHAR, "from" TIMESTAMP, "to" TIMESTAMP, n BIGINT)'
        )
        for producer, low, high, n in rows:
            connection.execute("INSERT INTO sent VALUES (?, epoch_ms(?), epoch_ms(?), ?)", [producer, low, high, n])
    return f"duckdb:///{home / 'counts.duckdb'}"


def sqlite_table(home: Path, rows: list[tuple[Any, ...]]) -> str:
    """A table of milliseconds in SQLite."""
    connection = sqlite3.connect(home / "counts.sqlite")
    connection.execute('CREATE TABLE IF NOT EXISTS sent (producer, "from", "to", n)')
    connection.execute("DELETE FROM sent")
    connection.executemany("INSERT INTO sent VALUES (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return f"sqlite:///{home / 'counts.sqlite'}"


@pytest.mark.parametrize("table", [duckdb_table, sqlite_table])
def test_counts_of_a_table(world: World, table: Callable[[Path, list[tuple[Any, ...]]], str]) -> None:
    """Counts stand in a table as well; rows that say nothing are told, and what changes later changes no verdict."""
    high = T0 + 10 * MINUTE
    rows = [("a", T0, high, 2), (HOSTILE, T0, high, 1), ("a", T0 + 1, high, 2), (None, T0, high, 2)]
    url = table(world.home, rows)
    rule = counts(source=CountsTable(url, "sent", start="from", end="to", count="n"))
    with world.engine() as engine:
        assert "can be read" in checking.check_all(engine, pipeline(rule))["checked"]["completeness counts"]
    found = world.validated(pipeline(rule), 0)["counts"]["counts"]
    assert (found["verdicts"], found["published"]["malformed"]) == (
        {"complete": 2},
        {"no_producer": 1, "not_an_interval": 1},
    )
    table(world.home, [])
    assert world.validated(pipeline(rule), 0)["counts"]["counts"] == found
    missing = counts(source=CountsTable(url, "sent2"))
    with world.engine() as engine, pytest.raises(CountsUnavailableError, match="'sent2' cannot be read"):
        checking.check_all(engine, pipeline(missing))
