"""fsck and gc on a real broker: what is damaged is named, made again from what still proves it, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import gc, stages
from airflow_provider_eventlog.core.engine import Engine, now_ms, open_engine
from airflow_provider_eventlog.core.kafka.producer import Record
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream, Tumbling, Windows
from tests.kafka.world import Topic, until

T0 = 1_704_067_200_000
RECORDS, SLICE = 300, 100
# Only the last partition ever loses records.
PARTITIONS, LOSING = 3, 2
FILE = """
from tests.kafka.test_upkeep import pipeline_over
p = pipeline_over({topic!r})
"""


def pipeline_over(topic: str) -> Pipeline:
    """Rows and windows over a topic, in slices that are small enough for several a batch."""
    decode = Json({"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"})
    stream = Stream(topic, name="s", start="earliest", event_time="ts", decode=decode, max_slice_offsets=SLICE)
    sums = {"n": "count(*)", "s": "sum(v)"}
    rows = Rows(DuckDB("w.duckdb", table="r"), name="r")
    windows = Windows(Tumbling("1 minute"), by=["k"], aggregates=sums, target=DuckDB("w.duckdb", table="w"))
    return Pipeline("p", stream=stream, outputs=[rows, windows])


def send(topic: Topic, batch: int) -> None:
    """A batch's records in each partition: five keys, a minute for twenty records."""
    records = []
    for partition in range(PARTITIONS):
        for number in range(RECORDS):
            at = T0 + (batch * RECORDS + number) * 3000
            text = {"k": f"k{number % 5}", "v": number, "ts": f"{_when(at)}"}
            records.append(Record(json.dumps(text).encode(), b"k", partition, at))
    topic.send(*records)


def _when(at: int) -> str:
    seconds = (at - T0) // 1000
    return f"2024-01-01T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}Z"


