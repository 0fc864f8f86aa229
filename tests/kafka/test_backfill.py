"""Back-fill in this process on a real broker: cut into runs, dry, stopped and gone on with, expired, by time, holes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.errors import SourceUnavailableError
from airflow_provider_eventlog.core.kafka.producer import Record, produce

DECLARATION = """
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream

stream = Stream({topic!r}, name="s", start="earliest", decode=Json({{"id": "BIGINT"}}))
good = Pipeline("good", stream=stream, outputs=[Rows(DuckDB("out.duckdb", table="t"))])
picky = good.replace(name="picky", checks=[Check("no_30", "id <> 30")])
"""
COUNT = 100
# Each record a minute after the one before it, on one day of 2013.
FIRST = 1_357_000_000_000


class Shell:
    def __init__(self, servers: str, topic: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.servers, self.topic, self.home, self._capsys = servers, topic, home, capsys
        self.file = home / "pipes.py"
        self.file.write_text(DECLARATION.format(topic=topic))

    def __call__(self, command: str, *words: str, name: str = "good") -> tuple[int, Any, str]:
        """Exit code, the JSON document on stdout, stderr."""
        where = ("--bootstrap-servers", self.servers, "--home", str(self.home))
        code = main([command, "--pipeline", f"{self.file}:{name}", *where, *words, "--output", "json"])
        out, err = self._capsys.readouterr()
        return code, json.loads(out) if out else None, err

    def rows(self, sql: str = "select count(*), count(distinct (_partition, _offset)) from t") -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.home / "out.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture
def shell(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Shell:
    topic = eventlog_topic(partitions=2, config={"retention.ms": "-1"})
    records = [Record(json.dumps({"id": i}).encode(), b"k", i % 2, FIRST + 60_000 * i) for i in range(COUNT)]
    sent = produce(topic, records, {"bootstrap.servers": eventlog_kafka.bootstrap_servers})
    assert sent.failed == 0
    return Shell(eventlog_kafka.bootstrap_servers, topic, tmp_path, capsys)


def expire(shell: Shell, partition: int, before: int) -> None:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": shell.servers})
    for future in admin.delete_records([TopicPartition(shell.topic, partition, before)]).values():
        future.result(30)


def test_chunks_align_to_owners_and_load_every_offset_once(shell: Shell) -> None:
    """What a run has taken is replayed whole in one run, the rest is cut; asking again changes nothing."""
    assert shell("run", "--offsets", "0:10-30,1:5-15")[0] == 0
    what = ("backfill", "--offsets", "0:0-50,1:0-50", "--chunk", "32")
    code, dry, _ = shell(*what, "--dry-run")
    assert (code, dry["offsets"], dry["gone"]) == (0, COUNT, [])
    first = dry["runs"][0]["batches"]
    assert [(b["state"], b["offsets"]) for b in first] == [("new", 10)]
    assert [(b["state"], b["offsets"]) for b in dry["runs"][1]["batches"]] == [("replay from staging", 30), ("new", 2)]
    assert dry["bytes"] > COUNT
    assert shell.rows() == [(30, 30)]
    code, done, err = shell(*what, "--local")
    assert (code, done["failed"]) == (0, [])
    assert {run["state"] for run in done["runs"]} == {"success"}
    assert [run["run_id"] for run in done["runs"]] == [run["run_id"] for run in dry["runs"]]
    assert "back-fill runs ended" in err
    assert shell.rows() == [(COUNT, COUNT)]
    loads = shell.rows("select * from _eventlog_load order by all")
    code, again, _ = shell(*what, "--local")
    assert (code, [r["run_id"] for r in again["runs"]]) == (0, [r["run_id"] for r in dry["runs"]])
    assert shell.rows("select * from _eventlog_load order by all") == loads
    assert {b["state"] for run in shell(*what, "--dry-run")[1]["runs"] for b in run["batches"]} == {
        "replay from staging"
    }


def test_a_dry_run_before_anything_writes_nothing(shell: Shell) -> None:
    """Without ledger and staging the bytes are unknown, and the dry run leaves no file."""
    code, dry, _ = shell("backfill", "--offsets", "0:0-50", "--dry-run")
    assert (code, dry["bytes"], len(dry["runs"])) == (0, None, 1)
    assert {p.name for p in shell.home.iterdir()} == {"pipes.py"}


def test_a_stopped_back_fill_goes_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that may pass ends the whole with 1; asked again, the same runs are finished."""
    land, calls = stages.land, iter(range(COUNT))

    def broken(*args: Any) -> Any:
        if next(calls) == 2:
            raise SourceUnavailableError("Kafka has gone for lunch.")
        return land(*args)

    what = ("backfill", "--offsets", "0:0-50", "--chunk", "10", "--local")
    monkeypatch.setattr(stages, "land", broken)
    code, stopped, err = shell(*what)
    assert code == 1
    assert [run["state"] for run in stopped["runs"]] == ["success"] * 2 + ["failed"] + ["not started"] * 2
    assert stopped["failed"] == [run["run_id"] for run in stopped["runs"][2:]]
    assert "lunch" in err
    monkeypatch.setattr(stages, "land", land)
    assert shell("backfill", "--failed", "--dry-run")[1]["asked"] == "0:20-30"
    code, done, _ = shell(*what)
    assert (code, [r["run_id"] for r in done["runs"]]) == (0, [r["run_id"] for r in stopped["runs"]])
    assert shell.rows() == [(50, 50)]


