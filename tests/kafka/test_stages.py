"""The stages from plan to load on a real broker, without Airflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine, open_engine
from airflow_provider_eventlog.core.errors import (
    CheckFailedError,
    ContentMismatchError,
    NotReadyError,
    OffsetRangeError,
    QuarantineLimitError,
    RecipeChangedError,
    RunNotPlannedError,
    StagingCorruptError,
    StagingMissingError,
    StagingNotSharedError,
    TopicNotFoundError,
)
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.offsets import parse_ranges
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Raw, Rows, Stream

FIELDS = {"id": "BIGINT", "amount": "DECIMAL(12,2)", "country": "VARCHAR"}
SINCE_LAST = RunRequest("since_last")


def offsets(text: str, **more: Any) -> RunRequest:
    return RunRequest("offsets", ranges=parse_ranges(text), **more)


class Bench:
    """A topic, a home folder, and pipelines over them."""

    def __init__(self, servers: str, topic: str, home: Path) -> None:
        self.settings, self.topic, self.home = {"bootstrap.servers": servers}, topic, home

    def send(self, *values: Any, partition: int = 0, timestamp: int | None = None) -> None:
        records = [
            Record(v if isinstance(v, bytes) or v is None else json.dumps(v).encode(), b"k", partition, timestamp)
            for v in values
        ]
        produce(self.topic, records, self.settings)

    def rows(self, count: int, first: int = 0) -> None:
        self.send(*({"id": i, "amount": i / 4, "country": "DE"} for i in range(first, first + count)))

    def pipeline(self, **knobs: Any) -> Pipeline:
        stream = Stream(
            self.topic, name="s", **{"start": "earliest", "decode": Json(FIELDS), **knobs.pop("stream", {})}
        )
        return Pipeline("p", stream=stream, outputs=[Rows(DuckDB("out.duckdb", table="t"))], **knobs)

    def engine(self, pipeline: Pipeline, **knobs: Any) -> Engine:
        return open_engine(pipeline.stream, client=self.settings, home=self.home, **knobs)

    def run(self, pipeline: Pipeline, request: RunRequest = SINCE_LAST, key: str | None = None) -> dict[str, Any]:
        with self.engine(pipeline) as engine:
            return stages.run(engine, pipeline, request, key)

    def loaded(self, sql: str = "select * from t order by _partition, _offset, _row") -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.home / "out.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def staged(self) -> dict[str, bytes]:
        root = self.home / "eventlog" / "staging"
        return {
            str(f.relative_to(root)): f.read_bytes()
            for f in sorted(root.rglob("*"))
            if f.is_file() and ".eventlog" not in f.name
        }


@pytest.fixture
def bench(eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path) -> Iterator[Bench]:
    return Bench(eventlog_kafka.bootstrap_servers, eventlog_topic(partitions=2), tmp_path)


def test_a_topic_becomes_a_table(bench: Bench) -> None:
    """Every record of the topic is one row with its batch, partition and offset; the accounting says so."""
    bench.rows(50)
    report = bench.run(bench.pipeline(transform="select id, amount from batch where id % 5 <> 0"))
    batch = report["run"]["batches"][0]["batch_id"]
    rows = bench.loaded("select id, _batch_id, _partition, _offset, _row from t order by _offset")
    assert rows == [(i, batch, 0, i, 0) for i in range(50) if i % 5]
    figures = report["validate"]["batches"][0]["accounting"]
    assert figures["landing"]["length"] == figures["landing"]["landed"] == 50
    assert figures["transform"] == {
        "landed": 50, "tombstones": 0, "undecodable": 0, "typed": 50, "filtered": 10, "exploded": 0, "rejected": 0,
        "passed": 40,
    }  # fmt: skip


def test_running_again_changes_nothing(bench: Bench) -> None:
    """The same run again finds everything done: staging and table stay as they are, to the byte."""
    bench.rows(30)
    pipeline = bench.pipeline()
    bench.run(pipeline, key="r")
    before, rows = bench.staged(), bench.loaded()
    again = bench.run(pipeline, key="r")
    assert [b["outputs"]["t"]["outcome"] for b in again["load"]["batches"]] == ["existed"]
    assert bench.staged() == before
    assert bench.loaded() == rows


def test_the_same_batch_lands_as_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    """Two homes that land the same offsets hold identical raw and derived files."""
    bench.rows(300)
    pipeline = bench.pipeline(stream={"max_slice_offsets": 70})
    bench.run(pipeline, offsets("0:0-300"))
    other = Bench(bench.settings["bootstrap.servers"], bench.topic, tmp_path / "other")
    other.run(pipeline, offsets("0:0-300", parallelism=3))
    assert bench.staged() == other.staged()
    assert len(bench.staged()) > 10


def test_no_duplicate_where_back_fills_overlap(bench: Bench) -> None:
    """A back-fill that overlaps what is loaded adds exactly what is missing."""
    bench.rows(60)
    pipeline = bench.pipeline()
    bench.run(pipeline, offsets("0:10-20"))
    bench.run(pipeline, offsets("0:5-30"))
    bench.run(pipeline)
    assert bench.loaded("select _offset from t order by 1") == [(i,) for i in range(60)]


def test_an_interval_reads_by_record_time(bench: Bench) -> None:
    """Data intervals take the records whose timestamps lie in them."""
    day = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp() * 1000)
    hours = [Record(json.dumps({"id": h}).encode(), b"k", 0, day + h * 3_600_000) for h in range(48)]
    produce(bench.topic, hours, bench.settings)
    pipeline = bench.pipeline(stream={"start": "interval"})
    bench.run(pipeline, RunRequest("interval", interval=(day + 86_400_000, day + 2 * 86_400_000)))
    assert bench.loaded("select min(id), max(id), count(*) from t") == [(24, 47, 24)]


def test_an_empty_topic_is_an_empty_batch(bench: Bench) -> None:
    """A batch without offsets runs all stages, has a manifest, and makes the table."""
    report = bench.run(bench.pipeline())
    assert report["run"]["offsets"] == 0
    assert bench.loaded() == []
    assert any("manifests" in name for name in bench.staged())


def test_a_changed_transform_replaces_the_batch(bench: Bench) -> None:
    """Planned again under another recipe, the batch's next generation replaces the rows, from staged raw data."""
    bench.rows(20)
    first = bench.run(bench.pipeline(transform="select id from batch"), key="r")
    second = bench.run(bench.pipeline(transform="select -id as id from batch"), key="r")
    assert bench.loaded("select min(id), max(id), count(*) from t") == [(-19, 0, 20)]
    assert [b["generation"] for b in second["run"]["batches"]] == [2]
    raw = [name for name in bench.staged() if "/raw/" in name]
    assert len(raw) == len(first["land"][0:1]) == 1


