"""Starting and stopping with programs that only look like brokers: failures, deadlines, foreign processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.devkafka import broker, cluster
from airflow_provider_eventlog.devkafka.errors import DevKafkaError, PortTakenError
from airflow_provider_eventlog.devkafka.jars import KAFKA_VERSION
from airflow_provider_eventlog.devkafka.state import ClusterState, Node, read_state, write_state

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A `java` to be filled in by the test; storage counts as formatted."""
    path = tmp_path / "java"
    monkeypatch.setattr(cluster, "find_java", lambda: path)
    monkeypatch.setattr(cluster, "class_path", lambda log: [])
    monkeypatch.setattr(broker, "format_storage", lambda *words, **knobs: None)
    return path


def behave(java: Path, body: str) -> None:
    java.write_text(f"#!/bin/sh\n{body}\n")
    java.chmod(0o755)


def recorded(data_dir: Path, pid: int) -> Node:
    """A cluster of one node whose state names this process."""
    node = Node(1, 1, 2, pid)
    data_dir.mkdir(exist_ok=True)
    write_state(data_dir, ClusterState("id", KAFKA_VERSION, (node,)))
    return node


def test_a_foreign_process_is_never_ended(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """A recorded pid that belongs to another program counts as a dead broker, and stop leaves it running."""
    processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
    recorded(tmp_path, processes[0].pid)
    assert [(n.pid, n.alive, n.answers) for n in cluster.status(tmp_path).nodes] == [(None, False, False)]
    assert cluster.stop(tmp_path) == []
    assert processes[0].poll() is None


def test_the_broker_of_another_folder_is_never_ended(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """The whole path decides: a folder whose name begins with this one's is another folder."""
    other = str(broker.properties_file(Path(f"{tmp_path}-2"), 1))
    processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", other]))
    recorded(tmp_path, processes[0].pid)
    assert cluster.stop(tmp_path) == []
    assert processes[0].poll() is None


def test_a_broker_that_ignores_the_request_is_killed(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """What has not ended after the grace is killed, and reported as ended."""
    command = [sys.executable, "-c", STUBBORN, str(broker.properties_file(tmp_path, 1))]
    processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    assert processes[0].stdout is not None
    processes[0].stdout.readline()
    node = recorded(tmp_path, processes[0].pid)
    assert broker.is_alive(tmp_path, node)
    assert broker.end(tmp_path, [node], grace=0.1) == [node.pid]
    assert not broker.is_alive(tmp_path, node)


def test_nothing_started_is_nothing_to_stop(tmp_path: Path) -> None:
    """A folder without a cluster has an empty status, nothing to stop, and stays untouched."""
    found = cluster.status(tmp_path)
    assert (found.nodes, found.running, found.bootstrap_servers) == ((), False, "")
    assert json.loads(json.dumps(found.to_json()))["nodes"] == []
    assert cluster.stop(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_dies_is_explained(java: Path, tmp_path: Path) -> None:
    """The error holds the last lines of its log and where the log is; the state names no process."""
    behave(java, 'echo first; for i in $(seq 30); do echo line $i; done; echo "ERROR bad config"; exit 1')
    data = tmp_path / "data"
    with pytest.raises(DevKafkaError, match="died while it started") as caught:
        cluster.start(data_dir=data, timeout=20.0)
    text = str(caught.value)
    assert "ERROR bad config" in text
    assert "first" not in text
    assert str(broker.log_file(data, 1)) in text
    known = read_state(data)
    assert known is not None
    assert [node.pid for node in known.nodes] == [None]


def test_one_broker_that_dies_takes_those_started_with_it_along(
    java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails leaves no process behind, not even of the brokers that were fine."""
    behave(java, 'case "$*" in *node-3*) exit 1;; esac\nwhile :; do sleep 0.05; done')
    spawn, pids = broker.spawn, []

    def counted(*words: Any) -> int:
        pids.append(spawn(*words))
        return pids[-1]

    monkeypatch.setattr(broker, "spawn", counted)
    with pytest.raises(DevKafkaError, match="Broker 3 died"):
        cluster.start(3, data_dir=tmp_path / "data", timeout=20.0)
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_port_taken_by_another_is_tried_again_elsewhere(java: Path, tmp_path: Path) -> None:
    """Self-chosen ports are chosen anew, a bounded number of times; then the error says so."""
    seen = tmp_path / "seen"
    behave(java, f'for last; do :; done; grep ^listeners= "$last" >> {seen}; echo Address already in use; exit 1')
    with pytest.raises(PortTakenError, match="Address already in use"):
        cluster.start(data_dir=tmp_path / "data", timeout=20.0)
    tried = seen.read_text().split()
    assert len(set(tried)) == len(tried) == cluster.PORT_ATTEMPTS


def test_a_given_port_that_is_taken_is_named_and_nothing_started(java: Path, tmp_path: Path) -> None:
    """A port that the caller chose is not replaced by another, and no broker is spawned for it."""
    behave(java, f"touch {tmp_path}/spawned")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port}"):
            cluster.start(data_dir=tmp_path / "data", port=port)
    assert not (tmp_path / "spawned").exists()


def test_a_broker_that_never_answers_meets_the_deadline(java: Path, tmp_path: Path) -> None:
    """Start gives up at its deadline, says which broker is silent, and ends it."""
    behave(java, f"echo $$ > {tmp_path}/pid; echo still loading; while :; do sleep 0.05; done")
    began = time.monotonic()
    with pytest.raises(DevKafkaError, match=r"(?s)brokers \[1\].*did not answer.*still loading"):
        cluster.start(data_dir=tmp_path / "data", timeout=1.0)
    assert time.monotonic() - began < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_format_that_fails_is_quoted(java: Path, tmp_path: Path) -> None:
    """What Kafka's storage tool said is in the error."""
    behave(java, "echo no such feature >&2; exit 1")
    node = Node(1, 1, 2)
    with pytest.raises(DevKafkaError, match=r"(?s)could not format.*no such feature"):
        broker._run_format(java, [], tmp_path, ClusterState("id", KAFKA_VERSION, (node,)), node)


@pytest.mark.parametrize(
    ("nodes", "kafka", "message"),
    [(3, KAFKA_VERSION, "cluster of 1 node"), (1, "0.1", "Kafka 0.1"), (0, KAFKA_VERSION, "1 to 9"), (10, "x", "1 to")],
)
def test_a_cluster_of_another_shape_is_refused(
    java: Path, tmp_path: Path, nodes: int, kafka: str, message: str
) -> None:
    """A folder is not given another number of nodes or another release, and its state stays as it was."""
    write_state(tmp_path, ClusterState("id", kafka if nodes == 1 else KAFKA_VERSION, (Node(1, 1, 2),)))
    before = (tmp_path / "cluster.json").read_bytes()
    with pytest.raises(DevKafkaError, match=message):
        cluster.start(nodes, data_dir=tmp_path)
    assert (tmp_path / "cluster.json").read_bytes() == before


def test_a_comma_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Kafka would take the folder's name apart: it is refused before anything is made."""
    with pytest.raises(DevKafkaError, match="comma"):
        cluster.start(data_dir=tmp_path / "a,b")
    assert list(tmp_path.iterdir()) == []
