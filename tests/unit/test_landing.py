"""Landing tells of which topic a raw file is: an earlier one's is never taken for this one's."""

from __future__ import annotations

from pathlib import Path

import duckdb

from airflow_provider_eventlog.core import rawfile, stages
from airflow_provider_eventlog.core.offsets import TopicIdentity
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, IDENTITY, ListLog, engine_over

SINCE_LAST = RunRequest("since_last")
STREAM = Stream("orders", name="s", start="earliest", decode=Json({"id": "BIGINT"}))
PIPELINE = Pipeline("p", stream=STREAM, outputs=[Rows(DuckDB("out.duckdb", table="t"))])


def _loaded(home: Path) -> list[int]:
    with duckdb.connect(str(home / "out.duckdb"), read_only=True) as connection:
        return [i for (i,) in connection.execute("select id from t order by id").fetchall()]


def _landed_before(home: Path, identity: TopicIdentity) -> Path:
    """A raw file of a topic whose ledger is lost, and nothing else of it."""
    log = ListLog([b'{"id": 1}', b'{"id": 2}'])
    log.identity = identity
    with engine_over(log, home, lambda: FIRST_MS + 10_000_000) as engine:
        stages.plan(engine, PIPELINE, SINCE_LAST, "r")
        stages.land(engine, PIPELINE, "r", 0)
    for file in [*home.glob("ledger.sqlite*"), *(home / "staging").rglob("manifests/*"), *home.rglob("recipes/*.json")]:
        file.unlink()
    (raw,) = (home / "staging").rglob("raw/*/*.parquet")
    assert rawfile.read_info(raw).topic == identity
    return raw


def test_no_phantom_of_a_topic_that_only_a_lost_ledger_knew(tmp_path: Path) -> None:
    """Created again to the same offsets, the topic is read: what the earlier one left is set aside, not adopted."""
    raw = _landed_before(tmp_path, TopicIdentity("cluster", "orders", "an earlier one"))
    kept = raw.read_bytes()
    log = ListLog([b'{"id": 7}', b'{"id": 8}'])
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as engine:
        stages.run(engine, PIPELINE, SINCE_LAST, "r")
    assert _loaded(tmp_path) == [7, 8]
    assert len(log.reads) == 1
    assert rawfile.read_info(raw).topic == IDENTITY
    (aside,) = (tmp_path / "staging").rglob(".aside/**/" + "?" * 64)
    assert aside.read_bytes() == kept


def test_a_file_of_the_same_topic_is_adopted(tmp_path: Path) -> None:
    """What was landed of this very topic is not read from Kafka again, also if the ledger was lost meanwhile."""
    _landed_before(tmp_path, IDENTITY)
    log = ListLog([b'{"id": 1}', b'{"id": 2}'])
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000) as engine:
        stages.run(engine, PIPELINE, SINCE_LAST, "r")
    assert (_loaded(tmp_path), log.reads) == ([1, 2], [])