def test_an_older_recipe_brought_back_is_a_no_op(bench: Bench) -> None:
    """Running the first recipe again finds its generation and leaves the newer one in the table."""
    bench.rows(5)
    old, new = bench.pipeline(), bench.pipeline(transform="select id + 100 as id, amount, country from batch")
    bench.run(old, key="r")
    bench.run(new, key="r")
    report = bench.run(old, key="r")
    assert report["load"]["batches"][0]["outputs"]["t"]["superseded"]
    assert bench.loaded("select min(id) from t") == [(100,)]


def test_a_stage_refuses_another_recipe_than_was_planned(bench: Bench) -> None:
    """A later stage under a changed recipe is told to start from plan."""
    bench.rows(3)
    pipeline = bench.pipeline()
    with bench.engine(pipeline) as engine:
        stages.plan(engine, pipeline, SINCE_LAST, "r")
        stages.land(engine, pipeline, "r", 0)
        with pytest.raises(RecipeChangedError, match="from plan"):
            stages.transform(engine, bench.pipeline(version="2"), "r", 0)


def test_stages_in_the_wrong_order_wait_for_the_right_one(bench: Bench) -> None:
    """A stage whose predecessor is missing says so and writes nothing."""
    bench.rows(3)
    pipeline = bench.pipeline()
    with bench.engine(pipeline) as engine:
        with pytest.raises(RunNotPlannedError):
            stages.land(engine, pipeline, "r", 0)
        stages.plan(engine, pipeline, SINCE_LAST, "r")
        for stage in (
            lambda: stages.transform(engine, pipeline, "r", 0),
            lambda: stages.validate(engine, pipeline, "r"),
            lambda: stages.load(engine, pipeline, "r"),
        ):
            with pytest.raises(NotReadyError):
                stage()
        with pytest.raises(RunNotPlannedError, match="1 groups"):
            stages.land(engine, pipeline, "r", 7)
    assert [name for name in bench.staged() if "/recipes/" not in name] == []
    assert not (bench.home / "out.duckdb").exists()


