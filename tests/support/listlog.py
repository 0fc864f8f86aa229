"""A topic whose records are given one by one, for tests of what comes after landing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import FoundOffset, Retention, SliceRead, TopicDescription
from airflow_provider_eventlog.core.staging.local import LocalStaging
from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget

if TYPE_CHECKING:
    import pyarrow as pa

IDENTITY = TopicIdentity("cluster", "orders", "topic-id")
# Record n of a partition is dated n seconds after this.
FIRST_MS = 1_700_000_000_000


class ListLog:
    """Implements `LogSource`; `values[p]` are the payloads of partition p from offset 0 on, and may grow.

    identity   what the topic is; another one makes it a topic that was deleted and created again
    open_from  per partition where an open transaction holds the last stable offset
    asked      the look-ups, each with how many partitions it was for
    """

    def __init__(self, *values: list[bytes | None]) -> None:
        self.values = list(values)
        self.identity = IDENTITY
        self.open_from: dict[int, int] = {}
        self.asked: list[tuple[str, int]] = []
        self.reads: list[OffsetRange] = []
        self.timestamps: dict[tuple[int, int], int] = {}
        self._last_read = SliceRead((), 0, 0)

    def timestamp(self, partition: int, offset: int) -> int:
        return self.timestamps.get((partition, offset), FIRST_MS + 1000 * offset)

    def describe(self) -> TopicDescription:
        self.asked.append(("describe", len(self.values)))
        return TopicDescription(self.identity, len(self.values))

    def log_starts(self) -> dict[int, int]:
        self.asked.append(("starts", len(self.values)))
        return dict.fromkeys(range(len(self.values)), 0)

    def log_ends(self) -> dict[int, int]:
        self.asked.append(("ends", len(self.values)))
        return {p: min(len(v), self.open_from.get(p, len(v))) for p, v in enumerate(self.values)}

    def high_watermarks(self) -> dict[int, int]:
        self.asked.append(("high", len(self.values)))
        return {p: len(v) for p, v in enumerate(self.values)}

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        found = {}
        asked = range(len(self.values)) if partitions is None else partitions
        self.asked.append(("at", len(asked)))
        for p in asked:
            later = ((o, self.timestamp(p, o)) for o in range(len(self.values[p])))
            offset, stamp = next(((o, t) for o, t in later if t >= instant), (None, None))
            found[p] = FoundOffset(offset, stamp)
        return found

    def group_offsets(self, group: str) -> dict[int, int]:
        return {}

    def retention(self) -> Retention:
        self.asked.append(("retention", 1))
        return Retention(("delete",), None, None, "CreateTime")

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        for offset in range(start, min(start + limit, len(self.values[partition]))):
            if instant <= self.timestamp(partition, offset) <= believed_until:
                return offset
        return None

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from airflow_provider_eventlog.core.rawfile import RAW_SCHEMA

        self.reads.append(wanted)
        values = self.values[wanted.partition]
        rows: list[dict[str, Any]] = [
            {
                "topic": self.identity.topic,
                "partition": wanted.partition,
                "offset": offset,
                "timestamp": self.timestamp(wanted.partition, offset),
                "timestamp_type": 0,
                "key": b"k",
                "value": values[offset],
                "headers": [],
            }
            for offset in range(wanted.start, wanted.end)
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=RAW_SCHEMA)
        self._last_read = SliceRead((), 0, sum(len(values[o] or b"") + 1 for o in range(wanted.start, wanted.end)))

    @property
    def last_read(self) -> SliceRead:
        return self._last_read

    def close(self) -> None:
        pass


def engine_over(log: ListLog, home: Path, clock: Callable[[], int]) -> Engine:
    """An engine over real staging, ledger and DuckDB targets below `home`."""
    staging = LocalStaging(home / "staging")
    ledger = open_ledger(home / "ledger.sqlite")
    ledger.check_staging(str(staging.root), staging.root_id())
    return Engine(ledger, staging, lambda _: log, lambda output: DuckDBTarget(output.target, home), clock=clock)
