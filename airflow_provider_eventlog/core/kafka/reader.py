"""Reading one offset range of one partition, exactly.

A range ends when the position has reached its end: a record at or past it, or an end-of-partition event at or
past it (the last offsets of a range may be transaction markers, so "the last record is end-1" is wrong). Silence
ends nothing: it counts against a deadline. Offsets inside a range that hold no committed record are gaps; they are
read once more with read_uncommitted, and what shows there must stay invisible to a fresh committed read, so that a
reader's mistake cannot pass as a gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.errors import (
    EventLogError,
    OffsetsLostError,
    RangeUnavailableError,
    ReadError,
    ReadTimeoutError,
)
from airflow_provider_eventlog.core.kafka.config import FIXED
from airflow_provider_eventlog.core.kafka.failures import OUT_OF_RANGE, Watch, translate
from airflow_provider_eventlog.core.offsets import OffsetRange, merged
from airflow_provider_eventlog.core.protocols import SliceRead
from airflow_provider_eventlog.core.rawfile import HEADERS, RAW_SCHEMA

# One call's worth of records: large enough that the loop costs nothing, small enough to bound memory. How large the
# next ones are is not known: the first call asks for few, and a later one for no more than some times as many.
_CHUNK, _FIRST_CHUNK, _STEP, _CHUNK_BYTES = 10_000, 4, 4, 8 << 20
# `consume` waits its time out when fewer records are left than were asked for.
_WAIT_S = 0.1
# A metadata request is asked again after so long, since errors show only between the calls.
_METADATA_S = 1.0
# Gaps nearer to each other than this are re-read in one go: an assignment costs more than skipping records.
_NEAR = 5_000

# A record's timestamp is (kind, milliseconds).
_KIND, _TIME = itemgetter(0), itemgetter(1)

_Offsets = npt.NDArray[np.int64]


class RangeReader:
    """Reads ranges of one topic with clients of its own. Not safe to share between threads.

    log_start answers the first retained offset of a partition; `finished` is valid after `read` was exhausted.
    """

    def __init__(
        self,
        topic: str,
        settings: Mapping[str, Any],
        log_start: Callable[[int], int],
        watch: Watch,
        deadline_s: float,
        memory_kb: int,
    ) -> None:
        self.topic, self.log_start, self.watch = topic, log_start, watch
        self._settings, self._deadline_s, self._memory_kb = settings, deadline_s, memory_kb
        self._consumer: Consumer | None = None
        self.finished = SliceRead((), 0, 0)

    def read(
        self, wanted: OffsetRange, *, check_start: bool = True, record_loss: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """Yield the committed records of `wanted` in offset order, in the raw schema.

        Raises OffsetsLostError if the range starts below the log start, before or after the read;
        RangeUnavailableError if the log ends before the range does; ReadTimeoutError after `deadline_s` without
        progress; the errors of `failures`. With check_start=False the gaps are not looked at either. With record_loss
        the read goes on behind what retention has removed, which is in `finished.losses`.
        """
        self.finished = SliceRead((), 0, 0)
        if not len(wanted):
            return
        partition, position, payload, gaps = wanted.partition, wanted.start, 0, _Gaps()
        losses: list[OffsetRange] = []
        if check_start and not record_loss:
            self._refuse_lost(wanted)
        while position < wanted.end:
            if record_loss and (low := min(self.log_start(partition), wanted.end)) > position:
                losses.append(OffsetRange(partition, position, low))
                position = low
                continue
            try:
                for messages in self._messages(OffsetRange(partition, position, wanted.end), committed=True):
                    batch = _to_batch(self.topic, messages, wanted)
                    if not batch.num_rows:
                        continue
                    offsets = arrow.numbers(batch.column("offset"))
                    if offsets[0] < position or (np.diff(offsets) <= 0).any():
                        raise ReadError(f"Kafka gave offsets of {wanted.people} of topic {self.topic!r} out of order.")
                    gaps.note(position, offsets)
                    position = int(offsets[-1]) + 1
                    payload += _payload(batch)
                    yield batch
            except OffsetsLostError:
                # The log start has passed the position, so that the next turn gets on: it ends with the range.
                if not record_loss:
                    self._refuse_lost(wanted)
                    raise
                continue
            gaps.note_end(position, wanted.end)
            position = wanted.end
        if not check_start:
            return
        if not record_loss:
            self._refuse_lost(wanted)
        found = gaps.ranges(partition)
        unproved, aborted = self._prove(wanted, found, record_loss=record_loss)
        self.finished = SliceRead(merged([*losses, *found]), aborted, payload, merged([*losses, *unproved]))

    def close(self) -> None:
        """Leave Kafka; does not wait, since nothing is committed."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _refuse_lost(self, wanted: OffsetRange) -> None:
        start = self.log_start(wanted.partition)
        if wanted.start < start:
            gone = OffsetRange(wanted.partition, wanted.start, min(start, wanted.end))
            raise OffsetsLostError(
                f"Topic {self.topic!r} no longer has {gone.people}: its log now starts at {start}. Retention removed "
                f"them before they were landed; nothing of {wanted.people} was published. A stream declared with "
                f"on_data_loss='record' goes on and writes the loss down."
            )

    def _messages(self, wanted: OffsetRange, *, committed: bool) -> Iterator[list[Message]]:
        """Lists of records, ending when the position has reached the end; event messages are taken out."""
        self.close()
        consumer = self._consumer = Consumer(self._client_settings(wanted, committed))
        self._check_topic(consumer, wanted)
        consumer.assign([TopicPartition(self.topic, wanted.partition, wanted.start)])
        position, seen_end, ask = wanted.start, -1, _FIRST_CHUNK
        silent_since = time.monotonic()
        while position < wanted.end:
            messages = consumer.consume(min(ask, wanted.end - position), _WAIT_S)
            self.watch.check()
            failed = None
            if any(map(Message.error, messages)):
                messages, reached, failed = _events(messages)
                if reached > seen_end:
                    seen_end, silent_since = reached, time.monotonic()
                position = max(position, reached)
            if not messages and failed is None and silent_since + self._deadline_s < time.monotonic():
                self._stuck(consumer, wanted, position, seen_end)
            if messages:
                position = max(position, int(messages[-1].offset() or 0) + 1)
                ask = min(_next_chunk(messages), ask * _STEP)
                yield messages
                # What the caller did meanwhile, writing a row group for one, is not Kafka's silence.
                silent_since = time.monotonic()
            if failed is not None:
                # Only now: what came before it is whole.
                self._raise(failed, OffsetRange(wanted.partition, min(position, wanted.end), wanted.end))

    def _raise(self, error: KafkaError, wanted: OffsetRange) -> None:
        if error.code() in OUT_OF_RANGE:
            self._refuse_lost(wanted)
            raise RangeUnavailableError(
                f"The log of topic {self.topic!r} has no {wanted.people}: it ends before ({error.str()}). It was "
                f"truncated, or a replica lags; a retry looks again."
            )
        raise translate(error, f"{wanted.people} of topic {self.topic!r}")

    def _stuck(self, consumer: Consumer, wanted: OffsetRange, position: int, seen_end: int) -> None:
        # A topic that is deleted while it is read falls silent, no more.
        if (trouble := self._trouble(consumer, wanted)) is not None and not trouble.retriable:
            raise trouble
        if 0 <= seen_end < wanted.end:
            raise RangeUnavailableError(
                f"The log of topic {self.topic!r} ends at {seen_end} (last stable offset) in partition "
                f"{wanted.partition}, before the planned end {wanted.end}: an open transaction, a lagging replica, or "
                f"a truncated log. A retry looks again."
            )
        raise ReadTimeoutError(
            f"Reading {wanted.people} of topic {self.topic!r} made no progress for {self._deadline_s:g} s at offset "
            f"{position}; nothing was published, a retry reads again."
        )

    def _check_topic(self, consumer: Consumer, wanted: OffsetRange) -> None:
        """Read the topic's own error before assigning: without DESCRIBE an assignment waits in silence for ever."""
        deadline = time.monotonic() + self._deadline_s
        while (trouble := self._trouble(consumer, wanted)) is not None:
            if not trouble.retriable or time.monotonic() > deadline:
                raise trouble
            # A partition's leader is being elected, for one: the answer is another one in a moment.
            consumer.poll(_WAIT_S)
            self.watch.check()

    def _trouble(self, consumer: Consumer, wanted: OffsetRange) -> EventLogError | None:
        """What the metadata have against reading the partition, asked once; raises what the watch has collected."""
        try:
            found = consumer.list_topics(self.topic, timeout=_METADATA_S).topics.get(self.topic)
        except KafkaException as error:
            # Serves the error callback, which alone hears of wrong credentials.
            consumer.poll(0)
            self.watch.check()
            return translate(error, f"topic {self.topic!r}")
        self.watch.check()
        if found is not None and found.error is not None:
            return translate(found.error, f"topic {self.topic!r}")
        if found is not None and wanted.partition not in found.partitions:
            raise ReadError(f"Topic {self.topic!r} has no partition {wanted.partition} any more.")
        return None

    def _client_settings(self, wanted: OffsetRange, committed: bool) -> dict[str, Any]:
        return {
            # The first connection is made after this time; its default of 100 ms is most of reading a small range.
            "reconnect.backoff.ms": 10,
            **self._settings,
            **FIXED,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            # A consumer cannot be made without a group; none is joined, read or committed.
            "group.id": "eventlog-assigned",
            "queued.max.messages.kbytes": self._memory_kb,
            "queued.min.messages": min(100_000, len(wanted) + 1),
            # At its default of one second the reader idles two thirds of the time with a full queue.
            "fetch.queue.backoff.ms": 10,
            # The end-of-partition event comes with an empty fetch, which waits so long.
            "fetch.wait.max.ms": 100,
            "error_cb": self.watch.callback,
            "log_level": 0,
        }

    def _prove(
        self, wanted: OffsetRange, gaps: tuple[OffsetRange, ...], *, record_loss: bool
    ) -> tuple[tuple[OffsetRange, ...], int]:
        """Prove gaps by reading them again: those below the log start, where nobody can, and how many are aborted.

        Without record_loss all are above the log start, and one that no longer is raises OffsetsLostError.
        """
        partition = wanted.partition
        while True:
            low = self.log_start(partition) if record_loss and gaps else 0
            unproved = tuple(OffsetRange(partition, g.start, min(g.end, low)) for g in gaps if g.start < low)
            rest = tuple(OffsetRange(partition, max(g.start, low), g.end) for g in gaps if g.end > low)
            try:
                return unproved, self._aborted(rest) if rest else 0
            except OffsetsLostError:
                # Retention went on meanwhile. The log start has passed a gap that lay above `low`, so that the next
                # turn has less to prove.
                if not record_loss:
                    self._refuse_lost(wanted)
                    raise

    def _aborted(self, gaps: tuple[OffsetRange, ...]) -> int:
        """How many offsets of the gaps hold aborted records; raises ReadError if one of them is in fact committed."""
        hidden = self._visible(gaps, committed=False)
        if len(hidden):
            again = self._visible(_as_ranges(gaps[0].partition, hidden), committed=True)
            if len(again):
                raise ReadError(
                    f"Offset {int(again[0])} of partition {gaps[0].partition} of topic {self.topic!r} was skipped by "
                    f"the first read and is committed; nothing was published, a retry reads again."
                )
        return len(hidden)

    def _visible(self, gaps: tuple[OffsetRange, ...], *, committed: bool) -> _Offsets:
        """Offsets inside `gaps` at which a read shows a record."""
        shown: list[_Offsets] = []
        for run in _runs(gaps):
            found = self._messages(run, committed=committed)
            shown.extend(np.fromiter(map(Message.offset, messages), np.int64, len(messages)) for messages in found)
        offsets = np.concatenate(shown) if shown else np.empty(0, np.int64)
        starts = np.array([g.start for g in gaps])
        ends = np.array([g.end for g in gaps])
        owner = np.searchsorted(starts, offsets, side="right") - 1
        inside: _Offsets = offsets[(owner >= 0) & (offsets < ends[np.maximum(owner, 0)])]
        return inside