def test_a_failed_check_holds_the_batch(bench: Bench) -> None:
    """Rows that break a check stop the batch before it is loaded; a corrected check goes on from staging."""
    bench.rows(10)
    with pytest.raises(CheckFailedError, match=r"few.*7 rows.*0:3, 0:4, 0:5, 0:6, 0:7"):
        bench.run(bench.pipeline(checks=[Check("few", "id < 3")]), key="r")
    assert not (bench.home / "out.duckdb").exists()
    bench.run(bench.pipeline(checks=[Check("few", "id < 30")]), key="r")
    assert len(bench.loaded()) == 10


def test_conserved_with_a_payload_that_does_not_decode(bench: Bench) -> None:
    """A broken payload is in the quarantine with its bytes, the others are loaded; too many of them hold the batch."""
    bench.rows(40)
    bench.send(b"{broken", partition=0)
    report = bench.run(bench.pipeline())
    figures = report["validate"]["batches"][0]["accounting"]
    assert (figures["transform"]["undecodable"], figures["quarantine"]) == (1, {"not_json": 1})
    assert len(bench.loaded()) == 40
    bench.send(b"{broken", b"again", partition=0)
    with pytest.raises(QuarantineLimitError, match="2 not_json"):
        bench.run(bench.pipeline())
    assert len(bench.loaded()) == 40


def test_bytes_land_as_they_are(bench: Bench) -> None:
    """Tombstones, null keys, empty values, repeated headers and bytes that are not UTF-8 come through unchanged."""
    odd = [
        Record(None, b"k", 0),
        Record(b"", b"k", 0),
        Record(b"v", None, 0),
        Record(b"\xff\xfe\x00", b"", 0, None, [("h", b"1"), ("h", b"2"), ("n", None)]),
        Record(b"x" * 900_000, b"big", 0),
    ]
    produce(bench.topic, odd, bench.settings)
    pipeline = bench.pipeline(decode=Raw(), transform="select _key as k, value, _headers as h from batch")
    report = bench.run(pipeline)
    assert report["validate"]["batches"][0]["accounting"]["transform"]["tombstones"] == 1
    rows = bench.loaded("select k, value from t order by _offset")
    assert rows == [(b"k", b""), (None, b"v"), (b"", b"\xff\xfe\x00"), (b"big", b"x" * 900_000)]


def test_python_transforms_run_like_sql(bench: Bench) -> None:
    """A Python function over Arrow gives the rows that it returns, with their positions."""
    bench.rows(10)
    bench.run(bench.pipeline(transform=double, schema={"twice": "BIGINT"}))
    assert bench.loaded("select twice, _offset from t order by 2") == [(2 * i, i) for i in range(10)]


def double(table: Any) -> Any:
    import pyarrow.compute as pc

    result = table.select(["_partition", "_offset"])
    return result.add_column(0, "twice", pc.add(table["id"], table["id"]))


