"""Look-ups on a real broker: identity, log starts and ends, offsets by time, each one request for all partitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.errors import ConnectionConfigError, TopicNotFoundError
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.planning import plan_run
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows, Stream
from tests.kafka.world import Topic, World, counted, until

PARTITIONS = 12


@pytest.fixture
def source(eventlog_kafka: Any, eventlog_topic: Callable[..., str]) -> KafkaSource:
    """A topic of twelve partitions; partition p holds p records at 1000, 2000, ... ms."""
    topic, settings = eventlog_topic(partitions=PARTITIONS), {"bootstrap.servers": eventlog_kafka.bootstrap_servers}
    produce(topic, [Record(b"v", None, p, 1000 * (i + 1)) for p in range(PARTITIONS) for i in range(p)], settings)
    return KafkaSource(topic, settings, deadline_s=20.0)


def test_each_lookup_is_one_request(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts, ends, high watermarks and offsets by time ask once for all partitions, however many there are."""
    asked = counted(monkeypatch)
    assert source.log_starts() == dict.fromkeys(range(PARTITIONS), 0)
    assert source.log_ends() == {p: p for p in range(PARTITIONS)}
    assert source.high_watermarks() == {p: p for p in range(PARTITIONS)}
    source.offsets_at(1)
    assert asked == [PARTITIONS] * 4


def test_a_plan_asks_once_for_all_partitions(
    source: KafkaSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan by time over a real topic: starts, ends, high watermarks and each bound are one request for offsets."""
    stream = Stream(source.topic, start="interval")
    pipeline = Pipeline("p", stream=stream, outputs=[Rows(DuckDB("x.duckdb", table="t"))])
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    asked = counted(monkeypatch)
    request = RunRequest("interval", interval=(2000, 5000))
    made = plan_run(ledger, lambda: source, pipeline, request, "r", 1_000_000)
    assert sum(p.batch.length for p in made.batches) == sum(min(p - 1, 3) for p in range(2, PARTITIONS))
    assert asked == [PARTITIONS] * 5
    ledger.close()


def test_an_open_transaction_shows_between_last_stable_offset_and_high_watermark(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path
) -> None:
    """The plan ends at the first open record, names its offset and how many wait; the next one takes them."""
    topic = Topic(eventlog_kafka.bootstrap_servers, eventlog_topic(partitions=2))
    topic.values(b"a", b"b", b"c")
    topic.values(b"d", partition=1)
    producer = topic.transaction(b"e", b"f", end="open")
    topic.values(b"g")
    source = topic.source()
    until("the open records are replicated", lambda: source.high_watermarks() == {0: 6, 1: 1})
    assert source.log_ends() == {0: 3, 1: 1}
    world = World(topic, tmp_path)
    made = world.plan(world.pipeline(), "r1")
    assert [str(r) for r in made.batches[0].batch.ranges] == ["0:0-3", "1:0-1"]
    (note,) = made.notes
    assert "partition 0 waits at offset 3 (3 offsets wait)" in note
    assert "partition 1" not in note
    assert note in stages.headline(made)
    producer.commit_transaction(30)
    until("the marker is written", lambda: source.log_ends()[0] == 7)
    made = world.plan(world.pipeline(), "r2")
    assert ([str(r) for r in made.batches[0].batch.ranges], made.notes) == (["0:3-7"], ())


@pytest.mark.parametrize(
    ("instant", "offset"), [(0, 0), (1000, 0), (1001, 1), (2000, 1), (11_000, 10), (11_001, None), (2**40, None)]
)
def test_offsets_by_time_are_the_first_at_or_after(source: KafkaSource, instant: int, offset: int | None) -> None:
    """The record at the instant itself counts; beyond a partition's last record there is none."""
    found = source.offsets_at(instant)
    assert sorted(found) == list(range(PARTITIONS))
    for partition, answer in found.items():
        expected = offset if offset is not None and offset < partition else None
        assert answer.offset == expected
        assert answer.timestamp == (None if expected is None else 1000 * (expected + 1))
    assert list(source.offsets_at(instant, [3])) == [3]
    assert source.offsets_at(instant, []) == {}


def test_deleted_records_move_the_start(source: KafkaSource) -> None:
    """The log start follows retention, partition by partition."""
    admin = AdminClient(source._settings)
    for future in admin.delete_records([TopicPartition(source.topic, 5, 3)]).values():
        future.result(30)
    assert source.log_starts() == {p: 3 if p == 5 else 0 for p in range(PARTITIONS)}
    assert source.log_start(5) == 3


def test_a_group_is_read_once_and_never_written(source: KafkaSource) -> None:
    """Committed offsets of a group are found; partitions without one are left out; an unknown group has none."""
    consumer = Consumer({**source._settings, "group.id": source.topic, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(source.topic, 7, 4)], asynchronous=False)
    consumer.close()
    assert source.group_offsets(source.topic) == {7: 4}
    list(source.read(OffsetRange(7, 0, 7)))
    assert source.group_offsets(source.topic) == {7: 4}
    assert source.group_offsets("nobody") == {}


@pytest.mark.parametrize(
    "call",
    [
        KafkaSource.describe,
        KafkaSource.log_starts,
        KafkaSource.log_ends,
        lambda s: s.offsets_at(0),
        lambda s: s.log_start(0),
        lambda s: list(s.read(OffsetRange(0, 0, 1))),
    ],
)
def test_an_unknown_topic_is_named(eventlog_kafka: Any, call: Callable[[KafkaSource], object]) -> None:
    """Every way to a topic that does not exist ends in the same error, with the topic's name."""
    missing = KafkaSource("no-such-topic", {"bootstrap.servers": eventlog_kafka.bootstrap_servers}, deadline_s=20.0)
    with pytest.raises(TopicNotFoundError, match="no-such-topic") as caught:
        call(missing)
    assert not caught.value.retriable


def test_a_closed_source_opens_again(source: KafkaSource) -> None:
    """Closing releases the client, may be done twice, and does not make the source useless."""
    before = source.describe()
    source.close()
    source.close()
    assert source.describe() == before


def test_settings_are_checked_before_any_client_is_made() -> None:
    """A setting that is not allowed is refused when the source is made; nothing is connected."""
    with pytest.raises(ConnectionConfigError, match=r"plugin\.library\.paths"):
        KafkaSource("t", {"bootstrap.servers": "127.0.0.1:1", "plugin.library.paths": "/tmp/x.so"})
