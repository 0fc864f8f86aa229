"""What the reader must not do: skip, end early, wait for ever, or take an error for data. The client is made to lie."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, Message

from airflow_provider_eventlog.core.errors import (
    EventLogError,
    RangeUnavailableError,
    ReadError,
    ReadTimeoutError,
    SourceAuthorizationError,
    SourceUnavailableError,
)
from airflow_provider_eventlog.core.kafka import reader
from airflow_provider_eventlog.core.kafka.config import FIXED
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange

COUNT = 1200


class Client:
    """Stands in for the client's class: real consumers whose answers pass through `answer(call, messages)`."""

    def __init__(self, answer: Callable[[int, list[Message]], list[Message]]) -> None:
        self.answer, self.settings, self.made = answer, [], 0  # type: ignore[var-annotated]

    def __call__(self, settings: dict[str, Any]) -> Any:
        self.settings.append(settings)
        client, real, number = self, confluent_kafka.Consumer(settings), self.made
        self.made += 1

        class Consumer:
            calls = 0

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def consume(self, count: int, timeout: float) -> list[Message]:
                messages = real.consume(count, timeout)
                self.calls += 1
                return client.answer(number, messages) if messages else messages

        return Consumer()


@pytest.fixture
def source(eventlog_kafka: Any, eventlog_topic: Callable[..., str]) -> KafkaSource:
    """A topic with one partition of COUNT small records."""
    topic, settings = eventlog_topic(), {"bootstrap.servers": eventlog_kafka.bootstrap_servers}
    produce(topic, [Record(b"%d" % i, None, 0) for i in range(COUNT)], settings)
    return KafkaSource(topic, settings, deadline_s=2.0)


def offsets(source: KafkaSource, start: int, end: int) -> list[int]:
    return [o for batch in source.read(OffsetRange(0, start, end)) for o in batch.column("offset").to_pylist()]


def without(offset: int, readers: Sequence[int]) -> Callable[[int, list[Message]], list[Message]]:
    return lambda number, messages: [m for m in messages if number not in readers or m.offset() != offset]


