"""Topics and records: administration, the three ways of producing, and reading as members of a group."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import (
    EventLogError,
    RequestError,
    SourceUnavailableError,
    TopicNotFoundError,
)
from airflow_provider_eventlog.core.kafka import groups
from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import MODES, Receipt, Record, produce
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange


@pytest.fixture
def settings(eventlog_kafka: Any) -> dict[str, Any]:
    return {"bootstrap.servers": eventlog_kafka.bootstrap_servers}


def values(topic: str, settings: dict[str, Any], partition: int, count: int) -> list[bytes | None]:
    batches = KafkaSource(topic, settings).read(OffsetRange(partition, 0, count))
    return [value for batch in batches for value in batch.column("value").to_pylist()]


def test_topics_are_created_listed_and_deleted(settings: dict[str, Any]) -> None:
    """A topic appears with its partitions and settings, once; after deleting it is gone and cannot be deleted again."""
    admin, topic = TopicAdmin(settings), f"made-{uuid.uuid4().hex}"
    admin.create(topic, partitions=3, config={"retention.ms": "-1"})
    assert admin.names()[topic] == 3
    assert admin.watermarks(topic) == {0: (0, 0), 1: (0, 0), 2: (0, 0)}
    with pytest.raises(RequestError, match="exists already"):
        admin.create(topic)
    admin.delete(topic)
    deadline = time.monotonic() + 20
    while topic in admin.names():
        assert time.monotonic() < deadline
    with pytest.raises(TopicNotFoundError):
        admin.delete(topic)


@pytest.mark.parametrize("knobs", [{"partitions": 0}, {"config": {"no.such": "x"}}, {"replication": 9}])
def test_a_topic_that_cannot_be_made_is_refused(settings: dict[str, Any], knobs: dict[str, Any]) -> None:
    """What Kafka refuses is a stated failure, and no topic is made."""
    admin, topic = TopicAdmin(settings), f"refused-{uuid.uuid4().hex}"
    with pytest.raises(RequestError):
        admin.create(topic, **knobs)
    assert topic not in admin.names()


def test_watermarks_are_starts_and_ends(settings: dict[str, Any], eventlog_topic: Callable[..., str]) -> None:
    """Log start and last stable offset of every partition; an unknown topic is named."""
    topic = eventlog_topic(partitions=2)
    produce(topic, [Record(b"v", None, 1)] * 3, settings)
    assert TopicAdmin(settings).watermarks(topic) == {0: (0, 0), 1: (0, 3)}
    with pytest.raises(TopicNotFoundError, match="nowhere"):
        TopicAdmin(settings).watermarks("nowhere")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_receipts_say_where_each_record_is(
    settings: dict[str, Any], eventlog_topic: Callable[..., str], mode: str
) -> None:
    """One receipt a record, in the order of the records, and the record is found where its receipt says."""
    topic = eventlog_topic(partitions=2)
    records = [Record(b"%d" % i, b"k", i % 2, 1000 + i) for i in range(20)]
    result = produce(topic, records, settings, mode=mode)
    assert (result.sent, result.failed) == (20, 0)
    assert result.receipts == [Receipt(topic, i % 2, i // 2, 1000 + i) for i in range(20)]
    assert values(topic, settings, 1, 10) == [b"%d" % i for i in range(1, 20, 2)]


def test_fire_and_forget_still_loses_nothing(settings: dict[str, Any], eventlog_topic: Callable[..., str]) -> None:
    """Records handed over without receipts are delivered before the call ends, and counted."""
    topic = eventlog_topic()
    result = produce(topic, (Record(b"%d" % i, None, 0) for i in range(500)), settings, mode="fire_and_forget")
    assert (result.sent, result.failed, result.receipts) == (500, 0, [])
    assert values(topic, settings, 0, 500) == [b"%d" % i for i in range(500)]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_record_that_is_not_delivered_is_an_error(
    settings: dict[str, Any], eventlog_topic: Callable[..., str], mode: str
) -> None:
    """A record that the topic refuses (too large) fails the call; what was acknowledged before stays."""
    topic = eventlog_topic(config={"max.message.bytes": "2000"})
    produce(topic, [Record(b"small", None, 0)], settings, mode=mode)
    with pytest.raises(EventLogError):
        produce(topic, [Record(b"x" * 5000, None, 0)], settings, mode=mode)
    assert TopicAdmin(settings).watermarks(topic) == {0: (0, 1)}


def test_fire_and_forget_counts_what_failed(settings: dict[str, Any], eventlog_topic: Callable[..., str]) -> None:
    """Failures are told as a number where nobody asked for receipts."""
    topic = eventlog_topic(config={"max.message.bytes": "2000"})
    result = produce(topic, [Record(b"x" * 5000, None, 0)], settings, mode="fire_and_forget")
    assert (result.sent, result.failed) == (1, 1)


def test_a_megabyte_is_for_the_topic_to_refuse(settings: dict[str, Any], eventlog_topic: Callable[..., str]) -> None:
    """A message above the client's own default limit goes through where the topic takes it."""
    topic = eventlog_topic(config={"max.message.bytes": "4000000"})
    produce(topic, [Record(b"x" * 3_000_000, None, 0)], settings)
    assert [len(v or b"") for v in values(topic, settings, 0, 1)] == [3_000_000]


