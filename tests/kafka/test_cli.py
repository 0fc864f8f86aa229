"""The command line on a real broker: one JSON document on stdout, exit codes, and nothing written where refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core.kafka.producer import Record, produce

DECLARATION = """
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream

stream = Stream({topic!r}, name="s", start="earliest", decode=Json({{"id": "BIGINT"}}))
good = Pipeline("good", stream=stream, outputs=[Rows(DuckDB("out.duckdb", table="t"))])
typo = good.replace(name="typo", transform="select idd from batch")
broken = good.replace(name="broken", transform="selec id")
column = good.replace(name="column", checks=[Check("c", "nope > 1")])
time = good.replace(name="time", event_time="ts")
"""


class Shell:
    def __init__(self, servers: str, topic: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.servers, self.topic, self.home, self._capsys = servers, topic, home, capsys
        self.file = home / "pipes.py"
        self.file.write_text(DECLARATION.format(topic=topic))

    def __call__(self, *words: str) -> tuple[int, Any, str]:
        """Exit code, the JSON document on stdout (None for none), stderr."""
        code = main([*words, "--output", "json"])
        out, err = self._capsys.readouterr()
        return code, json.loads(out) if out else None, err

    def pipeline(self, command: str, name: str, *words: str) -> tuple[int, Any, str]:
        where = ("--bootstrap-servers", self.servers, "--home", str(self.home))
        return self(command, "--pipeline", f"{self.file}:{name}", *where, *words)


@pytest.fixture
def shell(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Shell:
    topic = eventlog_topic(partitions=2)
    records = [Record(json.dumps({"id": i}).encode(), b"k", i % 2) for i in range(20)]
    produce(topic, records, {"bootstrap.servers": eventlog_kafka.bootstrap_servers})
    return Shell(eventlog_kafka.bootstrap_servers, topic, tmp_path, capsys)


def test_check_plan_run_and_accounting(shell: Shell) -> None:
    """The commands in their order: check and plan write nothing, run loads, accounting balances."""
    code, checked, _ = shell.pipeline("check", "good")
    assert (code, checked["columns"]) == (0, {"id": "BIGINT"})
    code, plan, _ = shell.pipeline("plan", "good", "--offsets", "0:2-5,1:0-4")
    assert (code, plan["offsets"]) == (0, 7)
    assert {p.name for p in shell.home.iterdir()} == {"pipes.py"}
    code, report, err = shell.pipeline("run", "good", "--offsets", "0:2-5,1:0-4")
    assert (code, report["load"]["batches"][0]["outputs"]["t"]["rows"]) == (0, 7)
    assert "landed offsets: 7 of 7" in err
    assert shell.pipeline("run", "good", "--since-last")[1]["run"]["offsets"] == 13
    code, accounting, _ = shell("accounting", "--pipeline", "good", "--home", str(shell.home))
    assert (code, accounting["total"]["landing"]["landed"], len(accounting["batches"])) == (0, 20, 2)
    code, status, _ = shell("status", "--home", str(shell.home))
    assert (code, status["streams"][0]["holes"], status["pipelines"][0]["batches"]["loaded"]) == (0, [], 2)
    assert shell("batches", "--pipeline", "good", "--home", str(shell.home))[1]["batches"][0]["state"] == "loaded"


def test_a_dry_run_is_a_plan(shell: Shell) -> None:
    """`run --dry-run` tells the plan and writes nothing."""
    code, document, _ = shell.pipeline("run", "good", "--since-last", "--dry-run")
    assert (code, document["run"]["offsets"]) == (0, 20)
    assert {p.name for p in shell.home.iterdir()} == {"pipes.py"}


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("typo", "TransformError", "idd"),
        ("broken", "TransformError", "selec"),
        ("column", "CheckDefinitionError", "nope"),
        ("time", "EventTimeError", "ts"),
    ],
)
def test_a_wrong_declaration_is_a_stated_failure(shell: Shell, name: str, kind: str, words: str) -> None:
    """SQL that does not parse, unknown columns and a missing event time end with 1, before anything is written."""
    for command in (("check",), ("run", "--since-last")):
        code, document, err = shell.pipeline(command[0], name, *command[1:])
        assert (code, document["error"]["type"]) == (1, kind)
        assert words in document["error"]["message"]
        assert kind in err
    assert {p.name for p in shell.home.iterdir()} <= {"pipes.py", "eventlog"}
    assert shell("status", "--home", str(shell.home))[1]["streams"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("--offsets", "0:5-1"),
        ("--offsets", "x"),
        ("--interval", "2013-01-02", "2013-01-01"),
        ("--interval", "yesterday", "today"),
        ("--offsets", "0:1-2", "--max-batches", "3"),
        (),
        ("--since-last", "--offsets", "0:1-2"),
    ],
)
def test_wrong_usage_ends_with_2(shell: Shell, words: tuple[str, ...]) -> None:
    """Words that mean nothing end with 2 and write nothing."""
    assert shell.pipeline("run", "good", *words)[0] == 2
    assert {p.name for p in shell.home.iterdir()} == {"pipes.py"}


def test_offsets_beyond_the_topic_are_a_stated_failure(shell: Shell) -> None:
    """Well-formed offsets that the topic does not have end with 1 and name the largest end."""
    code, document, _ = shell.pipeline("plan", "good", "--offsets", "0:5-11")
    assert (code, document["error"]["type"]) == (1, "OffsetRangeError")
    assert "10" in document["error"]["message"]


def test_unlisted_settings_are_refused(shell: Shell) -> None:
    """A client setting that is not on the list is refused by name, its value is not shown."""
    code, document, _ = shell.pipeline("plan", "good", "--since-last", "--config", "plugin.library.paths=/tmp/evil")
    assert (code, document["error"]["type"]) == (1, "ConnectionConfigError")
    assert "plugin.library.paths" in document["error"]["message"]
    assert "evil" not in document["error"]["message"]


@pytest.mark.parametrize("reference", ["nothing.py:x", "pipes.py", "{file}:absent", "{file}:stream"])
def test_a_pipeline_that_is_not_there_is_wrong_usage(shell: Shell, reference: str) -> None:
    """A file or variable that does not exist ends with 2 and says what there is."""
    words = (
        "plan",
        "--since-last",
        "--pipeline",
        reference.format(file=shell.file),
        "--bootstrap-servers",
        shell.servers,
    )
    assert shell(*words)[0] == 2


def test_topics_produce_and_read(shell: Shell) -> None:
    """Topics are created and listed; records are sent with receipts and read from an exact offset."""
    kafka = ("--bootstrap-servers", shell.servers)
    topic = f"{shell.topic}-more"
    assert shell("topics", "create", topic, "--partitions", "3", *kafka)[0] == 0
    code, document, _ = shell("topics", "create", topic, *kafka)
    assert (code, document["error"]["type"]) == (2, "RequestError")
    listed = {t["topic"]: len(t["partitions"]) for t in shell("topics", "list", *kafka)[1]["topics"]}
    assert listed[topic] == 3
    for mode, receipts in (("sync", 2), ("async", 2), ("fire-and-forget", 0)):
        words = ("produce", topic, "--mode", mode, "--value", "k\ta", "--value", "k\tb")
        code, sent, _ = shell(*words, *kafka)
        assert (code, sent["sent"], sent["failed"], len(sent["receipts"])) == (0, 2, 0, receipts)
    records = shell("read", topic, *kafka)[1]["records"]
    assert [r["value"] for r in records] == ["a", "b"] * 3
    partition = records[0]["partition"]
    assert [r["offset"] for r in shell("read", topic, "--from", f"{partition}:4", *kafka)[1]["records"]] == [4, 5]
    assert shell("topics", "delete", topic, *kafka)[0] == 0
    assert shell("read", topic, *kafka)[0] == 1


def test_two_members_share_the_partitions(shell: Shell) -> None:
    """Two members of one group read every record once between them."""
    words = [sys.executable, "-m", "airflow_provider_eventlog.cli.main", "consume", shell.topic, "--group", shell.topic]
    words += ["--idle", "4", "--limit", "100", "--bootstrap-servers", shell.servers, "--output", "json"]
    members = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(member.communicate(timeout=60)[0]) for member in members]
    # Whoever comes first has all partitions until the other joins, and again when the other has left.
    histories = [answer["assigned"] for answer in answers]
    assert any(sorted(one + other) == [0, 1] for one in histories[0] for other in histories[1] if one and other)
    read = [(r["partition"], r["offset"]) for answer in answers for r in answer["records"]]
    assert len(set(read)) == 20


def test_an_unreachable_broker_is_retriable(shell: Shell) -> None:
    """Nobody at the port: a retriable failure within the deadline, exit code 1."""
    from airflow_provider_eventlog.core.errors import SourceUnavailableError
    from airflow_provider_eventlog.core.kafka.source import KafkaSource

    source = KafkaSource("t", {"bootstrap.servers": "127.0.0.1:1"}, deadline_s=1.0)
    with pytest.raises(SourceUnavailableError) as caught:
        source.describe()
    assert caught.value.retriable
