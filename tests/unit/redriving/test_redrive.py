"""Redrive: chosen records run again under the recipe of now, in their own batch, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import quarantined, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, QuarantineLimitError, RequestError
from airflow_provider_eventlog.core.offsets import parse_ranges
from airflow_provider_eventlog.core.redriving import dropping
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.selection import Selection
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over

FIELDS = {"id": "BIGINT", "tags": "BIGINT[]"}
SMALL = Check("small", "id < 10", on_fail="quarantine")


def pipeline(**knobs: Any) -> Pipeline:
    stream = Stream("orders", name="s", start="earliest", decode=Json(FIELDS), max_slice_offsets=4)
    outputs = [Rows(DuckDB("out.duckdb", table="t"))]
    return Pipeline("p", stream=stream, outputs=outputs, **{"max_quarantine_ratio": 1.0, **knobs})


@pytest.fixture
def log() -> ListLog:
    return ListLog([], [])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    ticks = iter(range(10**9))
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000 + next(ticks)) as made:
        yield made


def run(engine: Engine, made: Pipeline, key: str = "r") -> dict[str, Any]:
    return stages.run(engine, made, RunRequest("since_last"), key)


def asked(selection: Selection | None = None, **more: Any) -> RunRequest:
    return RunRequest("redrive", selection=selection or Selection(), who="eve", why="parser mended", **more)


def redrive(engine: Engine, made: Pipeline, selection: Selection | None = None, **more: Any) -> dict[str, Any]:
    return stages.run(engine, made, asked(selection, **more))


def good(*ids: int) -> list[bytes | None]:
    return [json.dumps({"id": i}).encode() for i in ids]


def loaded(home: Path, sql: str = "select id from t order by all") -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home / "out.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def waiting(engine: Engine) -> list[dict[str, Any]]:
    return [r for t in quarantined.tables(engine.ledger, engine.staging, "p") for r in t.to_pylist()]


def test_chosen_records_go_on_in_their_own_batch(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Only the quarantined records run again, as the next generation of their batch, and Kafka is not asked."""
    log.values[0] += good(1, 20, 3, 40, 5, 60)
    log.values[1] += [*good(7), b"x"]
    before = run(engine, pipeline(checks=[SMALL]))["run"]["batches"][0]
    reads, looked = list(log.reads), list(log.asked)
    wider = replace(SMALL, expression="id < 50")
    done = redrive(engine, pipeline(checks=[wider]), Selection(checks=("small",)))
    assert (log.reads, log.asked) == (reads, looked)
    assert loaded(tmp_path, "select id, _batch_id from t order by all") == [
        (i, before["batch_id"]) for i in (1, 3, 5, 7, 20, 40)
    ]
    assert [(g.generation, g.state.value) for g in engine.ledger.generations("p")] == [(1, "loaded"), (2, "loaded")]
    figures = done["validate"]["batches"][0]["accounting"]
    assert figures["quarantine"] == {"check": 1, "not_json": 1}
    assert figures["transform"] == {
        "landed": 8, "tombstones": 0, "undecodable": 1, "typed": 7, "filtered": 0, "exploded": 0, "rejected": 1,
        "passed": 6,
    }  # fmt: skip
    stays, again = waiting(engine)[1], waiting(engine)[0]
    assert (stays["code"], stays["generation"], stays["earlier"]) == ("not_json", 1, "")
    assert (again["_offset"], again["reason"], again["generation"]) == (5, "not true: id < 50", 2)
    assert again["earlier"] == "generation 1: check small: not true: id < 10"
    (decision,) = engine.ledger.decisions("s", "redrive")
    assert (decision.who, decision.why, decision.batch_id) == ("eve", "parser mended", before["batch_id"])
    assert decision.payload["ranges"] == "0:1-2,0:3-4,0:5-6"
    assert (decision.payload["base"], decision.payload["base_recipe"]) == (1, pipeline(checks=[SMALL]).recipe)


