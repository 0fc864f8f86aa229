"""Windows on a real broker by the command line: run, windows, skip, upgrade, resume, fsck, rebuild, and dry runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core.kafka.producer import Record, produce

# 2024-01-01 00:00 UTC.
T0, MINUTE = 1_704_067_200_000, 60_000
DECLARATION = """
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Stream, Tumbling, Windows

stream = Stream({topic!r}, name="s", start="interval", event_time="ts",
                decode=Json({{"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"}}))
sums = Windows(Tumbling("1 minute"), by=["k"], aggregates={{"n": "count(*)", "s": "sum(v)"}},
               target=DuckDB("w.duckdb", table="w"))
plain = Pipeline("p", stream=stream, outputs=[sums], transform="select k, v, ts from batch",
                 checks=[Check("not_negative", "v >= 0")])
doubled = plain.replace(transform="select k, 2 * v as v, ts from batch")
with_late = plain.replace(checks=[], outputs=[
    Windows(Tumbling("1 minute"), by=["k"], aggregates={{"n": "count(*)", "s": "sum(v)"}},
            target=DuckDB("w.duckdb", table="w"), late=DuckDB("w.duckdb", table="late"))])
"""


class Shell:
    """The command line over one topic and home."""

    def __init__(self, servers: str, topic: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.servers, self.topic, self.home, self._capsys = servers, topic, home, capsys
        self.file = home / "pipes.py"
        self.file.write_text(DECLARATION.format(topic=topic))

    def send(self, *values: tuple[str, int, float]) -> None:
        """Events (key, value, minutes after T0), dated like their records."""
        records = []
        for key, value, minutes in values:
            at = T0 + round(minutes * MINUTE)
            text = json.dumps({"k": key, "v": value, "ts": f"2024-01-01T00:{int(minutes):02d}:00Z"})
            records.append(Record(text.encode(), b"k", 0, at))
        produce(self.topic, records, {"bootstrap.servers": self.servers})

    def __call__(self, command: str, *words: str) -> tuple[int, Any]:
        code = main([command, *words, "--home", str(self.home), "--output", "json"])
        out, _ = self._capsys.readouterr()
        return code, json.loads(out) if out else None

    def at(self, command: str, name: str, *words: str) -> tuple[int, Any]:
        """A command over a pipeline of the file, with a way to Kafka."""
        return self(command, "--pipeline", f"{self.file}:{name}", "--bootstrap-servers", self.servers, *words)

    def interval(self, number: int, name: str = "plain") -> tuple[int, Any]:
        """Run ten minutes."""
        times = [f"2024-01-01T00:{10 * n:02d}:00Z" for n in (number, number + 1)]
        return self.at("run", name, "--interval", *times, "--gap", "absorb")

    def text(self, command: str, *words: str) -> str:
        """What a command shows to people."""
        assert main([command, *words, "--home", str(self.home)]) == 0
        return self._capsys.readouterr().out

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the tables, or change them behind everybody's back."""
        with duckdb.connect(str(self.home / "w.duckdb")) as connection:
            return connection.execute(statement).fetchall()

    def sums(self) -> list[tuple[Any, ...]]:
        """Minute and sum of each window."""
        with duckdb.connect(str(self.home / "w.duckdb"), read_only=True) as connection:
            query = "SELECT CAST((epoch_ms(window_start) - 1704067200000) / 60000 AS INTEGER), s FROM w ORDER BY ALL"
            return connection.execute(query).fetchall()