@pytest.mark.parametrize("mode", MODES)
def test_nobody_at_the_port_is_told_in_time(mode: str) -> None:
    """Records that cannot be delivered never look sent: an error within the deadline, or a count of failures."""
    began, undelivered = time.monotonic(), 0
    try:
        result = produce("t", [Record(b"v")], {"bootstrap.servers": "127.0.0.1:1"}, mode=mode, deadline_s=1.5)
        undelivered = result.failed if mode == "fire_and_forget" else 0
    except SourceUnavailableError:
        undelivered = 1
    assert undelivered == 1
    assert time.monotonic() - began < 15


def test_an_unknown_mode_is_refused() -> None:
    """Another way than the three is a request error, before anything is sent."""
    with pytest.raises(RequestError, match="sync, async, fire_and_forget"):
        produce("t", [Record(b"v")], {"bootstrap.servers": "127.0.0.1:1"}, mode="sometimes")


def test_two_members_of_a_group_share_the_partitions(
    settings: dict[str, Any], eventlog_topic: Callable[..., str]
) -> None:
    """Two members hold disjoint partitions, together all of them, and every record reaches one of them."""
    topic, group = eventlog_topic(partitions=4), f"g-{uuid.uuid4().hex}"
    held: dict[int, list[int]] = {0: [], 1: []}
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    stop = threading.Event()

    def member(number: int) -> None:
        def assigned(partitions: list[int]) -> None:
            held[number] = partitions

        for message in groups.consume(topic, group, settings, idle_s=8.0, on_assign=assigned):
            seen[number].append((message.partition() or 0, message.offset() or 0))
            if stop.is_set():
                return

    threads = [threading.Thread(target=member, args=(n,)) for n in held]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while not (len(held[0]) == len(held[1]) == 2 and sorted(held[0] + held[1]) == [0, 1, 2, 3]):
        assert time.monotonic() < deadline, held
        stop.wait(0.05)
    produce(topic, [Record(b"v", None, p) for p in range(4) for _ in range(10)], settings)
    while len({*seen[0], *seen[1]}) < 40:
        assert time.monotonic() < deadline + 30, seen
        stop.wait(0.05)
    stop.set()
    produce(topic, [Record(b"last", None, p) for p in range(4)], settings)
    for thread in threads:
        thread.join(30)
    assert {p for p, _ in seen[0]} == set(held[0])
    assert {p for p, _ in seen[1]} == set(held[1])


def test_a_member_goes_on_where_the_group_stood(settings: dict[str, Any], eventlog_topic: Callable[..., str]) -> None:
    """What was taken is committed when reading ends; the next member begins behind it."""
    topic, group = eventlog_topic(), f"g-{uuid.uuid4().hex}"
    produce(topic, [Record(b"%d" % i, None, 0) for i in range(10)], settings)
    first = [m.value() for m in groups.consume(topic, group, settings, limit=4)]
    rest = [m.value() for m in groups.consume(topic, group, settings, limit=6)]
    assert first + rest == [b"%d" % i for i in range(10)]