def _events(messages: list[Message]) -> tuple[list[Message], int, KafkaError | None]:
    """The records of a list up to an error, the greatest end-of-partition offset (-1 for none), and the error."""
    records, reached = [], -1
    for message in messages:
        error = message.error()
        if error is None:
            records.append(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            reached = max(reached, int(message.offset() or 0))
        elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # no group is used
            return records, reached, error
    return records, reached, None


def _next_chunk(messages: list[Message]) -> int:
    """How many records to ask for next, by a sample of how large these are."""
    sample = messages[:: max(len(messages) // 100, 1)]
    mean = sum(map(len, sample)) // len(sample)
    return min(max(_CHUNK_BYTES // (mean + 1), 1), _CHUNK)


class _Gaps:
    """Gathers the offsets between records as starts and ends."""

    def __init__(self) -> None:
        self._starts: list[_Offsets] = []
        self._ends: list[_Offsets] = []

    def note(self, position: int, offsets: _Offsets) -> None:
        if offsets[0] == position and offsets[-1] - offsets[0] == len(offsets) - 1:
            return
        following = np.concatenate(([position], offsets[:-1] + 1))
        at = np.nonzero(offsets > following)[0]
        self._starts.append(following[at])
        self._ends.append(offsets[at])

    def note_end(self, position: int, end: int) -> None:
        if position < end:
            self._starts.append(np.array([position]))
            self._ends.append(np.array([end]))

    def ranges(self, partition: int) -> tuple[OffsetRange, ...]:
        return tuple(
            OffsetRange(partition, int(start), int(end))
            for start, end in zip(chain.from_iterable(self._starts), chain.from_iterable(self._ends), strict=True)
        )


def _runs(gaps: tuple[OffsetRange, ...]) -> Iterator[OffsetRange]:
    """Gaps joined to runs where they stand near each other."""
    start, end = gaps[0].start, gaps[0].end
    for gap in gaps[1:]:
        if gap.start - end > _NEAR:
            yield OffsetRange(gap.partition, start, end)
            start = gap.start
        end = gap.end
    yield OffsetRange(gaps[0].partition, start, end)


def _as_ranges(partition: int, offsets: _Offsets) -> tuple[OffsetRange, ...]:
    breaks = np.nonzero(np.diff(offsets) > 1)[0]
    starts = np.concatenate(([offsets[0]], offsets[breaks + 1]))
    ends = np.concatenate((offsets[breaks], [offsets[-1]])) + 1
    return tuple(OffsetRange(partition, int(a), int(b)) for a, b in zip(starts, ends, strict=True))


def _to_batch(topic: str, messages: list[Message], wanted: OffsetRange) -> pa.RecordBatch:
    """Records as one batch, those at or past the range's end left out."""
    count = len(messages)
    offsets = np.fromiter(map(Message.offset, messages), np.int64, count)
    if count and offsets[-1] >= wanted.end:
        count = int(np.searchsorted(offsets, wanted.end))
        messages, offsets = messages[:count], offsets[:count]
    stamps = list(map(Message.timestamp, messages))
    times = np.fromiter(map(_TIME, stamps), np.int64, count)
    columns = [
        arrow.constant(topic, count),
        arrow.fixed(np.full(count, wanted.partition, np.int32), pa.int32()),
        arrow.fixed(offsets, pa.int64()),
        arrow.fixed(times, RAW_SCHEMA.field("timestamp").type, times >= 0),
        arrow.fixed(np.fromiter(map(_KIND, stamps), np.int8, count), pa.int8()),
        arrow.binary(list(map(Message.key, messages))),
        arrow.binary(list(map(Message.value, messages))),
        _headers(messages),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RAW_SCHEMA)


def _headers(messages: list[Message]) -> pa.Array:
    found: list[Any] = list(map(Message.headers, messages))
    if not any(found):
        return arrow.lists(np.zeros(len(found), np.int64), pa.nulls(0, HEADERS.value_type), HEADERS)
    pairs = [pair for headers in found for pair in headers or ()]
    items = pa.StructArray.from_arrays(
        [arrow.strings([key for key, _ in pairs]), arrow.binary([value for _, value in pairs])],
        fields=list(HEADERS.value_type),
    )
    return arrow.lists(np.fromiter((len(h or ()) for h in found), np.int64, len(found)), items, HEADERS)


def _payload(batch: pa.RecordBatch) -> int:
    """Bytes of keys and values."""
    return sum(int(arrow.lengths_of(batch.column(name)).sum()) for name in ("key", "value"))
