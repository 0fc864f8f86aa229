"""Adoption on a real broker: a topic that was deleted and created again becomes the stream's next epoch, on request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.ledger import open_ledger

DECLARATION = """
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream

stream = Stream({topic!r}, name="s", start="earliest", decode=Json({{"id": "BIGINT"}}))
good = Pipeline("good", stream=stream, outputs=[Rows(DuckDB("out.duckdb", table="t"))])
late = good.replace(name="late", outputs=[Rows(DuckDB("out.duckdb", table="late"))])
"""


class World:
    """A topic, a home, and the command line over them; two chain batches of ten records each are loaded."""

    def __init__(self, servers: str, topic: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.settings, self.topic, self.home, self._capsys = {"bootstrap.servers": servers}, topic, home, capsys
        self.topics = TopicAdmin(self.settings)
        (home / "pipes.py").write_text(DECLARATION.format(topic=topic))
        for first in (0, 10):
            self.send(range(first, first + 10))
            assert self("run", "good", "--since-last")[0] == 0

    def send(self, ids: range) -> None:
        produce(self.topic, [Record(json.dumps({"id": i}).encode(), b"k", i % 2) for i in ids], self.settings)

    def replace(self, ids: range) -> None:
        """Delete the topic, create it again, and fill it."""
        self.topics.delete(self.topic)
        deadline = time.monotonic() + 30
        while self.topic in self.topics.names():
            assert time.monotonic() < deadline, "the topic is not deleted"
        self.topics.create(self.topic, partitions=2)
        self.send(ids)

    def __call__(self, command: str, name: str, *words: str) -> tuple[int, Any, str]:
        """Exit code, the JSON document on stdout (None for none), stderr."""
        where = ("--bootstrap-servers", self.settings["bootstrap.servers"], "--home", str(self.home))
        code = main([command, "--pipeline", f"{self.home / 'pipes.py'}:{name}", *where, *words, "--output", "json"])
        out, err = self._capsys.readouterr()
        return code, json.loads(out) if out else None, err

    def adopt(self, *words: str) -> tuple[int, Any, str]:
        return self("adopt", "good", "--why", "the topic was made again", *words)

    def ids(self, table: str = "t") -> list[int]:
        with duckdb.connect(str(self.home / "out.duckdb"), read_only=True) as connection:
            return [row[0] for row in connection.execute(f"select id from {table} order by id").fetchall()]

    def files(self) -> list[str]:
        return sorted(str(f.relative_to(self.home)) for f in self.home.rglob("*") if f.is_file())


@pytest.fixture
def world(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> World:
    return World(eventlog_kafka.bootstrap_servers, eventlog_topic(partitions=2), tmp_path, capsys)


def test_identified_until_adopted(world: World) -> None:
    """A topic made again is refused though every offset exists; once adopted it is read from the start that was named.

    Rows of both epochs stand side by side, each offset once.
    """
    world.replace(range(100, 140))
    code, refused, _ = world("run", "good", "--since-last")
    assert (code, refused["error"]["type"]) == (1, "TopicReplacedError")
    assert "eventlog adopt" in refused["error"]["message"]
    before = world.files()
    code, dry, _ = world.adopt("--start", "0:5,1:0", "--dry-run")
    assert (code, dry["kept"], dry["epoch"]) == (0, False, 2)
    assert world.files() == before
    assert world("run", "good", "--since-last")[1]["error"]["type"] == "TopicReplacedError"
    code, adopted, _ = world.adopt("--start", "0:5,1:0")
    assert (code, adopted["epoch"], adopted["origin"]["offsets"]) == (0, 2, [[0, 5, "given"], [1, 0, "given"]])
    assert adopted["before"]["topic_id"] != adopted["topic"]["topic_id"]
    code, report, _ = world("run", "good", "--since-last")
    assert (code, report["run"]["epoch"], report["run"]["offsets"]) == (0, 2, 35)
    assert world.ids() == [*range(20), *(i for i in range(100, 140) if i % 2 or i >= 110)]


def test_a_decision_is_written_down(world: World) -> None:
    """Who adopted what, and why, stands in ledger and staging; adopting again is refused and changes nothing."""
    world.replace(range(100, 110))
    assert world.adopt("--start", "latest", "--who", "eve")[0] == 0
    (record,) = (world.home / "eventlog/staging/s/decisions/adopt").iterdir()
    kept = json.loads(record.read_text())["record"]
    assert (kept["who"], kept["why"], kept["epoch"]) == ("eve", "the topic was made again", 2)
    assert kept["payload"]["origin"]["offsets"] == [[0, 5, "log_end"], [1, 5, "log_end"]]
    before = world.files()
    code, again, _ = world.adopt("--start", "latest")
    assert (code, again["error"]["type"]) == (2, "RequestError")
    assert "pinned to this very topic" in again["error"]["message"]
    assert world.files() == before


def test_what_was_landed_before_is_loaded_without_its_topic(world: World) -> None:
    """A pipeline that comes later takes the landed batches of the old epoch first, then those of the new one."""
    world.replace(range(100, 110))
    world.adopt("--start", "earliest")
    epochs = []
    for _ in range(2):
        code, report, _ = world("run", "late", "--since-last")
        assert code == 0
        epochs.append((report["run"]["epoch"], [b["mode"] for b in report["run"]["batches"]]))
    assert epochs == [(1, ["replay", "replay"]), (2, ["new"])]
    assert world.ids("late") == [*range(20), *range(100, 110)]


def test_an_interval_before_the_adoption_is_taken_from_staging(world: World) -> None:
    """Its batches are replayed though their topic is gone; what was never planned is refused; later ones are new."""
    ledger = open_ledger(world.home / "eventlog/ledger.sqlite")
    bounds = [_text(plan.to_instant or 0) for plan, _ in ledger.batches("s")]
    ledger.close()
    world.replace(range(100, 110))
    code, refused, _ = world("run", "late", "--interval", bounds[0], bounds[1])
    assert (code, refused["error"]["type"]) == (1, "TopicReplacedError")
    adopted = _text(world.adopt("--start", "earliest")[1]["origin"]["instant"])
    code, report, _ = world("run", "late", "--interval", bounds[0], bounds[1])
    assert (code, report["run"]["epoch"], [b["mode"] for b in report["run"]["batches"]]) == (0, 1, ["replay"])
    assert world.ids("late") == list(range(10, 20))
    code, refused, _ = world("run", "late", "--interval", bounds[1], adopted)
    assert (code, refused["error"]["type"]) == (1, "TopicReplacedError")
    assert "epoch 1" in refused["error"]["message"]
    assert "nothing of it was" in refused["error"]["message"]
    code, report, _ = world("run", "late", "--interval", adopted, _later(adopted))
    assert (code, report["run"]["epoch"], [b["mode"] for b in report["run"]["batches"]]) == (0, 2, ["new"])
    assert world.ids("late") == [*range(10, 20), *range(100, 110)]


def _text(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat(timespec="milliseconds")


def _later(instant: str) -> str:
    """One millisecond later, once it is past."""
    later = datetime.fromisoformat(instant) + timedelta(milliseconds=1)
    while datetime.now(UTC) <= later:
        time.sleep(0.001)
    return later.isoformat(timespec="milliseconds")


def test_offsets_of_an_earlier_epoch_are_named_with_it(world: World) -> None:
    """The same offsets are other records in another epoch; what was never landed of a topic that is gone is refused."""
    world.replace(range(100, 110))
    world.adopt("--start", "earliest")
    code, report, _ = world("run", "late", "--offsets", "0:0-5", "--epoch", "1")
    assert (code, report["run"]["epoch"]) == (0, 1)
    assert world.ids("late") == list(range(10))
    code, report, _ = world("run", "late", "--offsets", "0:0-5")
    assert (code, report["run"]["epoch"]) == (0, 2)
    assert world.ids("late") == [*range(10), *range(100, 110, 2)]
    code, refused, _ = world("run", "late", "--offsets", "0:8-12", "--epoch", "1")
    assert (code, refused["error"]["type"]) == (1, "OffsetsLostError")
    assert "0:10-12" in refused["error"]["message"]
    assert world("run", "late", "--offsets", "0:8-12", "--epoch", "3")[0] == 2


def test_a_start_without_meaning_is_refused(world: World) -> None:
    """What cannot be a start is quoted, ends with 2, and opens no epoch."""
    world.replace(range(100, 110))
    before = world.files()
    for start in ("interval", "now-ish", "0:1,0:2", "group:", "-1:3"):
        code, refused, _ = world.adopt("--start=" + start)
        assert (code, refused["error"]["type"]) == (2, "RequestError")
    assert world.files() == before