@pytest.fixture
def shell(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A topic with four intervals of events; the second one breaks a check."""
    made = Shell(eventlog_kafka.bootstrap_servers, eventlog_topic(partitions=1), tmp_path, capsys)
    made.send(("a", 1, 2), ("a", 2, 9), ("a", -1, 12), ("a", 4, 21), ("a", 8, 29), ("a", 16, 35))
    return made


def test_windows_skip_and_upgrade(shell: Shell) -> None:
    """What the frontier waits for is shown; skipped it goes on; a changed recipe waits for an upgrade."""
    assert "merged from partial results: n, s" in shell.at("check", "plain")[1]["windows"][0]
    assert shell.interval(0)[0] == 0
    code, failed = shell.interval(1)
    assert (code, failed["error"]["type"]) == (1, "CheckFailedError")
    code, report = shell.interval(2)
    assert (code, report["load"]["windows"]["w"]["outcome"]) == (0, "waiting")
    _, shown = shell("windows", "--pipeline", "p", "--output-name", "w")
    (output,) = shown["outputs"]
    assert (output["folds"], output["watermark"], output["open"]) == (1, "2024-01-01T00:09:00.000Z", 1)
    batch = output["waiting"].rsplit(" ", 1)[1]
    assert [(w["k"], w["_rows"], w["_final"]) for w in shown["windows"]] == [("a", 1, False), ("a", 1, True)]
    skip = ("skip", "--pipeline", "p", "--batch", batch, "--why", "a broken meter")
    assert shell(*skip, "--dry-run")[1]["kept"] is False
    assert shell("resume", "--pipeline", f"{shell.file}:plain")[1]["windows"]["w"]["folded"] == []
    assert shell(*skip)[1]["kept"] is True
    assert "2 folds, 2 change-sets loaded" in shell.text("resume", "--pipeline", f"{shell.file}:plain")
    assert shell.sums() == [(2, 1), (9, 2), (21, 4), (29, 8)]
    code, refused = shell.interval(3, "doubled")
    assert (code, refused["error"]["type"]) == (1, "RecipeChangedError")
    words = ("--reopen-open-windows", "--why", "twice is right")
    dry = shell.at("upgrade", "doubled", *words, "--dry-run")[1]
    assert (dry["kept"], dry["batches"]) == (False, 1)
    assert shell.sums() == [(2, 1), (9, 2), (21, 4), (29, 8)]
    assert shell.at("upgrade", "doubled", *words)[1]["kept"] is True
    assert shell.sums() == [(2, 1), (9, 2), (21, 4), (29, 16)]
    assert shell.interval(3, "doubled")[0] == 0
    assert shell.sums() == [(2, 1), (9, 2), (21, 4), (29, 16), (35, 32)]
    assert "window_start" in shell.text("windows", "--pipeline", "p", "--output-name", "w", "--state", "open")


def test_fsck_and_rebuild_of_windows(shell: Shell) -> None:
    """Changed and dropped tables, those of late rows too: named, mended or made anew, and the same as before."""
    late = json.dumps({"k": "a", "v": 32, "ts": "2024-01-01T00:02:00Z"}).encode()
    produce(shell.topic, [Record(late, b"k", 0, T0 + 36 * MINUTE)], {"bootstrap.servers": shell.servers})
    for number in (0, 2, 3):
        assert shell.interval(number, "with_late")[0] == 0

    def tables() -> list[Any]:
        return [shell.sql(f"SELECT * FROM {name} ORDER BY ALL") for name in ("w", "late")]

    before = tables()
    assert [len(rows) for rows in before] == [6, 1]
    assert shell("fsck", "--deep")[0] == 0
    shell.sql("UPDATE w SET s = 0 WHERE s = 16")
    shell.sql("DELETE FROM late")
    assert shell("fsck")[0] == 0
    code, document = shell("fsck", "--deep")
    (stream,) = document["streams"]
    assert (code, [f["code"] for f in stream["findings"]]) == (1, ["windows_differ"] * 2)
    assert "changed: 'a', '2024-01-01 00:35:00+00'" in stream["findings"][0]["what"]
    assert shell("fsck", "--deep", "--repair", "--dry-run")[0] == 1
    code, document = shell("fsck", "--deep", "--repair")
    assert (code, document["mended"], tables()) == (0, 2, before)
    assert "sound" in shell.text("fsck", "--deep")
    shell.sql("DROP TABLE w")
    shell.sql("DROP TABLE late")
    code, document = shell("fsck", "--repair")
    (stream,) = document["streams"]
    assert (code, [f["code"] for f in stream["findings"]]) == (1, ["table_replaced"] * 2)
    named = [f["mend"].split("--output-name ")[1].split("`")[0] for f in stream["findings"]]
    rebuild = ("rebuild", "--pipeline", f"{shell.file}:with_late")
    dry = shell(*rebuild, "--dry-run")[1]
    assert [(o["output"], o["found"], o["batches"]) for o in dry["outputs"]] == [
        ("w", "gone", 3),
        ("w.late", "gone", 3),
    ]
    for name in named:
        assert shell(*rebuild, "--output-name", name)[0] == 0
    assert tables() == before
    assert shell(*rebuild, "--output-name", "w.late")[0] == 2
    code, document = shell(*rebuild, "--output-name", "w.late", "--replace")
    assert (code, document["outputs"][0]["replaced"], tables()) == (0, "late__replaced_2", before)
    assert shell("fsck", "--deep")[0] == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("windows", "--pipeline", "p", "--state", "open"), 2),
        (("windows", "--pipeline", "p", "--output-name", "x"), 2),
        (("windows", "--pipeline", "p", "--limit", "0"), 2),
        (("windows", "--pipeline", "other"), 2),
        (("skip", "--pipeline", "p", "--batch", "none", "--why", "x"), 2),
        (("skip", "--pipeline", "p", "--hole", "yesterday", "--why", "x"), 2),
        (("skip", "--pipeline", "p", "--why", "x"), 2),
    ],
)
def test_wrong_words_change_nothing(shell: Shell, words: tuple[str, ...], code: int) -> None:
    """Unknown outputs, batches and times are wrong usage; no decision is made."""
    shell.interval(0)
    assert shell(*words)[0] == code
    _, shown = shell("windows", "--pipeline", "p")
    assert (shown["outputs"][0]["folds"], shown["outputs"][0]["waiting"]) == (1, None)
