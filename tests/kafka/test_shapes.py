"""Every shape of log, landed from a real broker: rows byte for byte, gaps as ranges, and an accounting that adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from airflow_provider_eventlog.core.kafka.producer import Record
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import RunRequest
from tests.kafka.rawproduce import crc32c, produce_at
from tests.kafka.world import Topic, World, counted, until

HOUR = 3_600_000
# 2024-01-01, 00:00 UTC.
DAY = 1_704_067_200_000
# With a segment a record, where each is dated a second after the one before it and sent on its own.
COMPACT = {"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01"}
FAR = {"message.timestamp.after.max.ms": str(2**63 - 1)}


class Make:
    """Makes topics and homes."""

    def __init__(self, servers: str, make: Callable[..., str], home: Path) -> None:
        self._servers, self._make, self._home = servers, make, home

    def __call__(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> World:
        return World(Topic(self._servers, self._make(partitions, config)), self._home)


@pytest.fixture
def make(eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path) -> Make:
    """`make(partitions=1, config=None)`: a world over a topic of its own."""
    return Make(eventlog_kafka.bootstrap_servers, eventlog_topic, tmp_path)


def direct(topic: Topic, end: int) -> set[int]:
    """Offsets that a plain client of Kafka's own library shows in partition 0, up to `end`."""
    consumer = Consumer(
        {
            **topic.settings,
            "group.id": "direct",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
    )
    consumer.assign([TopicPartition(topic.name, 0, topic.source().log_starts()[0])])
    seen: set[int] = set()
    while True:
        message = consumer.poll(20)
        assert message is not None, "the plain client waits in vain"
        if (error := message.error()) is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error.str()
            consumer.close()
            return seen
        if (offset := message.offset()) is not None and offset < end:
            seen.add(offset)


def transactions(topic: Topic) -> int:
    """Plain, committed and aborted records with their markers in turn; an aborted transaction and its marker last."""
    topic.values(b"0", b"1")
    topic.transaction(b"gone", b"gone", b"gone", end="abort")
    topic.transaction(b"kept", b"kept", end="commit")
    topic.values(b"9")
    topic.transaction(b"gone", b"gone", end="abort")
    topic.transaction(b"kept", end="commit")
    topic.transaction(b"gone", end="abort")
    return 17


def test_no_phantom_wherever_slices_begin(make: Make, tmp_path: Path) -> None:
    """Slices that begin inside an aborted transaction or on a marker, or end in markers, give committed rows only."""
    topic = make().topic
    end = transactions(topic)
    for size in (1, 2, 3, 5, 100):
        world = World(topic, tmp_path / str(size))
        pipeline = world.pipeline(max_slice_offsets=size)
        batch = world.plan(pipeline).batches[0].batch
        assert [str(r) for r in batch.ranges] == [f"0:0-{end}"]
        assert len(batch.slices) == -(-end // size)
        world.land(pipeline)
        counts = world.check(batch, aborted=6)
        assert (counts["landed"], counts["invisible"]) == (6, 11)
        assert {row["value"] for row in world.rows(batch).values()} == {b"0", b"1", b"9", b"kept"}


def test_a_range_without_a_visible_record_moves_the_chain(make: Make) -> None:
    """A batch of aborted records and markers alone lands, loads nothing, and the next one begins behind it."""
    world = make()
    world.topic.transaction(*[b"gone"] * 50, end="abort")
    pipeline = world.pipeline()
    batch = world.plan(pipeline).batches[0].batch
    world.land(pipeline)
    assert world.check(batch, aborted=50) == {
        "length": 51, "landed": 0, "invisible": 51, "aborted": 50, "lost": 0, "bytes": 0,
    }  # fmt: skip
    assert world.finish(pipeline)["batches"][0]["accounting"]["transform"]["passed"] == 0
    world.topic.values(b"after")
    batch = world.plan(pipeline, "next").batches[0].batch
    assert [str(r) for r in batch.ranges] == ["0:51-52"]
    world.land(pipeline, "next")
    world.check(batch)


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_an_open_transaction_holds_the_batch(make: Make, end: str) -> None:
    """A batch ends at the last stable offset; what the transaction turns out to be is the next batch's."""
    world = make()
    topic = world.topic
    topic.values(b"0", b"1")
    producer = topic.transaction(b"2", b"3", end="open")
    topic.values(b"4")
    pipeline = world.pipeline()
    held = world.plan(pipeline).batches[0].batch
    assert [str(r) for r in held.ranges] == ["0:0-2"]
    world.land(pipeline)
    world.check(held)
    if end == "commit":
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)
        del topic.sent[0, 2], topic.sent[0, 3]
    until("the marker is written", lambda: topic.source().log_ends() == {0: 6})
    rest = world.plan(pipeline, "next").batches[0].batch
    assert [str(r) for r in rest.ranges] == ["0:2-6"]
    world.land(pipeline, "next")
    world.check(rest, aborted=2 * (end == "abort"))


def test_compaction_gaps_are_invisible(make: Make) -> None:
    """What the log cleaner has removed is a gap, not a loss: what a plain client still sees is landed, no more."""
    world = make(config=COMPACT)
    topic = world.topic
    topic.send(*(Record(b"value %d" % i, b"key %d" % (i % 5), 0, DAY + 1000 * i) for i in range(40)), mode="sync")
    # The newest of each key, and what stands in the segment that is still written to.
    kept = {34, 35, 36, 37, 38, 39}
    until("the cleaner removed what is superseded", lambda: direct(topic, 40) == kept)
    topic.sent = {at: content for at, content in topic.sent.items() if at[1] in kept}
    pipeline = world.pipeline(max_slice_offsets=9)
    batch = world.plan(pipeline).batches[0].batch
    assert [str(r) for r in batch.ranges] == ["0:0-40"]
    assert topic.source().log_starts() == {0: 0}
    world.land(pipeline)
    assert world.check(batch) == {
        "length": 40, "landed": 6, "invisible": 34, "aborted": 0, "lost": 0, "bytes": 6 * (5 + 8),
    }  # fmt: skip


def test_compaction_after_the_plan_lands_what_is_left(make: Make) -> None:
    """Compaction between plan and land takes rows from the batch and never an offset: the accounting still adds up."""
    world = make(config=COMPACT)
    topic = world.topic
    topic.send(*(Record(b"value %d" % i, b"key", 0, DAY + 1000 * i) for i in range(10)), mode="sync")
    pipeline = world.pipeline(on_data_loss="record")
    batch = world.plan(pipeline).batches[0].batch
    topic.send(*(Record(b"value %d" % i, b"key", 0, DAY + 1000 * i) for i in range(10, 12)), mode="sync")
    until("the cleaner emptied the planned range", lambda: direct(topic, 12) == {10, 11})
    topic.sent.clear()
    world.land(pipeline)
    assert world.check(batch)["invisible"] == 10


MEMORY = """
import json, pathlib, re, sys
from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice
topic, settings, path, end = json.loads(sys.argv[1])
def peak():
    # Of this process alone: what getrusage tells begins with the parent's.
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024
source = KafkaSource(topic, settings, memory_mb=16)
list(source.read(OffsetRange(0, 0, 1)))
before = peak()
wanted = OffsetRange(0, 0, end)
info = rawfile.write_slice(pathlib.Path(path), source.read(wanted), Slice("s", 1, wanted), lambda: source.last_read)
print(json.dumps([info.rows, info.payload_bytes, before, peak()]))
"""


def test_bounded_memory_with_messages_of_10_mb(make: Make, tmp_path: Path) -> None:
    """Messages of 10 MB, between small ones, land in memory for a few of them, not for the range."""
    world = make(config={"max.message.bytes": str(11 << 20)})
    topic, count, size = world.topic, 24, 10 << 20
    pairs = ((Record(b"%02d" % i * (size // 2), b"large"), Record(b"small")) for i in range(count))
    topic.send(*(record for pair in pairs for record in pair), mode="sync")
    arguments = json.dumps([topic.name, topic.settings, str(tmp_path / "slice"), 2 * count])
    command = [sys.executable, "-c", MEMORY, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, payload, before, peak = json.loads(done.stdout)
    assert (rows, payload) == (2 * count, count * (size + 10))
    # The client's queue, four records at most of unknown size, two row groups, and each once more as Arrow's.
    assert peak - before < 200, f"{peak - before} MiB for a range of {count * 10} MB"
    pipeline = world.pipeline()
    batch = world.plan(pipeline).batches[0].batch
    world.land(pipeline)
    world.check(batch)


def test_partitions_that_appear_after_the_plan(make: Make) -> None:
    """A batch reads just its planned partitions; the next plan takes the new ones from their first offset."""
    world = make(2)
    topic = world.topic
    topic.values(b"a", b"b", partition=0)
    topic.values(b"c", partition=1)
    pipeline = world.pipeline()
    first = world.plan(pipeline).batches[0].batch
    topic.grow(4)
    for partition in range(4):
        topic.values(*(b"new %d" % i for i in range(3)), partition=partition)
    world.land(pipeline)
    assert [str(r) for r in first.ranges] == ["0:0-2", "1:0-1"]
    world.check(first)
    second = world.plan(pipeline, "next").batches[0].batch
    assert [str(r) for r in second.ranges] == ["0:2-5", "1:1-4", "2:0-3", "3:0-3"]
    world.land(pipeline, "next")
    assert world.check(second)["landed"] == 12


def test_two_hundred_partitions(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic of 200 partitions is planned with one request for all of them a question, and landed whole."""
    world = make(200)
    topic = world.topic
    topic.send(*(Record(b"%d/%d" % (p, i), b"k", p, DAY + i) for p in range(200) for i in range(3)))
    asked = counted(monkeypatch)
    pipeline = world.pipeline(start="interval")
    request = RunRequest("interval", interval=(DAY, DAY + 2), parallelism=1)
    batch = world.plan(pipeline, request=request).batches[0].batch
    # The high watermarks, the ends, the starts, and both bounds of the interval.
    assert asked == [200] * 5
    assert batch.length == 400
    asked.clear()
    world.land(pipeline)
    # Whether the log start has passed the slice, before and after the read; nothing else, whatever the partitions.
    assert Counter(asked) == {1: 400}
    assert world.check(batch)["landed"] == 400


def test_every_timestamp_is_landed_as_it_is(make: Make) -> None:
    """0, none (-1), 1970, the last instant that Kafka can write, and order without reason: none of it stops a batch."""
    world = make(config=FAR)
    stamps = [0, -1, 1, DAY, 2**63 - 1, -1, DAY - 1, 4_102_444_800_000, 0]
    servers = world.topic.settings["bootstrap.servers"]
    assert crc32c(b"123456789") == 0xE3069283
    offsets = produce_at(servers, world.topic.name, [(b"%d" % i, stamp) for i, stamp in enumerate(stamps)])
    assert offsets == list(range(len(stamps)))
    found: list[int | None] = []
    kinds: set[int] = set()
    for batch in world.topic.source().read(OffsetRange(0, 0, len(stamps))):
        found += batch.column("timestamp").cast("int64").to_pylist()
        kinds |= set(batch.column("timestamp_type").to_pylist())
    assert found == [None if stamp < 0 else stamp for stamp in stamps]
    assert kinds == {1}
    pipeline = world.pipeline(max_slice_offsets=4)
    world.plan(pipeline)
    assert world.land(pipeline)["accounting"]["landed"] == len(stamps)
    assert world.finish(pipeline)["batches"][0]["accounting"]["transform"]["passed"] == len(stamps)


def test_a_record_from_the_future_pins_no_cut(make: Make) -> None:
    """A record dated beyond max_future_skew is read past: intervals end where believed records say, none lost."""
    world = make(config=FAR)
    future = DAY + 10 * 365 * 24 * HOUR * 10
    stamps = [DAY, DAY + 1, future, DAY + 2, DAY + HOUR, DAY + HOUR + 1, future, DAY + 2 * HOUR]
    produced = [(b"%d" % i, stamp) for i, stamp in enumerate(stamps)]
    produce_at(world.topic.settings["bootstrap.servers"], world.topic.name, produced)
    world.topic.sent = {(0, i): (None, value, ()) for i, (value, _) in enumerate(produced)}
    pipeline = world.pipeline(start="interval")
    taken = []
    for hour in range(3):
        request = RunRequest("interval", interval=(DAY + hour * HOUR, DAY + (hour + 1) * HOUR), parallelism=1)
        batch = world.plan(pipeline, f"r{hour}", request).batches[0].batch
        taken += [str(r) for r in batch.ranges]
        world.land(pipeline, f"r{hour}")
        world.check(batch)
    assert taken == ["0:0-4", "0:4-7", "0:7-8"]
    with world.engine(pipeline) as engine:
        found = [cut.found_by[0] for cut in engine.ledger.cuts("s", 1)]
    assert found == ["log_start", "probe", "probe", "log_end"]


def test_times_of_the_broker(make: Make) -> None:
    """With LogAppendTime the broker's clock dates the records, the raw rows say so, and intervals go by it."""
    import time

    world = make(config={"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000) - 1
    world.topic.send(*(Record(b"%d" % i, None, 0, DAY) for i in range(5)))
    pipeline = world.pipeline(start="interval")
    # Until the clock is past the last record: an interval that ends in the future is refused.
    until("the clock moves", lambda: time.time() * 1000 > world.topic.source().offsets_at(before)[0].timestamp + 1)  # type: ignore[operator]
    after = int(time.time() * 1000)
    batch = world.plan(pipeline, request=RunRequest("interval", interval=(before, after))).batches[0].batch
    assert [str(r) for r in batch.ranges] == ["0:0-5"]
    world.land(pipeline)
    world.check(batch)
    rows = world.rows(batch).values()
    assert {row["timestamp_type"] for row in rows} == {2}
    assert all(before <= row["timestamp"].timestamp() * 1000 <= after for row in rows)


def test_bytes_and_headers_as_they_are(make: Make) -> None:
    """Null and empty are not the same; headers come twice, without a value, in order, and by the thousand."""
    world = make()
    many = [(f"h{i % 7}", b"%d" % i if i % 3 else None) for i in range(10_000)]
    world.topic.send(
        Record(None, None),
        Record(None, b"tombstone"),
        Record(b"", b""),
        Record(b"v", None, headers=[("a", b"1"), ("a", b"1"), ("a", None), ("", b""), ("ä", b"\xff")]),
        Record(bytes(range(256)), bytes(range(255, -1, -1))),
        Record(b"many", b"k", headers=many),
        Record(b"none", b"k"),
    )
    pipeline = world.pipeline(max_slice_offsets=5)
    batch = world.plan(pipeline).batches[0].batch
    world.land(pipeline)
    world.check(batch)
    figures = world.finish(pipeline)["batches"][0]["accounting"]
    assert (figures["transform"]["tombstones"], figures["transform"]["passed"]) == (2, 5)