def test_one_bad_run_does_not_stop_the_others(shell: Shell) -> None:
    """A run whose check fails is named and ends the whole with 1; the others load, and --failed finds the rest."""
    code, done, err = shell("backfill", "--offsets", "0:0-50", "--chunk", "10", "--local", name="picky")
    assert (code, [run["state"] for run in done["runs"]]) == (1, ["success", "failed", "success", "success", "success"])
    assert "no_30" in done["runs"][1]["error"]
    assert done["runs"][1]["run_id"] in err
    assert shell.rows() == [(40, 40)]
    code, rest, _ = shell("backfill", "--failed", "--local", name="picky")
    assert (code, rest["asked"], rest["failed"]) == (1, "0:10-20", [rest["runs"][0]["run_id"]])


def test_expired_offsets_are_named(shell: Shell) -> None:
    """Below the log start: the dry run names it and ends with 1, a run refuses, --skip-gone takes what is left."""
    assert shell("run", "--offsets", "0:0-10")[0] == 0
    expire(shell, 0, 20)
    code, dry, _ = shell("backfill", "--offsets", "0:0-50", "--dry-run")
    assert (code, [(g["ranges"], g["batch_id"]) for g in dry["gone"]]) == (1, [(["0:10-20"], None)])
    code, refused, _ = shell("backfill", "--offsets", "0:0-50", "--local")
    assert (code, refused["error"]["type"]) == (1, "OffsetsLostError")
    assert "offsets 10 to 19" in refused["error"]["message"]
    assert shell.rows() == [(10, 10)]
    code, done, _ = shell("backfill", "--offsets", "0:0-50", "--local", "--skip-gone")
    assert (code, [r["ranges"] for r in done["runs"]]) == (0, ["0:0-10,0:20-50"])
    assert shell.rows() == [(40, 40)]


def test_by_time_and_holes(shell: Shell) -> None:
    """Record times become offsets without a cut; a hole between two intervals is found, filled, and gone afterwards."""
    times = [f"2013-01-01T{h:02d}:{m:02d}:00Z" for h, m in ((0, 26), (0, 46), (1, 6), (1, 26))]
    code, dry, _ = shell("backfill", "--from", times[1], "--to", times[2], "--dry-run")
    assert (code, dry["asked"]) == (0, "0:10-20,1:10-20")
    assert shell("backfill", "--holes", "--local")[1]["runs"] == []
    for start, end in ((times[0], times[1]), (times[2], times[3])):
        assert shell("run", "--interval", start, end, "--gap", "hole")[0] == 0
    assert shell.rows() == [(40, 40)]
    code, filled, _ = shell("backfill", "--holes", "--local", "--chunk", "15")
    assert (code, filled["asked"]) == (0, "0:10-20,1:10-20")
    assert [r["ranges"] for r in filled["runs"]] == ["0:10-20,1:10-15", "1:15-20"]
    assert shell.rows() == [(60, 60)]
    assert shell("backfill", "--holes", "--dry-run")[1]["asked"] == ""


def test_people_see_a_table(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """Text output names runs, states, unknown bytes and what is gone."""
    expire(shell, 1, 5)
    where = ("--pipeline", f"{shell.file}:good", "--bootstrap-servers", shell.servers, "--home", str(shell.home))
    assert main(["backfill", *where, "--offsets", "1:0-10", "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert all(words in out for words in ("unknown", "new", "1:5-10", "gone, below the log start: 1:0-5, 5 offsets"))
    assert main(["backfill", *where, "--offsets", "1:5-10", "--local"]) == 0
    assert "success" in capsys.readouterr().out