class Home:
    """A home over the topic, and the command line in it."""

    def __init__(self, topic: Topic, home: Path, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.topic, self.home, self._capsys = topic, home, capsys
        self.pipeline = pipeline_over(topic.name)
        self.root = home / "eventlog" / "staging"

    def engine(self) -> Engine:
        """The engine as a process would open it."""
        return open_engine(self.pipeline.stream, client=self.topic.settings, home=self.home)

    def fsck(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Exit code and document of `eventlog fsck`."""
        assert self._capsys is not None
        where = ("--home", str(self.home), "--bootstrap-servers", self.topic.settings["bootstrap.servers"])
        code = main(["fsck", *words, *where, "--output", "json"])
        (document,) = json.loads(self._capsys.readouterr().out)["streams"]
        return code, document

    def repair(self, *words: str) -> tuple[int, dict[str, Any]]:
        """The same with all that repair may need."""
        file = self.home / "pipes.py"
        file.write_text(FILE.format(topic=self.topic.name))
        return self.fsck("--deep", "--repair", "--pipeline", f"{file}:p", *words)

    def files(self, pattern: str) -> list[Path]:
        """Published files by name."""
        return sorted(self.root.glob(pattern))

    def raw(self, partition: int) -> list[Path]:
        """Raw files of a partition in order."""
        return self.files(f"s/epoch=1/raw/partition={partition}/*.parquet")

    def standing(self) -> dict[str, tuple[str, int]]:
        """Published files, their bytes and the moment of their publication."""
        found = [f for f in self.files("**/*") if f.is_file() and f.relative_to(self.root).parts[0][0] != "."]
        return {
            str(f.relative_to(self.root)): (sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in found
        }

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the tables, or change them behind everybody's back."""
        with duckdb.connect(str(self.home / "w.duckdb")) as connection:
            return connection.execute(statement).fetchall()

    def tables(self) -> list[Any]:
        """The rows of all tables."""
        return [self.sql(f"SELECT * FROM {name} ORDER BY ALL") for name in ("r", "w")]


@pytest.fixture(scope="module")
def calm(eventlog_kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three loaded batches over the module's topic."""
    topic = Topic(eventlog_kafka.bootstrap_servers, "upkeep-of-everything")
    topic.create(PARTITIONS)
    made = Home(topic, tmp_path_factory.mktemp("upkeep") / "home")
    made.home.mkdir()
    for batch in range(3):
        send(topic, batch)
        with made.engine() as engine:
            stages.run(engine, made.pipeline, RunRequest("since_last", parallelism=2), f"r{batch}")
    return made


@pytest.fixture
def home(calm: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    """A copy to damage."""
    shutil.copytree(calm.home, tmp_path / "home")
    return Home(calm.topic, tmp_path / "home", capsys)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ranges that are read from Kafka from now on."""
    found: list[str] = []
    real = KafkaSource.read

    def read(self: KafkaSource, wanted: OffsetRange, **more: Any) -> Iterator[Any]:
        found.append(str(wanted))
        return real(self, wanted, **more)

    monkeypatch.setattr(KafkaSource, "read", read)
    return found


def told(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Code and place of all findings."""
    return {(f["code"], f["where"]) for f in document["findings"]}


def cut(file: Path) -> None:
    """Let a file lose its second half."""
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file: Path) -> None:
    """Change a manifest by hand."""
    document = json.loads(file.read_text())
    document["record"]["accounting"]["landed"] += 1
    file.chmod(0o644)
    file.write_text(json.dumps(document))


def test_each_damage_is_named_and_only_that_is_made_again(home: Home, reads: list[str]) -> None:
    """Raw files come from Kafka, parts from raw, records from the ledger, rows from parts; all to the byte, no more."""
    before, tables = home.standing(), home.tables()
    assert home.fsck("--deep")[0] == 0
    harms: list[tuple[str, Path, Callable[[Path], None]]] = [
        ("raw_missing", home.raw(0)[1], Path.unlink),
        ("raw_corrupt", home.raw(1)[4], cut),
        ("part_missing", home.files("s/pipeline=p/batch=*/gen=1/typed/partition=0/*")[2], Path.unlink),
        ("part_corrupt", home.files("s/pipeline=p/batch=*/gen=1/partials.*/partition=1/*")[0], cut),
        ("manifest_corrupt", home.files("s/epoch=1/manifests/*")[1], edit),
        ("commit_missing", home.files("s/pipeline=p/batch=*/gen=1/commit.json")[0], Path.unlink),
        ("fold_record_missing", home.files("s/pipeline=p/folds/w/log=1/000000000002.json")[0], Path.unlink),
    ]
    expected = set()
    for name, file, harm in harms:
        expected.add((name, str(file.relative_to(home.root))))
        harm(file)
    home.sql("DELETE FROM r WHERE _partition = 0 AND _offset = 7")
    home.sql("UPDATE w SET s = -1 WHERE k = 'k1' AND s = (SELECT max(s) FROM w WHERE k = 'k1')")
    expected |= {("rows_differ", "w.duckdb, table main.r"), ("windows_differ", "w.duckdb, table main.w")}
    code, document = home.fsck("--deep")
    assert (code, document["damaged"], told(document)) == (1, len(expected), expected)
    assert reads == []
    code, document = home.repair()
    assert [f["result"] for f in document["findings"] if not f["mended"]] == []
    assert (code, document["damaged"], document["mended"]) == (0, 0, len(expected))
    assert sorted(reads) == ["0:100-200", "1:400-500"]
    after = home.standing()
    assert {path: digest for path, (digest, _) in after.items()} == {
        path: digest for path, (digest, _) in before.items()
    }
    assert {path for path in before if before[path] != after[path]} == {where for _, where in expected if "/" in where}
    assert home.tables() == tables
    code, document = home.fsck("--deep")
    assert (code, document["findings"]) == (0, [])


def test_a_fold_file_that_is_gone_is_named_and_not_guessed(home: Home, reads: list[str]) -> None:
    """Nothing but a copy proves a fold's rows: repair says so, changes nothing, and the copy makes it sound again."""
    file = home.files("s/pipeline=p/folds/w/log=1/000000000002-upserts-*")[0]
    data = file.read_bytes()
    file.unlink()
    before = home.standing()
    code, document = home.repair()
    assert (code, told(document)) == (1, {("fold_missing", str(file.relative_to(home.root)))})
    assert "from a copy" in document["findings"][0]["mend"]
    assert (home.standing(), reads) == (before, [])
    file.write_bytes(data)
    assert home.fsck("--deep")[0] == 0


def test_what_kafka_has_let_go_is_said_and_left(home: Home, reads: list[str]) -> None:
    """Below the log start repair reads nothing and makes nothing; what Kafka still has is landed beside it."""
    home.topic.delete_before(50, LOSING)
    until("the log start has moved", lambda: home.topic.source().log_starts()[LOSING] == 50)
    assert home.fsck("--deep")[0] == 0
    gone, there = home.raw(LOSING)[:2]
    data = gone.read_bytes()
    for file in (gone, there):
        file.unlink()
    before = set(home.standing())
    code, document = home.repair()
    first, second = document["findings"]
    assert (code, document["damaged"], document["failed"]) == (1, 1, 1)
    assert (first["code"], first["mended"], second["mended"]) == ("raw_missing", False, True)
    assert first["result"].startswith("OffsetsLostError: Kafka begins at offset 50 of partition 2: ")
    assert f"from a copy of {gone.relative_to(home.root)}" in first["result"]
    assert reads == ["2:100-200"]
    assert set(home.standing()) - before == {str(there.relative_to(home.root))}
    gone.write_bytes(data)
    assert home.fsck("--deep")[0] == 0


def orphans(home: Home, n: int) -> set[str]:
    """Files that killed attempts left: a raw file, a part, a fold's file, a temporary one; paths below the root."""
    batch = home.files("s/pipeline=p/batch=*")[0].name
    made = {
        f"s/epoch=1/raw/partition=0/{90_000 + n:019d}-{90_001 + n:019d}.parquet",
        f"s/pipeline=p/{batch}/gen=9/typed/partition=0/{n:019d}-{n + 1:019d}.parquet",
        f"s/pipeline=p/folds/w/log=1/000000000001-delta-{n:016d}.parquet",
        f".tmp/{n:032d}",
    }
    for path in made:
        (home.root / path).parent.mkdir(parents=True, exist_ok=True)
        (home.root / path).write_bytes(b"left behind")
    return made


def test_gc_beside_a_run_removes_old_orphans_only(home: Home) -> None:
    """At each file that a run is about to publish gc removes what is older than the grace, and nothing of the run."""
    old = orphans(home, 1)
    born = max((home.root / path).stat().st_ctime_ns // 1_000_000 for path in old)
    until("the orphans are older than all that comes", lambda: now_ms() > born + 1)
    young = orphans(home, 2)
    send(home.topic, 3)
    removed: list[int] = []

    def collect() -> None:
        with home.engine() as other:
            now = now_ms()
            other.clock = lambda: now
            found = gc.collect(other, grace_ms=now - born - 1)
        removed.append(found["temporary"]["files"] + found["streams"][0]["orphans"]["files"])

    with home.engine() as engine:
        publish = engine.staging.publish

        def halfway(path: str, write: Callable[[Path], Any]) -> Any:
            def written(temporary: Path) -> Any:
                made = write(temporary)
                collect()
                return made

            return publish(path, written)

        engine.staging.publish = halfway  # type: ignore[method-assign]
        report = stages.run(engine, home.pipeline, RunRequest("since_last", parallelism=2), "beside")
    assert len(report["load"]["windows"]["w"]["folded"]) == 1
    assert len(removed) > 20
    assert (removed[0], set(removed[1:])) == (len(old), {0})
    assert [path for path in old if (home.root / path).exists()] == []
    assert all((home.root / path).exists() for path in young)
    code, document = home.fsck("--deep")
    assert (code, [f["code"] for f in document["findings"]]) == (0, ["orphans"])
    assert len(home.sql("SELECT * FROM r")) == 4 * RECORDS * PARTITIONS
