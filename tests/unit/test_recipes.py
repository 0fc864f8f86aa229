"""Recipes and generations: what a changed, an older and an equal recipe do to batches that are landed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RecipeChangedError
from airflow_provider_eventlog.core.offsets import parse_ranges
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over

STREAM = Stream("orders", name="s", start="earliest", decode=Json({"id": "BIGINT"}))
SINCE_LAST = RunRequest("since_last")


def pipeline(name: str = "p", factor: int = 1) -> Pipeline:
    sql = f"select id * {factor} as id from batch"
    return Pipeline(name, stream=STREAM, transform=sql, outputs=[Rows(DuckDB("out.duckdb", table=name))])


@pytest.fixture
def log() -> ListLog:
    return ListLog([])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as made:
        yield made


def send(log: ListLog, *ids: int) -> None:
    log.values[0] += [json.dumps({"id": i}).encode() for i in ids]


def run(engine: Engine, made: Pipeline, key: str, request: RunRequest = SINCE_LAST) -> dict[str, Any]:
    return stages.run(engine, made, request, key)


def loaded(home: Path, table: str = "p") -> list[int]:
    with duckdb.connect(str(home / "out.duckdb"), read_only=True) as connection:
        return [row[0] for row in connection.execute(f"select id from {table} order by all").fetchall()]


def generations(engine: Engine, name: str = "p") -> list[int]:
    return [g.generation for g in engine.ledger.generations(name)]


def test_a_corrected_transform_is_the_next_generation_without_kafka(
    engine: Engine, log: ListLog, tmp_path: Path
) -> None:
    """Cleared from plan under another recipe a run replaces its rows from staged raw; a later stage alone refuses."""
    send(log, 1, 2)
    run(engine, pipeline(), "r")
    engine.open_source = None  # type: ignore[assignment]
    engine._sources.clear()
    with pytest.raises(RecipeChangedError, match="from plan"):
        stages.load(engine, pipeline(factor=10), "r")
    run(engine, pipeline(factor=10), "r")
    assert (loaded(tmp_path), generations(engine)) == ([10, 20], [1, 2])


def test_equal_inputs_are_a_no_op_and_recompute_is_not(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The same recipe on the same batch finds its generation; recompute makes one more, once for each run."""
    send(log, 1, 2)
    run(engine, pipeline(), "r")
    offsets = RunRequest("offsets", ranges=parse_ranges("0:0-2"))
    run(engine, pipeline(), "same", offsets)
    assert generations(engine) == [1]
    again = dataclasses.replace(offsets, recompute=True)
    for _ in range(2):
        run(engine, pipeline(), "again", again)
        assert generations(engine) == [1, 2]
    run(engine, pipeline(), "third", again)
    assert (generations(engine), loaded(tmp_path)) == ([1, 2, 3], [1, 2])


def test_an_older_recipe_brought_back_moves_nothing_backwards(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A clear under an older recipe succeeds, finds its old generation, and leaves the newer one's rows in place."""
    send(log, 1, 2)
    run(engine, pipeline(), "r")
    run(engine, pipeline(factor=10), "r")
    report = run(engine, pipeline(), "r")
    assert report["load"]["batches"][0]["outputs"]["p"]["superseded"] is True
    assert (loaded(tmp_path), generations(engine)) == ([10, 20], [1, 2])


def test_a_second_pipeline_is_filled_from_landed_batches(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A pipeline that comes later takes what is landed without reading Kafka, then goes on beside the first one."""
    for n in range(3):
        send(log, n)
        run(engine, pipeline(), f"r{n}")
    reads = list(log.reads)
    report = run(engine, pipeline("q", 100), "q1")
    assert [b["mode"] for b in report["run"]["batches"]] == ["replay"] * 3 + ["new"]
    assert [r for r in log.reads if len(r)] == [r for r in reads if len(r)]
    assert loaded(tmp_path, "q") == [0, 100, 200]
    send(log, 3)
    run(engine, pipeline("q", 100), "q2")
    run(engine, pipeline(), "r3")
    assert (loaded(tmp_path, "q"), loaded(tmp_path)) == ([0, 100, 200, 300], [0, 1, 2, 3])
    assert sum(map(len, log.reads)) == 4


def test_offsets_fill_a_second_pipeline_too(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Named offsets take their owners whole from staging."""
    send(log, 0, 1)
    run(engine, pipeline(), "r0")
    reads = list(log.reads)
    run(engine, pipeline("q"), "q1", RunRequest("offsets", ranges=parse_ranges("0:1-2")))
    assert (loaded(tmp_path, "q"), log.reads) == ([0, 1], reads)
