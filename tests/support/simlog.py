"""A topic in memory for planning tests: partitions of timestamps, a log start, and a count of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import FoundOffset, Retention, SliceRead, TopicDescription


class SimSource:
    """Implements the look-ups of `LogSource`; `logs[p]` are the timestamps (ms) of partition p from offset 0 on.

    `open_from[p]` is where an open transaction holds the last stable offset of partition p.
    """

    def __init__(self, logs: dict[int, list[int]], *, topic: str = "t", topic_id: str | None = "id-1") -> None:
        self.logs = logs
        self.starts: dict[int, int] = {}
        self.identity = TopicIdentity("cluster", topic, topic_id)
        self.groups: dict[str, dict[int, int]] = {}
        self.requests: list[str] = []
        self.open_from: dict[int, int] = {}
        self.kept: Retention | Exception = Retention(("delete",), None, None, "CreateTime")

    def describe(self) -> TopicDescription:
        self.requests.append("describe")
        return TopicDescription(self.identity, len(self.logs))

    def log_starts(self) -> dict[int, int]:
        self.requests.append("starts")
        return {p: self.starts.get(p, 0) for p in self.logs}

    def log_ends(self) -> dict[int, int]:
        self.requests.append("ends")
        return {p: min(len(log), self.open_from.get(p, len(log))) for p, log in self.logs.items()}

    def high_watermarks(self) -> dict[int, int]:
        self.requests.append("high")
        return {p: len(log) for p, log in self.logs.items()}

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        self.requests.append("at")
        return {p: self._first(p, instant) for p in (self.logs if partitions is None else partitions)}

    def _first(self, partition: int, instant: int) -> FoundOffset:
        for offset in range(self.starts.get(partition, 0), len(self.logs[partition])):
            stamp = self.logs[partition][offset]
            if stamp >= instant:
                return FoundOffset(offset, stamp)
        return FoundOffset(None, None)

    def group_offsets(self, group: str) -> dict[int, int]:
        self.requests.append("group")
        return self.groups[group]

    def retention(self) -> Retention:
        self.requests.append("retention")
        if isinstance(self.kept, Exception):
            raise self.kept
        return self.kept

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        self.requests.append("probe")
        for offset in range(start, min(start + limit, len(self.logs[partition]))):
            if instant <= self.logs[partition][offset] <= believed_until:
                return offset
        return None

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[Any]:
        raise AssertionError("planning reads nothing")

    @property
    def last_read(self) -> SliceRead:
        raise AssertionError("planning reads nothing")

    def close(self) -> None:
        pass
