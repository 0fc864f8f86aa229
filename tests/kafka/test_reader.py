"""Exact reading on a real broker: where a range begins, where it ends, and what may hide in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.errors import (
    OffsetsLostError,
    RangeUnavailableError,
    ReadCancelledError,
    SourceUnavailableError,
    TopicNotFoundError,
)
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice
from airflow_provider_eventlog.core.protocols import SliceRead


class Log:
    """One topic with one partition, written plainly or in transactions."""

    def __init__(self, servers: str, topic: str) -> None:
        self.settings: dict[str, Any] = {"bootstrap.servers": servers}
        self.topic, self._open = topic, 0

    def plain(self, *values: bytes | None) -> None:
        produce(self.topic, [Record(v, b"k", 0) for v in values], self.settings)

    def transaction(self, *values: bytes, end: str) -> Producer:
        """Write values in one transaction; `end` is commit, abort or open. Its marker takes an offset of its own."""
        self._open += 1
        producer = Producer({**self.settings, "transactional.id": f"{self.topic}-{self._open}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for value in values:
            producer.produce(self.topic, value, partition=0)
        producer.flush(30)
        if end == "commit":
            producer.commit_transaction(30)
        elif end == "abort":
            producer.abort_transaction(30)
        return producer

    def wait_for_end(self, end: int) -> None:
        """The coordinator writes a marker after it has answered the producer."""
        source, deadline = self.source(), time.monotonic() + 20
        while source.log_ends()[0] != end:
            assert time.monotonic() < deadline

    def source(self, **knobs: Any) -> KafkaSource:
        return KafkaSource(self.topic, self.settings, **{"deadline_s": 20.0, **knobs})

    def read(self, start: int, end: int, **knobs: Any) -> tuple[dict[int, bytes | None], SliceRead]:
        source = self.source(**knobs)
        rows: dict[int, bytes | None] = {}
        for batch in source.read(OffsetRange(0, start, end)):
            rows.update(zip(batch.column("offset").to_pylist(), batch.column("value").to_pylist(), strict=True))
        return rows, source.last_read

    def delete_before(self, offset: int) -> None:
        # Kept until the answer is there: the futures of a client that was collected never resolve.
        admin = AdminClient(self.settings)
        for future in admin.delete_records([TopicPartition(self.topic, 0, offset)]).values():
            future.result(30)


@pytest.fixture
def log(eventlog_kafka: Any, eventlog_topic: Callable[..., str]) -> Log:
    return Log(eventlog_kafka.bootstrap_servers, eventlog_topic(config={"max.message.bytes": "20000000"}))


def gaps(read: SliceRead) -> list[str]:
    return [str(gap) for gap in read.gaps]


def test_any_range_gives_exactly_its_records(log: Log) -> None:
    """Every range of a small log, the lone record and the empty range among them, gives just what is in it."""
    log.plain(*(b"%d" % i for i in range(6)))
    for start in range(7):
        for end in range(start, 7):
            rows, read = log.read(start, end)
            assert rows == {i: b"%d" % i for i in range(start, end)}
            assert read.gaps == ()


def test_a_range_ends_by_position_not_by_silence(log: Log) -> None:
    """A range that ends before the log does ends at once; none of the later records is given."""
    log.plain(*(b"x" for _ in range(2000)))
    began = time.monotonic()
    rows, _ = log.read(0, 1)
    assert list(rows) == [0]
    assert time.monotonic() - began < 10


def test_markers_at_the_end_of_a_range_end_it(log: Log) -> None:
    """A range whose last offsets are transaction markers is read to its end."""
    log.transaction(b"a", b"b", end="commit")
    log.wait_for_end(3)
    rows, read = log.read(0, 3)
    assert rows == {0: b"a", 1: b"b"}
    assert (gaps(read), read.aborted) == (["0:2-3"], 0)


def test_no_phantom_of_aborted_records(log: Log) -> None:
    """Aborted records are invisible offsets, told apart from markers by reading the gap once more."""
    log.plain(b"0")
    log.transaction(b"gone", b"gone", b"gone", end="abort")
    log.transaction(b"kept", end="commit")
    rows, read = log.read(0, 7)
    assert rows == {0: b"0", 5: b"kept"}
    assert (gaps(read), read.aborted) == (["0:1-5", "0:6-7"], 3)


@pytest.mark.parametrize(("start", "end"), [(1, 4), (2, 3), (2, 5), (4, 5)])
def test_a_range_inside_an_aborted_transaction_is_empty(log: Log, start: int, end: int) -> None:
    """Ranges that begin in the middle of an aborted transaction, or on its marker, hold nothing and end."""
    log.plain(b"0")
    log.transaction(b"gone", b"gone", b"gone", end="abort")
    log.plain(b"after")
    rows, read = log.read(start, end)
    assert rows == {}
    assert gaps(read) == [f"0:{start}-{end}"]


def test_an_open_transaction_holds_the_end(log: Log) -> None:
    """Nothing of an open transaction is planned; a range beyond the last stable offset is refused in time."""
    log.plain(b"0", b"1")
    producer = log.transaction(b"open", end="open")
    log.plain(b"3")
    assert log.source().log_ends() == {0: 2}
    with pytest.raises(RangeUnavailableError, match="last stable offset") as caught:
        log.read(0, 4, deadline_s=1.5)
    assert caught.value.retriable
    producer.commit_transaction(30)
    assert list(log.read(0, 5)[0]) == [0, 1, 2, 3]


def test_expired_offsets_are_named(log: Log) -> None:
    """A range that begins below the log start is refused with exactly what is gone, before anything is read."""
    log.plain(*(b"x" for _ in range(10)))
    log.delete_before(6)
    with pytest.raises(OffsetsLostError, match="partition 0, offsets 2 to 5") as caught:
        log.read(2, 9)
    assert not caught.value.retriable
    assert list(log.read(6, 9)[0]) == [6, 7, 8]


def test_offsets_that_expire_during_the_read_fail_it(log: Log) -> None:
    """Even if every record arrived, a range whose start expired meanwhile is not trusted."""
    log.plain(*(b"x" for _ in range(3000)))
    source = log.source()
    batches = source.read(OffsetRange(0, 0, 3000))
    assert next(batches).num_rows > 0
    log.delete_before(100)
    with pytest.raises(OffsetsLostError, match="offsets 0 to 99"):
        for _ in batches:
            pass


def test_a_deleted_topic_ends_the_read(log: Log) -> None:
    """A topic that is deleted is a failure of its own name, not an endless wait."""
    log.plain(b"x")
    from airflow_provider_eventlog.core.kafka.admin import TopicAdmin

    admin, deadline = TopicAdmin(log.settings), time.monotonic() + 20
    admin.delete(log.topic)
    while log.topic in admin.names():
        assert time.monotonic() < deadline
    with pytest.raises(TopicNotFoundError, match=log.topic):
        log.read(0, 1, deadline_s=3.0)


def test_large_messages_come_through(log: Log) -> None:
    """A message of 10 MB, ten times what one fetch asks for, is read between its small neighbours."""
    large = {**log.settings, "message.max.bytes": 20_000_000}
    produce(log.topic, [Record(v, None, 0) for v in (b"s", b"x" * 10_000_000, b"e")], large)
    rows, _ = log.read(0, 3)
    assert [len(v or b"") for v in rows.values()] == [1, 10_000_000, 1]


def test_an_unreachable_broker_is_a_retriable_failure_in_time() -> None:
    """Nobody at the port: an error within the deadline, and it may be tried again."""
    source = KafkaSource("t", {"bootstrap.servers": "127.0.0.1:1"}, deadline_s=1.0)
    for call in (source.describe, source.log_ends, lambda: list(source.read(OffsetRange(0, 0, 1)))):
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError) as caught:
            call()
        assert caught.value.retriable
        assert time.monotonic() - began < 15


def test_cancelling_ends_a_read_within_moments(log: Log) -> None:
    """A read that waits for something stops soon after it is told to."""
    log.plain(b"0")
    log.transaction(b"open", end="open")
    cancel = threading.Event()
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(ReadCancelledError):
        log.read(0, 2, cancel=cancel)
    assert time.monotonic() - began < 5
    timer.join()


def test_the_file_does_not_depend_on_how_it_was_fetched(log: Log, tmp_path: Path) -> None:
    """The same range gives the same bytes, whatever the sizes of the fetches were."""
    log.plain(*(b"%d" % i * (i % 50) for i in range(3000)))
    written = []
    for index, memory in enumerate((1, 64)):
        source = KafkaSource(log.topic, {**log.settings, "message.max.bytes": 1_000_000}, memory_mb=memory)
        path = tmp_path / f"{index}.parquet"
        info = rawfile.write_slice(
            path,
            source.read(OffsetRange(0, 5, 2995)),
            Slice("s", 1, OffsetRange(0, 5, 2995)),
            partial(getattr, source, "last_read"),
        )
        assert info.rows == 2990
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_lookups_by_time_are_one_request_for_all_partitions(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str]
) -> None:
    """The first record at or after an instant, per partition; none where there is none."""
    topic, settings = eventlog_topic(partitions=3), {"bootstrap.servers": eventlog_kafka.bootstrap_servers}
    produce(topic, [Record(b"v", None, p, 1000 * (i + 1)) for p in (0, 1) for i in range(5)], settings)
    source = KafkaSource(topic, settings)
    found = source.offsets_at(2500)
    assert {p: (f.offset, f.timestamp) for p, f in found.items()} == {0: (2, 3000), 1: (2, 3000), 2: (None, None)}
    assert {p: f.offset for p, f in source.offsets_at(9000).items()} == {0: None, 1: None, 2: None}
    assert (source.log_starts(), source.log_ends()) == ({0: 0, 1: 0, 2: 0}, {0: 5, 1: 5, 2: 0})


def test_a_record_from_the_future_is_read_past(log: Log) -> None:
    """Probing finds the first believed record behind one that is dated too late."""
    stamps = [1000, 99_000_000, 2000, 3000]
    produce(log.topic, [Record(b"v", None, 0, s) for s in stamps], log.settings)
    source = log.source()
    assert source.offsets_at(1500)[0].offset == 1
    assert source.probe(0, 2, 1500, 10_000, 10) == 2
    assert source.probe(0, 2, 2500, 10_000, 1) is None


def test_a_topic_created_again_has_another_identity(log: Log) -> None:
    """Name and cluster stay, the topic id tells the two apart."""
    from airflow_provider_eventlog.core.kafka.admin import TopicAdmin

    before = log.source().describe().identity
    admin = TopicAdmin(log.settings)
    admin.delete(log.topic)
    deadline = time.monotonic() + 20
    while True:
        try:
            admin.create(log.topic)
            break
        except Exception:
            assert time.monotonic() < deadline
    after = log.source().describe().identity
    assert (before.topic, before.cluster_id) == (after.topic, after.cluster_id)
    assert before.topic_id != after.topic_id