@pytest.mark.parametrize("offset", [0, 600, COUNT - 1])
def test_a_skipped_record_never_passes_as_a_gap(
    source: KafkaSource, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """A committed record that the first read lost is found when the gap is read again, and fails the read."""
    monkeypatch.setattr(reader, "Consumer", Client(without(offset, readers=[0])))
    with pytest.raises(EventLogError) as caught:
        offsets(source, 0, COUNT)
    assert isinstance(caught.value, (ReadError, ReadTimeoutError, RangeUnavailableError))
    assert caught.value.retriable
    with pytest.raises(RuntimeError):
        _ = source.last_read


def test_records_out_of_order_or_twice_fail_the_read(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets must rise; records that come twice are not landed twice."""
    monkeypatch.setattr(reader, "Consumer", Client(lambda _, messages: [messages[0], *messages]))
    with pytest.raises(ReadError, match="out of order"):
        offsets(source, 0, COUNT)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, SourceAuthorizationError),
        (KafkaError._TRANSPORT, SourceUnavailableError),
        (KafkaError._BAD_MSG, ReadError),
        (KafkaError.UNKNOWN, ReadError),
        (KafkaError._AUTO_OFFSET_RESET, RangeUnavailableError),
        (KafkaError.OFFSET_OUT_OF_RANGE, RangeUnavailableError),
    ],
)
def test_an_error_among_the_records_is_raised(
    source: KafkaSource, monkeypatch: pytest.MonkeyPatch, code: int, failure: type[EventLogError]
) -> None:
    """Whatever error a message carries, wherever it stands in a list, it ends the read and never becomes a row."""
    error = Message(error=KafkaError(code))
    monkeypatch.setattr(reader, "Consumer", Client(lambda _, messages: [*messages, error]))
    with pytest.raises(failure):
        offsets(source, 0, COUNT)


def test_a_missing_right_to_a_group_does_not_matter(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """No group is used, so that its authorization error among the records is passed over."""
    error = Message(error=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    monkeypatch.setattr(reader, "Consumer", Client(lambda _, messages: [error, *messages]))
    assert offsets(source, 0, COUNT) == list(range(COUNT))


def test_silence_ends_in_a_retriable_failure(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read to which nothing comes is never a short success."""
    monkeypatch.setattr(reader, "Consumer", Client(lambda _, messages: []))
    with pytest.raises(ReadTimeoutError, match="made no progress") as caught:
        offsets(source, 0, COUNT)
    assert caught.value.retriable


def test_a_slow_writer_is_not_silence(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that the caller takes between two batches does not count against the deadline."""

    class Clock:
        late = 0.0

        def monotonic(self) -> float:
            import time

            return time.monotonic() + self.late

    clock = Clock()
    # An empty answer after every full one, as when the queue has just run dry.
    answers: list[int] = []

    def answer(_: int, messages: list[Message]) -> list[Message]:
        answers.append(len(messages))
        return messages

    class Dry(Client):
        def __call__(self, settings: dict[str, Any]) -> Any:
            real = super().__call__(settings)
            turn = iter(range(1 << 30))

            class Consumer:
                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def consume(self, count: int, timeout: float) -> list[Message]:
                    return real.consume(count, timeout) if next(turn) % 2 == 0 else []

            return Consumer()

    monkeypatch.setattr(reader, "Consumer", Dry(answer))
    monkeypatch.setattr(reader, "time", clock)
    found = 0
    for batch in source.read(OffsetRange(0, 0, COUNT)):
        clock.late += 1000
        found += batch.num_rows
    assert found == COUNT
    assert len(answers) > 1


def test_the_fixed_settings_reach_every_client(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading exactly depends on them; only reading a gap once more sees uncommitted records."""
    client = Client(without(600, readers=[0]))
    monkeypatch.setattr(reader, "Consumer", client)
    with pytest.raises(ReadError):
        offsets(source, 0, COUNT)
    first, gap, again = client.settings
    assert {key: first[key] for key in FIXED} == dict(FIXED)
    assert first == again | {"queued.min.messages": first["queued.min.messages"]}
    assert gap["isolation.level"] == "read_uncommitted"
    assert {k: v for k, v in gap.items() if k != "isolation.level"} == {
        k: v for k, v in again.items() if k != "isolation.level"
    }


def test_a_partition_that_does_not_exist_is_refused(source: KafkaSource) -> None:
    """A range of a partition that the topic does not have fails; it does not wait for it to appear."""
    with pytest.raises(EventLogError):
        list(source.read(OffsetRange(7, 0, 1)))


@pytest.mark.parametrize(("start", "end"), [(COUNT - 1, COUNT + 1), (COUNT, COUNT + 1), (COUNT + 50, COUNT + 60)])
def test_a_range_beyond_the_log_is_refused(source: KafkaSource, start: int, end: int) -> None:
    """Offsets that the log does not have yet: a retriable failure within the deadline, never fewer rows."""
    with pytest.raises(RangeUnavailableError) as caught:
        offsets(source, start, end)
    assert caught.value.retriable


def test_everything_lands_as_it_is(eventlog_kafka: Any, eventlog_topic: Callable[..., str]) -> None:
    """Tombstones, null and empty keys, empty values, repeated and null headers, bytes that are no text, 10 MB."""
    topic = eventlog_topic(config={"max.message.bytes": "16000000"})
    settings = {"bootstrap.servers": eventlog_kafka.bootstrap_servers}
    sent = [
        Record(None, b"tombstone", 0, 1000),
        Record(b"", b"", 0, 2000),
        Record(b"v", None, 0, 1500, [("a", b"1"), ("a", b"2"), ("a", None), ("ä", b"")]),
        Record(b"\xff\xfe\x00", b"\x00\x80", 0, 1),
        Record(bytes(range(256)) * 40_000, b"large", 0, 3000),
        Record(b"last", b"k", 0, 3000),
    ]
    produce(topic, sent, settings)
    rows = [
        row for batch in KafkaSource(topic, settings).read(OffsetRange(0, 0, len(sent))) for row in batch.to_pylist()
    ]
    assert [(r["topic"], r["partition"], r["offset"]) for r in rows] == [(topic, 0, i) for i in range(len(sent))]
    assert [r["value"] for r in rows] == [s.value for s in sent]
    assert [r["key"] for r in rows] == [s.key for s in sent]
    assert [round(r["timestamp"].timestamp() * 1000) for r in rows] == [s.timestamp for s in sent]
    assert [[(h["key"], h["value"]) for h in r["headers"]] for r in rows] == [list(s.headers) for s in sent]


def test_a_record_without_a_time_has_none() -> None:
    """Kafka's sign for no timestamp becomes null, not an instant before 1970."""
    messages = [
        Message(topic="t", partition=0, offset=o, key=None, value=b"v", timestamp=stamp)
        for o, stamp in enumerate([(0, -1), (1, 5), (2, 7)])
    ]
    batch = reader._to_batch("t", messages, OffsetRange(0, 0, 3))
    assert batch.column("timestamp").cast("int64").to_pylist() == [None, 5, 7]
    assert batch.column("timestamp_type").to_pylist() == [0, 1, 2]


def test_reading_and_writing_do_not_load_pandas(source: KafkaSource, tmp_path: Path) -> None:
    """Landing loads neither pandas nor DuckDB: importing them costs more than landing a small batch."""
    program = f"""
import pathlib, sys
from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice
wanted, path = OffsetRange(0, 10, 200), pathlib.Path({str(tmp_path / "x.parquet")!r})
source = KafkaSource({source.topic!r}, {source._settings!r})
source.describe(), source.log_ends(), source.offsets_at(0)
rawfile.write_slice(path, source.read(wanted), Slice("s", 1, wanted), lambda: source.last_read)
assert rawfile.read_info(path).rows == rawfile.read_table(path).num_rows == 190
print([name for name in ("pandas", "duckdb", "airflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
