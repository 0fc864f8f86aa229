"""A topic that is a function of a seed: several partitions with gaps, tombstones, null keys and repeated headers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import FoundOffset, Retention, SliceRead, TopicDescription

if TYPE_CHECKING:
    import pyarrow as pa

IDENTITY = TopicIdentity("cluster", "orders", "topic-id")


@dataclass(frozen=True)
class Entry:
    """One committed record of the log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class SeededLog:
    """Implements `LogSource`; the record at an offset depends on seed, partition and offset, never on `lengths`.

    lengths  offsets of each partition
    first    timestamp of offset 0 in milliseconds; in partition p an offset is 1 + 2 p seconds later than the last
    chunk    rows of a record batch, as a fetch would end: no file may depend on it
    """

    def __init__(self, seed: int, lengths: Sequence[int], *, first: int = 0, chunk: int = 7) -> None:
        self._seed, self._lengths, self._first, self._chunk = seed, tuple(lengths), first, chunk
        self._last_read: SliceRead | None = None

    def entry(self, partition: int, offset: int) -> Entry | None:
        """The record at an offset; None where a control record or an aborted one stands."""
        chance = random.Random(f"{self._seed}/{partition}/{offset}")
        if chance.random() < 0.15:
            return None
        value = {"id": offset, "amount": chance.randrange(10_000) / 4, "country": chance.choice(["DE", "FR", None])}
        return Entry(
            offset,
            self._first + 1000 * (1 + 2 * partition) * offset,
            None if chance.random() < 0.2 else f"k{chance.randrange(9)}".encode(),
            None if chance.random() < 0.1 else json.dumps(value).encode(),
            tuple(("h", bytes([chance.randrange(256)])) for _ in range(chance.randrange(3))),
        )

    def visible(self, wanted: OffsetRange) -> list[Entry]:
        """The committed records of a range."""
        found = (self.entry(wanted.partition, offset) for offset in range(wanted.start, wanted.end))
        return [entry for entry in found if entry is not None]

    def describe(self) -> TopicDescription:
        return TopicDescription(IDENTITY, len(self._lengths))

    def log_starts(self) -> dict[int, int]:
        return dict.fromkeys(range(len(self._lengths)), 0)

    def log_ends(self) -> dict[int, int]:
        return dict(enumerate(self._lengths))

    def high_watermarks(self) -> dict[int, int]:
        return self.log_ends()

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        return {p: self._at(p, instant) for p in (range(len(self._lengths)) if partitions is None else partitions)}

    def _at(self, partition: int, instant: int) -> FoundOffset:
        for entry in self.visible(OffsetRange(partition, 0, self._lengths[partition])):
            if entry.timestamp >= instant:
                return FoundOffset(entry.offset, entry.timestamp)
        return FoundOffset(None, None)

    def group_offsets(self, group: str) -> dict[int, int]:
        return {}

    def retention(self) -> Retention:
        return Retention(("delete",), None, None, "CreateTime")

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        for entry in self.visible(OffsetRange(partition, start, min(start + limit, self._lengths[partition]))):
            if instant <= entry.timestamp <= believed_until:
                return entry.offset
        return None

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from airflow_provider_eventlog.core.rawfile import RAW_SCHEMA

        self._last_read = None
        entries = self.visible(wanted)
        for start in range(0, len(entries), self._chunk):
            part = entries[start : start + self._chunk]
            rows = [
                {
                    "topic": IDENTITY.topic,
                    "partition": wanted.partition,
                    "offset": e.offset,
                    "timestamp": e.timestamp,
                    "timestamp_type": 0,
                    "key": e.key,
                    "value": e.value,
                    "headers": [{"key": k, "value": v} for k, v in e.headers],
                }
                for e in part
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=RAW_SCHEMA)
        self._last_read = SliceRead(
            _gaps(wanted, [e.offset for e in entries]), 0, sum(len(e.key or b"") + len(e.value or b"") for e in entries)
        )

    @property
    def last_read(self) -> SliceRead:
        assert self._last_read is not None, "the read is not exhausted"
        return self._last_read

    def close(self) -> None:
        pass


def _gaps(wanted: OffsetRange, offsets: Sequence[int]) -> tuple[OffsetRange, ...]:
    gaps, expected = [], wanted.start
    for offset in (*offsets, wanted.end):
        if offset > expected:
            gaps.append(OffsetRange(wanted.partition, expected, offset))
        expected = offset + 1
    return tuple(gaps)