def test_equal_to_deriving_whole(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Where the recipes differ in what they stop alone, a redrive of all gives the rows of deriving the batch whole."""
    log.values[0] += [*good(1, 20, 3), b"[]", None, *good(30, 6)]
    log.values[1] += [b'{"id": "4"}', *good(70)]
    run(engine, pipeline(checks=[SMALL]))
    second = pipeline(checks=[replace(SMALL, expression="id < 60")])
    figures = redrive(engine, second)["validate"]["batches"][0]["accounting"]
    rows = loaded(tmp_path, "select * exclude (_batch_id) from t order by all")
    stopped = [(r["_partition"], r["_offset"], r["_row"], r["code"]) for r in waiting(engine)]
    whole = stages.run(engine, second, RunRequest("offsets", ranges=parse_ranges("0:0-1")))
    assert whole["run"]["batches"][0]["generation"] == 3
    assert whole["validate"]["batches"][0]["accounting"]["transform"] == figures["transform"]
    assert loaded(tmp_path, "select * exclude (_batch_id) from t order by all") == rows
    assert [(r["_partition"], r["_offset"], r["_row"], r["code"]) for r in waiting(engine)] == stopped


def test_copies_of_a_record_run_again_together(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Of a record that explodes, copies that had passed are replaced, not loaded twice."""
    log.values[0] += [b'{"id": 1, "tags": [5, 50, 7]}', b'{"id": 2, "tags": [1]}']
    sql = "select id, unnest(tags) as tag from batch"
    first = pipeline(transform=sql, checks=[Check("c", "tag < 10", on_fail="quarantine")])
    run(engine, first)
    assert loaded(tmp_path, "select id, tag, _row from t order by all") == [(1, 5, 0), (1, 7, 2), (2, 1, 0)]
    second = pipeline(transform=sql, checks=[Check("c", "tag <> 7", on_fail="quarantine")])
    figures = redrive(engine, second)["validate"]["batches"][0]["accounting"]
    assert loaded(tmp_path, "select id, tag, _row from t order by all") == [(1, 5, 0), (1, 50, 1), (2, 1, 0)]
    assert (figures["transform"]["exploded"], figures["transform"]["rejected"]) == (2, 1)
    assert [(r["_row"], r["earlier"]) for r in waiting(engine)] == [(2, "generation 1: check c: not true: tag < 10")]


def test_twice_is_once(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The same redrive again finds nothing to do, a cleared run its own generation; the base never comes back."""
    log.values[0] += good(1, 20)
    first, second = pipeline(checks=[SMALL]), pipeline()
    run(engine, first)
    done = redrive(engine, second)
    key = done["run"]["run_key"]
    files = sorted(p for p in (tmp_path / "staging").rglob("*") if p.is_file())
    assert stages.run(engine, second, asked(), key)["run"]["batches"] == done["run"]["batches"]
    assert sorted(p for p in (tmp_path / "staging").rglob("*") if p.is_file()) == files
    with pytest.raises(RequestError, match="Nothing in the quarantine"):
        redrive(engine, second)
    # The scheduled run that comes back with its old recipe changes nothing that is loaded.
    run(engine, first)
    assert loaded(tmp_path) == [(1,), (20,)]


def test_a_redrive_that_is_cleared_from_plan_under_another_recipe(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Planned again, the same records run again under the recipe of then; behind a later generation it is refused."""
    log.values[0] += good(1, 20, 30)
    run(engine, pipeline(checks=[SMALL]))
    key = redrive(engine, pipeline(checks=[replace(SMALL, expression="id < 25")]))["run"]["run_key"]
    assert loaded(tmp_path) == [(1,), (20,)]
    stages.run(engine, pipeline(version="3"), asked(), key)
    assert loaded(tmp_path) == [(1,), (20,), (30,)]
    assert [g.generation for g in engine.ledger.generations("p")] == [1, 2, 3]
    run(engine, pipeline(version="4"))
    with pytest.raises(RequestError, match="derived again since"):
        stages.run(engine, pipeline(version="5"), asked(), key)
    assert [g.generation for g in engine.ledger.generations("p")] == [1, 2, 3, 4]


def test_several_redrives_follow_each_other(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """One by offsets, then one of the rest: the second has the first as its base, and reasons add up."""
    log.values[0] += good(1, 20, 30, 40)
    run(engine, pipeline(checks=[SMALL]))
    redrive(engine, pipeline(checks=[replace(SMALL, expression="id < 35")]), Selection(ranges=parse_ranges("0:1-2")))
    assert loaded(tmp_path) == [(1,), (20,)]
    assert {r["_offset"]: r["generation"] for r in waiting(engine)} == {2: 1, 3: 1}
    redrive(engine, pipeline(checks=[replace(SMALL, expression="id < 36")]))
    assert loaded(tmp_path) == [(1,), (20,), (30,)]
    (left,) = waiting(engine)
    redrive(engine, pipeline(checks=[replace(SMALL, expression="id < 37")]))
    (again,) = waiting(engine)
    assert (left["earlier"], again["earlier"]) == (
        "generation 1: check small: not true: id < 10",
        "generation 1: check small: not true: id < 10; generation 3: check small: not true: id < 36",
    )


def test_a_held_batch_is_healed(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A batch that the gate holds for too much quarantine passes with what a redrive brings back, without a release."""
    log.values[0] += good(1, 20, 30)
    with pytest.raises(QuarantineLimitError):
        run(engine, pipeline(checks=[SMALL], max_quarantine_ratio=0.5))
    assert not (tmp_path / "out.duckdb").exists()
    redrive(engine, pipeline(checks=[replace(SMALL, expression="id < 25")], max_quarantine_ratio=0.5))
    assert loaded(tmp_path) == [(1,), (20,)]


def test_the_gate_stands_before_a_redrive_too(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Checks that hold a batch look at the redriven rows beside the others; what was loaded stays."""
    log.values[0] += good(1, 20)
    run(engine, pipeline(checks=[SMALL]))
    with pytest.raises(CheckFailedError, match=r"'tiny'.*1 rows.*0:1"):
        redrive(engine, pipeline(checks=[Check("tiny", "id < 15")]))
    assert loaded(tmp_path) == [(1,)]


def test_raw_files_are_not_needed(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The quarantine has the records whole: without a raw file in staging a redrive loads them with key and time."""
    log.values[0] += good(1, 20)
    sql = "select id, _key, _timestamp, len(_headers) as h from batch"
    run(engine, pipeline(transform=sql, checks=[SMALL]))
    for file in (tmp_path / "staging").rglob("raw/**/*.parquet"):
        file.unlink()
    redrive(engine, pipeline(transform=sql))
    assert loaded(tmp_path, "select id, _key, epoch_ms(_timestamp), h from t order by all") == [
        (1, b"k", FIRST_MS, 0), (20, b"k", FIRST_MS + 1000, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(batch_id="none"), "has no batch 'none'"),
        (Selection(codes=("too_deep",)), "Nothing in the quarantine"),
        (Selection(checks=("other",)), "Nothing in the quarantine"),
        (Selection(ranges=parse_ranges("0:0-1")), "Nothing in the quarantine"),
        (Selection(ranges=parse_ranges("0:1-2,1:0-5")), "Nothing at the offsets 1:0-5"),
    ],
    ids=str,
)
def test_what_is_not_there_is_refused(engine: Engine, log: ListLog, selection: Selection, message: str) -> None:
    """A redrive of unknown batches, reasons, checks or offsets is an error that changes nothing."""
    log.values[0] += good(1, 20)
    run(engine, pipeline(checks=[SMALL]))
    with pytest.raises(RequestError, match=message):
        redrive(engine, pipeline(), selection)
    assert (len(engine.ledger.generations("p")), engine.ledger.decisions("s")) == (1, ())


def test_the_same_recipe_is_refused_unless_it_recomputes(engine: Engine, log: ListLog) -> None:
    """Rows that the recipe of now has stopped are run again only on demand; then they keep both reasons."""
    log.values[0] += good(1, 20)
    run(engine, pipeline(checks=[SMALL]))
    with pytest.raises(RequestError, match="stopped by the recipe of now"):
        redrive(engine, pipeline(checks=[SMALL]))
    redrive(engine, pipeline(checks=[SMALL]), recompute=True)
    (row,) = waiting(engine)
    assert (row["generation"], row["earlier"]) == (2, "generation 1: check small: not true: id < 10")


def test_other_columns_are_refused(engine: Engine, log: ListLog) -> None:
    """Rows of two shapes never stand in one generation: the error names the columns and nothing is planned."""
    log.values[0] += good(1, 20)
    run(engine, pipeline(checks=[SMALL], transform="select id from batch"))
    with pytest.raises(RequestError, match=r"other columns now.*x INTEGER"):
        redrive(engine, pipeline(transform="select id, 1 as x from batch"))
    with pytest.raises(RequestError, match=r"other columns now.*id BIGINT, id VARCHAR"):
        redrive(engine, pipeline(transform="select id::VARCHAR as id from batch"))
    assert len(engine.ledger.generations("p")) == 1


def test_a_preview_keeps_nothing(engine: Engine, log: ListLog) -> None:
    """What a redrive would take is told with batches, records and rows; ledger and staging stay as they are."""
    log.values[0] += good(1, 20, 30)
    run(engine, pipeline(checks=[SMALL]))
    seen = stages.preview(engine, pipeline(), asked())
    assert seen.notes == ("2 records with 2 rows in the quarantine of 1 batches are run again.",)
    assert [(b.generation, b.mode) for b in seen.batches] == [(2, "redrive")]
    assert (len(engine.ledger.generations("p")), engine.ledger.decisions("s")) == (1, ())


def test_dropped_records_stay_out(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """What somebody drops is decided and told, no longer listed or redriven; its accounting stays."""
    log.values[0] += [*good(1, 20, 30), b"x"]
    run(engine, pipeline(checks=[SMALL]))
    chosen = Selection(ranges=parse_ranges("0:1-2"))
    said = dropping.drop(engine, "p", "s", chosen, who="eve", why="test data", keep=False)
    assert (said["batches"][0]["records"], said["kept"], engine.ledger.decisions("s")) == (1, False, ())
    dropping.drop(engine, "p", "s", chosen, who="eve", why="test data")
    again = dropping.drop(engine, "p", "s", chosen, who="eve", why="test data")
    assert (again["batches"], again["before"]) == ([], 1)
    with pytest.raises(RequestError, match="nothing was dropped"):
        dropping.drop(engine, "p", "s", Selection(codes=("too_deep",)), who="eve", why="test data")
    dropping.drop(engine, "p", "s", Selection(codes=("not_json",)), who="eve", why="noise")
    assert [(d.who, d.why, d.payload["ranges"]) for d in engine.ledger.decisions("s", "drop")] == [
        ("eve", "test data", "0:1-2"), ("eve", "noise", "0:3-4"),
    ]  # fmt: skip
    (listed,) = quarantined.summary(engine.ledger, engine.staging, "p")
    assert (listed["rows"], listed["codes"], listed["dropped"]) == (1, {"check": 1}, 2)
    assert [r["_offset"] for r in waiting(engine)] == [2]
    redrive(engine, pipeline())
    assert loaded(tmp_path) == [(1,), (30,)]
    assert engine.ledger.generations("p")[-1].accounting["quarantine"] == {"check": 1, "not_json": 1}  # type: ignore[index]


def test_an_attempt_that_another_one_overtakes_finds_its_plan(
    engine: Engine, log: ListLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound by another attempt after it had looked, a run takes the generations that stand, and asks for no others."""
    log.values[0] += good(1, 20)
    run(engine, pipeline(checks=[SMALL]))
    first = stages.plan(engine, pipeline(), asked(), "again")
    real, looks = engine.ledger.run, []

    def before(run_key: str, name: str) -> Any:
        looks.append(run_key)
        # The first two looks are those that come before the records are chosen.
        return None if len(looks) <= 2 else real(run_key, name)

    monkeypatch.setattr(engine.ledger, "run", before)
    second = stages.plan(engine, pipeline(), asked(), "again")
    assert len(looks) > 2
    assert [(b.batch.batch_id, b.generation) for b in second.batches] == [
        (b.batch.batch_id, b.generation) for b in first.batches
    ]
    assert [g.generation for g in engine.ledger.generations("p")] == [1, 2]
