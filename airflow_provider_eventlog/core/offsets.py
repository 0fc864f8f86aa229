"""Offsets and the frozen values built on them; each has a text form that round-trips.

Instants are whole milliseconds since 1970-01-01 UTC, as Kafka's timestamps are. Ranges are half-open
[start, end) everywhere in code and on the command line; `OffsetRange.people` is the inclusive form for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from airflow_provider_eventlog.core.errors import RequestError

MAX_OFFSET = 2**63 - 1
_RANGE = re.compile(r"([0-9]{1,10}):([0-9]{1,19})-([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """What a topic is: a name alone is not an identity, since topics are deleted and created again.

    `topic_id` is None where the broker has no topic ids: a weak identity.
    """

    cluster_id: str
    topic: str
    topic_id: str | None

    @property
    def weak(self) -> bool:
        """True where only the name and the cluster identify the topic."""
        return self.topic_id is None

    def to_json(self) -> dict[str, str | None]:
        """The identity as records have it; `TopicIdentity(**value)` reads it back."""
        return {"cluster_id": self.cluster_id, "topic": self.topic, "topic_id": self.topic_id}

    def __str__(self) -> str:
        return f"{self.topic} (topic id {self.topic_id or 'unknown'}, cluster {self.cluster_id})"


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """Half-open [start, end) of one partition; 0 <= start <= end < 2**63. Text form: `0:100-200`."""

    partition: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.partition < 0 or self.start < 0 or self.end > MAX_OFFSET:
            raise RequestError(
                f"Offset range {self.partition}:{self.start}-{self.end} is out of bounds: partition and offsets "
                f"must be between 0 and {MAX_OFFSET}."
            )
        if self.start > self.end:
            raise RequestError(
                f"Offset range {self.partition}:{self.start}-{self.end} starts after its end; "
                f"write partition:start-end with start <= end (the end is not included)."
            )

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.partition}:{self.start}-{self.end}"

    @property
    def people(self) -> str:
        """The inclusive form for messages: `partition 0, offsets 100 to 199`."""
        if not len(self):
            return f"partition {self.partition}, no offsets at {self.start}"
        return f"partition {self.partition}, offsets {self.start} to {self.end - 1}"

    @classmethod
    def parse(cls, text: str) -> OffsetRange:
        """Read `partition:start-end`; raises RequestError that quotes the text."""
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise RequestError(
                f"Cannot read the offset range {text.strip()[:80]!r}; write partition:start-end, for example 0:100-200."
            )
        partition, start, end = map(int, match.groups())
        return cls(partition, start, end)


def parse_ranges(text: str) -> tuple[OffsetRange, ...]:
    """Read `0:100-200,1:0-50` into sorted ranges; overlaps within the text are refused with RequestError."""
    if not text.strip():
        raise RequestError("No offsets given; write partition:start-end[,partition:start-end], for example 0:100-200.")
    ranges = tuple(sorted(OffsetRange.parse(part) for part in text.split(",")))
    for left, right in pairwise(ranges):
        if left.partition == right.partition and right.start < left.end:
            raise RequestError(f"The offset ranges {left} and {right} overlap; name every offset once.")
    return ranges


def format_ranges(ranges: Iterable[OffsetRange]) -> str:
    """The text form that `parse_ranges` reads back."""
    return ",".join(str(r) for r in sorted(ranges))


def subtract(wanted: Iterable[OffsetRange], covered: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The parts of `wanted` that no range of `covered` touches, sorted, without empty ranges.

    `covered` need not be sorted; cost is O((n + m) log(n + m)) for n wanted and m covered ranges.
    """
    by_partition: dict[int, list[OffsetRange]] = {}
    for r in sorted(covered):
        by_partition.setdefault(r.partition, []).append(r)
    rest: list[OffsetRange] = []
    index: dict[int, int] = {}
    for want in sorted(wanted):
        position, holes = want.start, by_partition.get(want.partition, [])
        i = index.get(want.partition, 0)
        while i < len(holes) and holes[i].end <= want.start:
            i += 1
        index[want.partition] = i
        while i < len(holes) and holes[i].start < want.end:
            if holes[i].start > position:
                rest.append(OffsetRange(want.partition, position, holes[i].start))
            position = max(position, holes[i].end)
            i += 1
        if position < want.end:
            rest.append(OffsetRange(want.partition, position, want.end))
    return tuple(rest)


