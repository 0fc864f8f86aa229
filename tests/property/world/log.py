"""A topic in memory with all that happens to topics: transactions, disorder, loss of the start, deletion, recreation.

It is also the truth: every incarnation stays known with every record that it ever had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_eventlog.core.errors import OffsetsLostError, RangeUnavailableError, TopicNotFoundError
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity, merged
from airflow_provider_eventlog.core.protocols import FoundOffset, Retention, SliceRead, TopicDescription

if TYPE_CHECKING:
    import pyarrow as pa

TOPIC = "orders"
COMMITTED, ABORTED, OPEN, MARKER = "committed", "aborted", "open", "marker"


@dataclass
class Record:
    """What stands at an offset; a timestamp of -1 is none. `transaction` is the number of the one it belongs to."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    state: str
    transaction: int | None = None


@dataclass
class Topic:
    """One incarnation: its records by partition from offset 0 on, and how far each log start has moved."""

    identity: TopicIdentity
    partitions: list[list[Record]]
    starts: list[int]

    def end(self, partition: int) -> int:
        """The last stable offset."""
        log = self.partitions[partition]
        return next((o for o, r in enumerate(log) if r.state == OPEN), len(log))

    def committed(self, wanted: OffsetRange) -> dict[int, Record]:
        """The committed records of a range, whether they have expired since or not."""
        log = self.partitions[wanted.partition]
        return {o: log[o] for o in range(wanted.start, min(wanted.end, len(log))) if log[o].state == COMMITTED}


@dataclass
class SimLog:
    """The topic as the cluster has it now (None while it is deleted), and all that there ever were."""

    topic: Topic | None = None
    incarnations: list[Topic] = field(default_factory=list)

    def create(self, partitions: int) -> Topic:
        """Create the topic, or create it again under its name."""
        identity = TopicIdentity("cluster", TOPIC, f"id-{len(self.incarnations)}")
        self.topic = Topic(identity, [[] for _ in range(partitions)], [0] * partitions)
        self.incarnations.append(self.topic)
        return self.topic

    def known(self) -> Topic:
        """The topic; raises TopicNotFoundError."""
        if self.topic is None:
            raise TopicNotFoundError(f"The topic {TOPIC!r} does not exist.")
        return self.topic

    def of(self, identity: TopicIdentity) -> Topic:
        """The incarnation with an identity."""
        return next(t for t in self.incarnations if t.identity == identity)

    def end_transaction(self, number: int, *, commit: bool) -> None:
        """Commit or abort: the records become visible or never do, and a marker follows in each of their partitions."""
        topic = self.known()
        for log in topic.partitions:
            mine = [r for r in log if r.transaction == number and r.state == OPEN]
            for record in mine:
                record.state = COMMITTED if commit else ABORTED
            if mine:
                log.append(Record(mine[-1].timestamp, None, None, MARKER, number))

    @property
    def open_transactions(self) -> list[int]:
        """The transactions of the topic of now that have not ended."""
        found = {r.transaction for t in [self.topic] if t for log in t.partitions for r in log if r.state == OPEN}
        return sorted(n for n in found if n is not None)


class SimSource:
    """Implements `LogSource` over a log; `point` is called with a name at every request, and may suspend the caller.

    chunk  rows of a record batch, as a fetch would end: no file may depend on it
    """

    def __init__(self, log: SimLog, point: Callable[[str], None], chunk: int) -> None:
        self._log, self._point, self._chunk = log, point, chunk
        self._last_read: SliceRead | None = None

    def describe(self) -> TopicDescription:
        self._point("describe")
        topic = self._log.known()
        return TopicDescription(topic.identity, len(topic.partitions))

    def log_starts(self) -> dict[int, int]:
        self._point("log_starts")
        return dict(enumerate(self._log.known().starts))

    def log_ends(self) -> dict[int, int]:
        self._point("log_ends")
        topic = self._log.known()
        return {p: topic.end(p) for p in range(len(topic.partitions))}

    def high_watermarks(self) -> dict[int, int]:
        self._point("high_watermarks")
        return {p: len(log) for p, log in enumerate(self._log.known().partitions)}

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        self._point("offsets_at")
        topic = self._log.known()
        asked = range(len(topic.partitions)) if partitions is None else partitions
        return {p: self._at(topic, p, instant) for p in asked}

    def _at(self, topic: Topic, partition: int, instant: int) -> FoundOffset:
        for offset in range(topic.starts[partition], topic.end(partition)):
            record = topic.partitions[partition][offset]
            # As Kafka does, whose index knows nothing of who will see the record.
            if record.timestamp >= instant:
                return FoundOffset(offset, record.timestamp)
        return FoundOffset(None, None)

    def group_offsets(self, group: str) -> dict[int, int]:
        return {}

    def retention(self) -> Retention:
        return Retention(("delete",), None, None, "CreateTime")

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        self._point("probe")
        topic = self._log.known()
        for offset in range(start, min(start + limit, topic.end(partition))):
            record = topic.partitions[partition][offset]
            if record.state == COMMITTED and instant <= record.timestamp <= believed_until:
                return offset
        return None

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from airflow_provider_eventlog.core.rawfile import RAW_SCHEMA

        self._last_read = None
        self._point("read")
        self._refuse_lost(wanted, record_loss=record_loss)
        seen: dict[int, Record] = {}
        at = wanted.start
        while at < wanted.end:
            topic = self._log.known()
            if wanted.partition >= len(topic.partitions) or topic.end(wanted.partition) < wanted.end:
                raise RangeUnavailableError(f"{wanted.people} are not all there.")
            until = min(at + self._chunk, wanted.end)
            here = max(at, topic.starts[wanted.partition])
            found = topic.committed(OffsetRange(wanted.partition, min(here, until), until))
            seen |= found
            if found:
                yield pa.RecordBatch.from_pylist([_row(wanted, o, r) for o, r in found.items()], schema=RAW_SCHEMA)
            at = until
            self._point("reading")
        start = self._refuse_lost(wanted, record_loss=record_loss)
        gaps = merged(OffsetRange(wanted.partition, o, o + 1) for o in range(wanted.start, wanted.end) if o not in seen)
        lost = merged(OffsetRange(g.partition, g.start, min(g.end, start)) for g in gaps if g.start < start)
        log = self._log.known().partitions[wanted.partition]
        aborted = sum(log[o].state == ABORTED for g in gaps for o in range(max(g.start, start), g.end))
        size = sum(len(r.key or b"") + len(r.value or b"") for r in seen.values())
        self._last_read = SliceRead(gaps, aborted, size, lost)

    def _refuse_lost(self, wanted: OffsetRange, *, record_loss: bool) -> int:
        topic = self._log.known()
        start = topic.starts[wanted.partition] if wanted.partition < len(topic.starts) else 0
        if start > wanted.start and not record_loss:
            raise OffsetsLostError(
                f"{OffsetRange(wanted.partition, wanted.start, min(start, wanted.end)).people} lost."
            )
        return start

    @property
    def last_read(self) -> SliceRead:
        assert self._last_read is not None, "the read is not exhausted"
        return self._last_read

    def close(self) -> None:
        pass


def _row(wanted: OffsetRange, offset: int, record: Record) -> dict[str, object]:
    return {
        "topic": TOPIC,
        "partition": wanted.partition,
        "offset": offset,
        "timestamp": None if record.timestamp < 0 else record.timestamp,
        "timestamp_type": 0,
        "key": record.key,
        "value": record.value,
        "headers": [],
    }