def test_damaged_staging_is_never_used(bench: Bench) -> None:
    """A raw file that changed after landing is refused by every later stage."""
    bench.rows(10)
    pipeline = bench.pipeline()
    with bench.engine(pipeline) as engine:
        stages.plan(engine, pipeline, SINCE_LAST, "r")
        stages.land(engine, pipeline, "r", 0)
        raw = next((bench.home / "eventlog" / "staging").rglob("raw/**/*.parquet"))
        data = bytearray(raw.read_bytes())
        data[len(data) // 2] ^= 1
        raw.write_bytes(data)
        with pytest.raises(StagingCorruptError):
            stages.transform(engine, pipeline, "r", 0)
        raw.unlink()
        with pytest.raises(StagingMissingError):
            stages.land(engine, pipeline, "r", 0)


def test_another_staging_root_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A worker that sees another root than the ledger knows stops before it writes."""
    pipeline = bench.pipeline()
    bench.run(pipeline)
    with pytest.raises(StagingNotSharedError):
        bench.engine(pipeline, staging_root=str(tmp_path / "elsewhere"))


def test_a_published_slice_is_adopted_not_read_again(bench: Bench) -> None:
    """After a crash between publish and ledger the file that stands is taken over, without Kafka."""
    bench.rows(10)
    pipeline = bench.pipeline()
    with bench.engine(pipeline) as engine:
        stages.plan(engine, pipeline, SINCE_LAST, "r")
        keep, engine.ledger.record_slice = engine.ledger.record_slice, crash  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            stages.land(engine, pipeline, "r", 0)
        engine.ledger.record_slice = keep  # type: ignore[method-assign]
        engine._sources.clear()
        engine.open_source = crash  # type: ignore[assignment]
        assert stages.land(engine, pipeline, "r", 0)["accounting"]["landed"] == 10


def crash(*_: Any) -> Any:
    raise ConnectionError("gone")


def test_wrong_requests_write_nothing(bench: Bench) -> None:
    """An unknown topic and offsets beyond the end are refused, and no batch stands afterwards."""
    bench.rows(3)
    with pytest.raises(OffsetRangeError, match="last stable offset 3"):
        bench.run(bench.pipeline(), offsets("0:0-4"))
    bench.topic = "no-such-topic"
    with pytest.raises(TopicNotFoundError, match="no-such-topic"):
        bench.run(bench.pipeline())
    with bench.engine(bench.pipeline()) as engine:
        assert engine.ledger.batches("s") == ()


def test_other_content_under_the_same_generation_is_refused(bench: Bench) -> None:
    """If a part changed between validation and load, the load says so and the table stays."""
    bench.rows(3)
    pipeline = bench.pipeline()
    bench.run(pipeline, key="r")
    with duckdb.connect(str(bench.home / "out.duckdb")) as connection:
        connection.execute("update _eventlog_load set digest = 'other'")
    with pytest.raises(ContentMismatchError):
        bench.run(pipeline, key="r")
    assert len(bench.loaded()) == 3


def test_a_small_batch_loads_no_pandas(bench: Bench) -> None:
    """A batch that asks for no pandas imports none: that alone would cost more than the batch."""
    import subprocess

    bench.rows(5)
    program = (
        "import sys, json; from pathlib import Path; from airflow_provider_eventlog.core import stages;"
        "from airflow_provider_eventlog.core.engine import open_engine;"
        "from airflow_provider_eventlog.core.requests import RunRequest;"
        "from airflow_provider_eventlog.declare import *;"
        f"p = Pipeline('p', stream=Stream({bench.topic!r}, start='earliest', decode=Json({FIELDS!r})),"
        "transform='select id, amount from batch', checks=[Check('c', 'id >= 0')],"
        "outputs=[Rows(DuckDB('o.duckdb', table='t'))]);"
        f"e = open_engine(p.stream, client={bench.settings!r}, home=Path({str(bench.home)!r}));"
        "r = stages.run(e, p, RunRequest('since_last'));"
        "print(json.dumps([r['load']['batches'][0]['outputs']['t']['rows'],"
        "[m for m in ('pandas', 'airflow') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [5, []]
