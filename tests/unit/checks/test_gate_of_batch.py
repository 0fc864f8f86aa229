"""Checks of a batch at the gate: what they hold is not loaded, can be released, compared, reported and rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.difference import difference
from airflow_provider_eventlog.core.engine import Engine, open_target_at
from airflow_provider_eventlog.core.errors import CheckDefinitionError, CheckFailedError
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.core.rebuilding.ledger import rebuild_ledger
from airflow_provider_eventlog.core.report.collect import collect
from airflow_provider_eventlog.core.report.html import page
from airflow_provider_eventlog.declare import ColumnChecks, DuckDB, Pipeline, Rows, TableChecks
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import MINUTE, SINCE_LAST, STREAM, T0, send, up_to_validated

POSITIVE = ColumnChecks({"v": {"min": {"greater_than": 0}, "null_check": {"equal_to": 0}}})
FEW = TableChecks({"few": {"check_statement": "count(*) < 3"}}, on_fail="warn")


def pipeline(*checks: ColumnChecks | TableChecks) -> Pipeline:
    """Rows of keys and values, with checks of the batch."""
    return Pipeline("p", stream=STREAM, batch_checks=checks, outputs=[Rows(DuckDB("w.duckdb", table="w"))])


@pytest.fixture
def log() -> ListLog:
    """Two partitions; the least value is on the second one."""
    made = ListLog([], [])
    send(made, ("a", 1, 0), ("b", 2, 1))
    send(made, ("c", -7, 2), ("d", 4, 3), partition=1)
    return made


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    """An engine ten hours after the first event."""
    ticks = iter(range(10**9))
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE + next(ticks)) as made:
        yield made


def held(engine: Engine) -> str:
    """Run until the gate holds the batch; its id."""
    with pytest.raises(CheckFailedError, match=r"'v\.min' .*greater_than 0\).* its result is -7"):
        up_to_validated(engine, pipeline(POSITIVE, FEW), SINCE_LAST, "r")
    run = engine.ledger.run("r", "p")
    assert run is not None
    return run.batches[0][0]


def figures(engine: Engine, batch_id: str) -> dict[str, Any]:
    """The accounting of the batch's newest generation."""
    return dict(engine.ledger.generations("p", batch_id)[-1].accounting or {})


def test_a_broken_check_holds_the_batch_until_it_is_released(engine: Engine, tmp_path: Path) -> None:
    """Nothing is loaded before; the same results stand after release, in ledger and commit alike, at each attempt."""
    batch_id = held(engine)
    before = figures(engine, batch_id)
    assert before["measured"] == {"v.min": -7, "v.null_check": 0, "few": 0}
    assert {name: told["holds"] for name, told in before["checks"].items()} == {"v.min": True, "few": False}
    assert not (tmp_path / "w.duckdb").exists()
    gate.release(engine, "p", batch_id, who="me", why="known")
    for _ in range(2):
        stages.validate(engine, pipeline(POSITIVE, FEW), "r")
        stages.load(engine, pipeline(POSITIVE, FEW), "r")
        assert figures(engine, batch_id) == before
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*), min(v) FROM w").fetchall() == [(4, -7)]


def test_diff_says_what_a_corrected_check_would_do(engine: Engine, log: ListLog) -> None:
    """From staging alone, with the topic empty by then: both verdicts, and that the gate would let the batch pass."""
    batch_id = held(engine)
    log.values[0].clear()
    log.values[1].clear()
    corrected = pipeline(ColumnChecks({"v": {"min": {"greater_than": -10}}}))
    made = difference(engine, corrected, batch_id)
    assert made["gate"] == {
        "before": {"holds": True, "released": False},
        "after": {"holds": False, "rule": None},
    }
    sides = {
        one["check"]: [one[side] and one[side]["verdict"] for side in ("before", "after")] for one in made["checks"]
    }
    assert sides == {"v.min": ["holds", "true"], "v.null_check": ["true", None], "few": ["broken", None]}


def test_the_report_tells_results(engine: Engine) -> None:
    """Each check has its verdict and, where broken, its result, in the document and on the page."""
    told = collect(engine, "p", held(engine))
    found = {one["check"]: (one["verdict"], one["rows"], one["result"]) for one in told["checks"]}
    assert found == {"v.min": ("holds", None, -7), "v.null_check": ("true", 0, None), "few": ("broken", None, 0)}
    assert told["gate"]["rules"] == ["check v.min"]
    assert "<bdi>-7</bdi>" in page(told)


def test_a_rebuilt_ledger_knows_what_is_held(engine: Engine, tmp_path: Path) -> None:
    """The verdict is made again from the parts, so that the batch can be released as before."""
    batch_id = held(engine)
    before = figures(engine, batch_id)
    address = tmp_path / "again.sqlite"
    report = rebuild_ledger(
        engine.staging, lambda output: open_target_at(tmp_path, output), address, root=str(tmp_path / "staging")
    )
    assert not report["problems"]
    again = open_ledger(address)
    try:
        (found,) = again.generations("p", batch_id)
        assert (found.state, found.accounting) == (GenerationState.HELD, before)
    finally:
        again.close()


def test_wrong_sql_stops_the_plan_and_changes_nothing(engine: Engine) -> None:
    """An unknown column is an error before anything is planned."""
    with pytest.raises(CheckDefinitionError, match="nope"):
        stages.plan(engine, pipeline(ColumnChecks({"nope": {"min": {"geq_to": 0}}})), SINCE_LAST, "r")
    assert engine.ledger.run("r", "p") is None