def merged(ranges: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The same offsets in the fewest ranges, sorted, without empty ones."""
    result: list[OffsetRange] = []
    for r in sorted(r for r in ranges if len(r)):
        last = result[-1] if result else None
        if last is not None and last.partition == r.partition and r.start <= last.end:
            result[-1] = OffsetRange(r.partition, last.start, max(last.end, r.end))
        else:
            result.append(r)
    return tuple(result)


def below(ranges: Iterable[OffsetRange], starts: Mapping[int, int]) -> tuple[OffsetRange, ...]:
    """The parts of ranges that lie below their partition's log start, in the order given."""
    return tuple(
        OffsetRange(r.partition, r.start, end)
        for r in ranges
        if r.start < (end := min(r.end, starts.get(r.partition, 0)))
    )


def people(ranges: Sequence[OffsetRange], limit: int = 5) -> str:
    """The first ranges in their inclusive form for messages, and how many more there are."""
    more = f" and {len(ranges) - limit} more ranges" if len(ranges) > limit else ""
    return "; ".join(r.people for r in ranges[:limit]) + more


@dataclass(frozen=True, slots=True)
class Cut:
    """One frozen offset for every partition, with the instant that found it.

    `kind` is origin, interval, since_last or size. `found_by` says per partition how the offset was found:
    log_start, log_end, timestamp, probe, clamp, given, share.
    """

    instant: int
    kind: str
    offsets: Mapping[int, int]
    found_by: Mapping[int, str]


def between(low: Cut, high: Cut) -> tuple[OffsetRange, ...]:
    """What lies between two cuts, in the order of the later one, without empty ranges.

    A partition that the earlier cut does not know appeared after it, so that all of it lies between them.
    """
    starts = low.offsets
    return tuple(OffsetRange(p, starts.get(p, 0), end) for p, end in high.offsets.items() if starts.get(p, 0) < end)


class Slice(NamedTuple):
    """A piece of one partition's range: the unit of landing and of every derived file."""

    stream: str
    epoch: int
    range: OffsetRange

    @property
    def partition(self) -> int:
        """The partition that the slice belongs to."""
        return self.range.partition

    def __str__(self) -> str:
        return f"{self.stream}/{self.epoch}/{self.range}"


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A batch as frozen: `kind` is chain or off_chain; instants are None for an off-chain batch."""

    batch_id: str
    stream: str
    epoch: int
    kind: str
    from_instant: int | None
    to_instant: int | None
    ranges: tuple[OffsetRange, ...]
    slices: tuple[OffsetRange, ...]

    @property
    def length(self) -> int:
        """How many offsets the batch takes."""
        return sum(len(r) for r in self.ranges)


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One entry of a run: a batch, this pipeline's generation of it, and new, replay or redrive."""

    batch: BatchPlan
    generation: int
    mode: str


class SliceRef(NamedTuple):
    """Points at one slice of one of a run's batches."""

    batch_id: str
    range: OffsetRange


@dataclass(frozen=True, slots=True)
class Looked:
    """What a plan saw of its topic: first retained and last stable offset of every partition."""

    identity: TopicIdentity
    starts: Mapping[int, int]
    ends: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run takes, in order, and how its slices are packed into groups (always at least one group).

    `looked` is what Kafka said at this very plan; None where a run that was bound is read again.
    """

    run_key: str
    pipeline: str
    stream: str
    epoch: int
    identity: TopicIdentity
    recipe: str
    batches: tuple[PlannedBatch, ...]
    groups: tuple[tuple[SliceRef, ...], ...]
    notes: tuple[str, ...] = ()
    looked: Looked | None = field(default=None, compare=False, repr=False)

    def batch(self, batch_id: str) -> PlannedBatch:
        """The entry of one batch; KeyError if the run does not take it."""
        for planned in self.batches:
            if planned.batch.batch_id == batch_id:
                return planned
        raise KeyError(batch_id)
