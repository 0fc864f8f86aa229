"""What the cluster says, looked up outside of the ledger's transaction.

A planning transaction holds the stream's row lock, and on SQLite the whole ledger's: no request to Kafka may
wait inside it. Decisions therefore ask `Observations`, which answers from what it has and otherwise raises
`LookupNeeded`; the caller leaves the transaction, looks up, and decides again from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.offsets import Looked
from airflow_provider_eventlog.core.protocols import LogSource, TopicDescription

# How many offsets are read past a record that is not believed before the look-up falls back to the log's end.
PROBE_LIMIT = 100_000


class LookupNeeded(Exception):  # noqa: N818
    """Not an error: a decision needs something from the cluster that was not looked up yet."""

    def __init__(self, fetch: Callable[[Observations], object]) -> None:
        super().__init__("a look-up is needed")
        self.fetch = fetch


@dataclass(frozen=True, slots=True)
class Found:
    """An offset and how it was found: log_start, log_end, timestamp or probe."""

    offset: int
    by: str


class Observations:
    """One consistent look at a topic: the log's ends are read first, so that nothing later moves a bound past them.

    now, in milliseconds, is the planning instant. Raises what `LogSource` raises.
    """

    def __init__(self, source: LogSource, now: int, skew_ms: int) -> None:
        self.source = source
        self.now = now
        self.believed_until = now + skew_ms
        self.topic: TopicDescription = source.describe()
        # In front of the ends: what is appended between the two requests is then not taken for held back.
        self._high: dict[int, int] = source.high_watermarks()
        self.ends: dict[int, int] = source.log_ends()
        self.starts: dict[int, int] = source.log_starts()
        self._found: dict[int, dict[int, Found]] = {}
        self._answers: dict[Hashable, Any] = {}

    @property
    def looked(self) -> Looked:
        """What was asked first, to be handed on."""
        return Looked(self.topic.identity, self.starts, self.ends)

    @property
    def held(self) -> dict[int, tuple[int, int]]:
        """Partitions whose log goes on behind its last stable offset: that offset, and how many offsets wait there."""
        return {p: (end, self._high[p] - end) for p, end in self.ends.items() if self._high.get(p, 0) > end}

    def at(self, instant: int) -> Mapping[int, Found]:
        """Per partition the first believed record at or after `instant`, or the log's end where there is none."""
        if instant not in self._found:
            raise LookupNeeded(lambda observed: observed.find(instant))
        return self._found[instant]

    def find(self, instant: int) -> Mapping[int, Found]:
        """Look `instant` up in one request, with probing where a record from the future stands in the way."""
        if instant not in self._found:
            answers = self.source.offsets_at(instant, sorted(self.ends))
            found: dict[int, Found] = {}
            for partition, end in self.ends.items():
                answer = answers.get(partition)
                offset = answer.offset if answer else None
                by = "timestamp"
                stamp = answer.timestamp if answer else None
                if offset is not None and stamp is not None and stamp > self.believed_until and offset < end:
                    offset = self.source.probe(
                        partition, offset + 1, instant, self.believed_until, min(PROBE_LIMIT, end - offset - 1)
                    )
                    by = "probe"
                if offset is None or offset >= end:
                    offset, by = end, "log_end"
                start = self.starts.get(partition, 0)
                found[partition] = Found(start, "log_start") if offset <= start else Found(offset, by)
            self._found[instant] = found
        return self._found[instant]

    def group(self, name: str) -> Mapping[int, int]:
        """Committed offsets of a consumer group."""
        found: Mapping[int, int] = self.once(("group", name), lambda observed: observed.source.group_offsets(name))
        return found

    def once(self, question: Hashable, look: Callable[[Observations], Any]) -> Any:
        """The answer to a question that needs requests of its own, looked up outside of the transaction."""
        if question not in self._answers:
            raise LookupNeeded(lambda observed: observed._answers.setdefault(question, look(observed)))
        return self._answers[question]
