"""`eventlog rebuild`: a table made anew from staging, whole before it is seen, and nobody else's touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    RecipeChangedError,
    RequestError,
    StagingMissingError,
    TargetOwnedError,
    TargetReplacedError,
)
from airflow_provider_eventlog.core.rebuilding.output import rebuild_outputs
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over

STREAM = Stream("orders", name="s", start="earliest", decode=Json({"id": "BIGINT"}))
PIPELINE = Pipeline("p", stream=STREAM, outputs=[Rows(DuckDB("out.duckdb", table="t"))])
SINCE_LAST = RunRequest("since_last")


@pytest.fixture
def log() -> ListLog:
    return ListLog([])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    """Three batches of four rows each are loaded."""
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as made:
        for batch in range(3):
            log.values[0] += [json.dumps({"id": 4 * batch + n}).encode() for n in range(4)]
            stages.run(made, PIPELINE, SINCE_LAST, f"r{batch}")
        yield made


def sql(home: Path, statement: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home / "out.duckdb")) as connection:
        return connection.execute(statement).fetchall()


def ids(home: Path) -> list[int]:
    return [row[0] for row in sql(home, "select id from t order by all")]


def test_a_table_that_is_gone_is_made_again(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A dropped table is refused by loads; rebuilt without Kafka it has every row, and loads go on into it."""
    before = sql(tmp_path, "select * from t order by all")
    sql(tmp_path, "drop table t")
    with pytest.raises(TargetReplacedError, match="eventlog rebuild"):
        stages.load(engine, PIPELINE, "r0")
    reads = list(log.reads)
    report = rebuild_outputs(engine, PIPELINE)
    assert (report["outputs"][0]["found"], report["outputs"][0]["batches"], log.reads) == ("gone", 3, reads)
    assert sql(tmp_path, "select * from t order by all") == before
    log.values[0] += [b'{"id": 99}']
    stages.run(engine, PIPELINE, SINCE_LAST, "r9")
    assert ids(tmp_path) == [*range(12), 99]


def test_a_dry_run_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    """It says what would be loaded; file and tables stay as they are."""
    sql(tmp_path, "drop table t")
    before = (tmp_path / "out.duckdb").read_bytes()
    report = rebuild_outputs(engine, PIPELINE, keep=False)
    assert (report["kept"], report["outputs"][0]["rows"]) == (False, 12)
    assert (tmp_path / "out.duckdb").read_bytes() == before


def test_a_table_that_stands_is_replaced_only_when_asked_and_kept(engine: Engine, tmp_path: Path) -> None:
    """Without replace it is refused; with it the old rows stay under another name."""
    sql(tmp_path, "delete from t where id < 6")
    with pytest.raises(RequestError, match="--replace"):
        rebuild_outputs(engine, PIPELINE)
    assert ids(tmp_path) == list(range(6, 12))
    aside = rebuild_outputs(engine, PIPELINE, replace=True)["outputs"][0]["replaced"]
    assert ids(tmp_path) == list(range(12))
    assert sql(tmp_path, f"select count(*) from {aside}") == [(6,)]


def test_a_table_of_somebody_else_is_never_touched(engine: Engine, tmp_path: Path) -> None:
    """A foreign table under the name stays as it is, whatever is asked."""
    sql(tmp_path, "drop table t")
    sql(tmp_path, "create table t as select 1 as x")
    for replace in (False, True):
        with pytest.raises((TargetOwnedError, TargetReplacedError)):
            rebuild_outputs(engine, PIPELINE, replace=replace)
    assert sql(tmp_path, "select * from t") == [(1,)]


def test_a_rebuild_that_was_stopped_goes_on(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two batches nothing is visible; the next call loads only what is missing."""
    sql(tmp_path, "drop table t")
    told: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        told.append(done)
        if done == 2:
            raise KeyboardInterrupt

    engine.progress = stop
    with pytest.raises(KeyboardInterrupt):
        rebuild_outputs(engine, PIPELINE)
    assert sql(tmp_path, "select count(*) from duckdb_tables() where table_name = 't'") == [(0,)]
    told.clear()
    engine.progress = lambda what, done, total: told.append(done)
    assert rebuild_outputs(engine, PIPELINE)["outputs"][0]["begun"] == 1
    assert (ids(tmp_path), told) == (list(range(12)), [2, 3])


def test_parts_that_are_gone_and_other_columns_are_refused(engine: Engine, tmp_path: Path) -> None:
    """What cannot be loaded is named before anything is changed."""
    wider = PIPELINE.replace(transform="select id, id * 2 as twice from batch")
    with pytest.raises(RecipeChangedError, match="3 batches"):
        rebuild_outputs(engine, wider, replace=True)
    part = next((tmp_path / "staging").rglob("typed/**/*.parquet"))
    part.unlink()
    with pytest.raises(StagingMissingError):
        rebuild_outputs(engine, PIPELINE, replace=True)
    with pytest.raises(RequestError, match="it has t"):
        rebuild_outputs(engine, PIPELINE, "u")
    assert ids(tmp_path) == list(range(12))
