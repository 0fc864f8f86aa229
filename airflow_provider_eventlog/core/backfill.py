"""Back-fill by offset range: what stands behind the offsets, and how a big one is cut into runs.

A chunk is what one run takes. `chunks` is a pure function, and stable: after any of its chunks have run, the same
question gives the same chunks under the same run ids, so that asking again finds what was made and adds nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from airflow_provider_eventlog.core import retention
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    OffsetsLostError,
    RequestError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.offsets import OffsetRange, below, format_ranges, merged, subtract
from airflow_provider_eventlog.core.planning import rounds
from airflow_provider_eventlog.core.planning.explicit import refuse_outside
from airflow_provider_eventlog.core.planning.generations import inputs
from airflow_provider_eventlog.core.planning.plan import replaced
from airflow_provider_eventlog.core.planning.sizes import portions
from airflow_provider_eventlog.core.protocols import BatchState, Decision, PlanningTransaction
from airflow_provider_eventlog.declare.pipeline import Pipeline

NEW, FROM_KAFKA, FROM_STAGING, GONE = "new", "replay from Kafka", "replay from staging", "gone"
# Landed and let go since: it cannot be derived under the recipe of now.
LET_GO = "let go by raw_retention"
# Airflow keeps no longer note; the whole range stands in the run's conf.
_NOTE = 1000
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Owner:
    """A batch that has offsets of a back-fill: all its ranges, and whether its raw data is staged."""

    batch_id: str
    ranges: tuple[OffsetRange, ...]
    landed: bool


@dataclass(frozen=True, slots=True)
class Item:
    """What happens to some offsets: `state` is new, replay from Kafka, replay from staging, gone, or let go.

    `ranges` are what is worked on: a replay takes its batch whole, also beyond what was asked for. `batch_id` is None
    for what no batch has yet.
    """

    state: str
    batch_id: str | None
    ranges: tuple[OffsetRange, ...]

    @property
    def offsets(self) -> int:
        """How many offsets are worked on."""
        return sum(map(len, self.ranges))


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one run of a back-fill takes: the offsets that were asked for, and the batches that come of them."""

    pipeline: str
    ranges: tuple[OffsetRange, ...]
    items: tuple[Item, ...]

    @property
    def text(self) -> str:
        """The ranges as `parse_ranges` reads them; equal sets of offsets have one text."""
        return format_ranges(self.ranges)

    @property
    def run_id(self) -> str:
        """A function of pipeline and offsets, within Airflow's default pattern and length for run ids."""
        name = sha256(f"{self.pipeline}\n{self.text}".encode()).hexdigest()[:16]
        return f"{run_id_prefix(self.pipeline)}{name}"

    @property
    def offsets(self) -> int:
        """How many offsets are worked on."""
        return sum(item.offsets for item in self.items)

    @property
    def note(self) -> str:
        """What the run is, for people; at most 1,000 characters."""
        asked = sum(map(len, self.ranges))
        text = f"Back-fill of pipeline {self.pipeline}, {asked:,} offsets: {'; '.join(r.people for r in self.ranges)}."
        return text if len(text) <= _NOTE else text[: _NOTE - 3] + "..."


@dataclass(frozen=True, slots=True)
class Backfill:
    """A back-fill as it would be made now.

    chunks            the runs, in order
    gone              what cannot be had any more: offsets below the log start that were never landed, and batches whose
                      raw files retention has let go, where the pipeline's recipe has no generation of them
    bytes_per_offset  mean payload of what the stream has landed; None before the first landing
    """

    pipeline: str
    topic: str
    asked: tuple[OffsetRange, ...]
    chunks: tuple[Chunk, ...]
    gone: tuple[Item, ...]
    bytes_per_offset: float | None
    let_go: Mapping[str, Decision] = field(default_factory=dict)

    def refuse_gone(self) -> None:
        """Raise OffsetsLostError if anything is gone, RawExpiredError if anything was let go."""
        if not self.gone:
            return
        if self.let_go:
            raise retention.raw_error(self.topic, self.let_go, " Nothing was planned. --skip-gone takes what is left.")
        lost = [r for item in self.gone for r in item.ranges]
        more = f" and {len(lost) - _NAMED} more ranges" if len(lost) > _NAMED else ""
        raise OffsetsLostError(
            f"Topic {self.topic!r} no longer has {'; '.join(r.people for r in lost[:_NAMED])}{more}: retention removed "
            f"them before they were landed. Nothing was planned. --skip-gone takes what is left."
        )

    def to_json(self) -> dict[str, Any]:
        """The back-fill as JSON values; bytes are estimates, None where nothing is known."""
        return {
            "pipeline": self.pipeline,
            "topic": self.topic,
            "asked": format_ranges(self.asked),
            "offsets": sum(chunk.offsets for chunk in self.chunks),
            "bytes": self._bytes(sum(chunk.offsets for chunk in self.chunks)),
            "runs": [
                {
                    "run_id": chunk.run_id,
                    "ranges": chunk.text,
                    "offsets": chunk.offsets,
                    "bytes": self._bytes(chunk.offsets),
                    "batches": [self._item(item) for item in chunk.items],
                }
                for chunk in self.chunks
            ],
            "gone": [self._item(item) for item in self.gone],
        }

    def _item(self, item: Item) -> dict[str, Any]:
        return {
            "batch_id": item.batch_id,
            "state": item.state,
            "ranges": [str(r) for r in item.ranges],
            "offsets": item.offsets,
            "bytes": self._bytes(item.offsets),
        }

    def _bytes(self, offsets: int) -> int | None:
        return None if self.bytes_per_offset is None else round(self.bytes_per_offset * offsets)


def run_id_prefix(pipeline: str, kind: str = "backfill") -> str:
    """What the ids of all of a pipeline's runs of a kind begin with, that a command makes in Airflow."""
    return f"eventlog_{kind}__{pipeline}__"


def plan_backfill(
    engine: Engine, pipeline: Pipeline, ranges: Iterable[OffsetRange], chunk: int | None = None
) -> list[Chunk]:
    """The runs of a back-fill of `ranges`; nothing is kept. Raises what `survey` raises, OffsetsLostError if gone."""
    found = survey(engine, pipeline, ranges, chunk)
    found.refuse_gone()
    return list(found.chunks)


def survey(engine: Engine, pipeline: Pipeline, ranges: Iterable[OffsetRange], chunk: int | None = None) -> Backfill:
    """What a back-fill of `ranges` would do now, in chunks of `chunk` offsets (None: the stream's max_batch_offsets).

    Nothing is kept. Offsets that are gone are named in the answer and in none of its chunks; so is every batch that
    would need them, whole. Raises RequestError for a chunk below 1, OffsetRangeError for what the topic does not
    have, TopicReplacedError, and what `stages.check` and the source raise.
    """
    from airflow_provider_eventlog.core.stages import check

    stream = pipeline.stream
    limit = stream.max_batch_offsets if chunk is None else chunk
    if limit < 1:
        raise RequestError(f"A chunk of {limit} offsets is not possible; it must hold at least 1.")
    check(pipeline)
    wanted = merged(ranges)
    source = engine.source(stream)
    # The ends before the starts: what retention removes in between shows as gone, not as beyond the end.
    topic, ends, starts = source.describe(), source.log_ends(), source.log_starts()
    refuse_outside(stream.topic, ends, wanted)
    epochs = engine.ledger.epochs(stream.name)
    if epochs and epochs[-1].identity != topic.identity:
        raise TopicReplacedError(replaced(epochs[-1].identity, topic.identity))
    batches = engine.ledger.batches(stream.name, epochs[-1].epoch) if epochs else ()
    index = _Index(wanted)
    owners = [Owner(b.batch_id, b.ranges, state is BatchState.LANDED) for b, state in batches if index.common(b.ranges)]
    gone = list(_gone_owners(engine, owners, starts))
    let_go = _let_go(engine, pipeline, owners)
    gone += [Item(LET_GO, owner.batch_id, owner.ranges) for owner in owners if owner.batch_id in let_go]
    lost_ids = {item.batch_id for item in gone}
    rest = subtract(wanted, [r for o in owners for r in o.ranges])
    expired = below(rest, starts)
    if expired:
        gone.insert(0, Item(GONE, None, expired))
    left = subtract(wanted, [*expired, *(r for o in owners if o.batch_id in lost_ids for r in o.ranges)])
    kept = [o for o in owners if o.batch_id not in lost_ids]
    made = chunks(pipeline.name, left, kept, limit, stream.max_batch_offsets)
    mean = None
    if epochs:
        mean = rounds.decide(engine.ledger, stream, None, lambda tx: tx.mean_bytes(epochs[-1].epoch), keep=False)
    return Backfill(pipeline.name, stream.topic, wanted, tuple(made), tuple(gone), mean, let_go)


def chunks(
    pipeline: str, wanted: Iterable[OffsetRange], owners: Iterable[Owner], limit: int, batch_limit: int
) -> list[Chunk]:
    """Cut `wanted` into runs of at most `limit` offsets, in partition and offset order.

    A batch that owns wanted offsets is in one chunk, with all of them, and counts with its whole length; a batch
    longer than `limit` has a chunk of its own. What no batch owns becomes batches of at most `batch_limit` offsets.
    Every wanted offset is in exactly one chunk. Cost is O((n + m) log(n + m)) for n wanted and m owned ranges.
    """
    index = _Index(wanted)
    units: list[tuple[OffsetRange, Owner | None, tuple[OffsetRange, ...]]] = []
    held: list[OffsetRange] = []
    for owner in owners:
        if part := index.common(owner.ranges):
            units.append((part[0], owner, part))
            held += part
    units += [(r, None, (r,)) for r in subtract(index.ranges, held)]
    # By the first wanted offset: the batch that a chunk makes then stands where the chunk stood, which keeps the
    # chunks after it where they were.
    units.sort(key=lambda unit: unit[0])
    packed = _Packing(limit)
    for _, holder, wanted_of in units:
        if holder is not None:
            packed.whole(holder, wanted_of)
        else:
            packed.split(wanted_of[0])
    packed.close()
    return [_chunk(pipeline, units_of, batch_limit) for units_of in packed.chunks]


class _Packing:
    """Deals owners (whole) and free ranges (cut where the room ends) into chunks, in order."""

    def __init__(self, limit: int) -> None:
        self.limit = self.room = limit
        self.chunks: list[list[tuple[Owner | None, tuple[OffsetRange, ...]]]] = []
        self.current: list[tuple[Owner | None, tuple[OffsetRange, ...]]] = []

    def whole(self, owner: Owner, part: tuple[OffsetRange, ...]) -> None:
        length = sum(map(len, owner.ranges))
        if length > self.room:
            self.close()
        self._take(owner, part, length)

    def split(self, free: OffsetRange) -> None:
        start = free.start
        while start < free.end:
            end = min(free.end, start + self.room)
            self._take(None, (OffsetRange(free.partition, start, end),), end - start)
            start = end

    def close(self) -> None:
        if self.current:
            self.chunks.append(self.current)
        self.current, self.room = [], self.limit

    def _take(self, owner: Owner | None, part: tuple[OffsetRange, ...], length: int) -> None:
        self.current.append((owner, part))
        self.room -= length
        if self.room <= 0:
            self.close()


def _chunk(pipeline: str, units: Sequence[tuple[Owner | None, tuple[OffsetRange, ...]]], batch_limit: int) -> Chunk:
    owned = [Item(FROM_STAGING if o.landed else FROM_KAFKA, o.batch_id, o.ranges) for o, _ in units if o is not None]
    free = merged(r for o, part in units if o is None for r in part)
    new = [Item(NEW, None, portion) for portion in portions(free, batch_limit)]
    return Chunk(pipeline, merged(r for _, part in units for r in part), (*owned, *new))


class _Index:
    """Ranges, merged, to be asked for what they have in common with others."""

    def __init__(self, ranges: Iterable[OffsetRange]) -> None:
        self.ranges = merged(ranges)
        self._starts = [(r.partition, r.start) for r in self.ranges]

    def common(self, others: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
        """What both hold, sorted."""
        found = []
        for other in others:
            at = max(0, bisect_right(self._starts, (other.partition, other.start)) - 1)
            while at < len(self.ranges) and self._starts[at] < (other.partition, other.end):
                mine = self.ranges[at]
                start, end = max(mine.start, other.start), min(mine.end, other.end)
                if mine.partition == other.partition and start < end:
                    found.append(OffsetRange(mine.partition, start, end))
                at += 1
        return tuple(sorted(found))


def _let_go(engine: Engine, pipeline: Pipeline, owners: Iterable[Owner]) -> dict[str, Decision]:
    """Batches whose raw files were let go, and that have no generation of the pipeline's recipe, each with why."""
    stream = pipeline.stream
    expired = retention.expired_raw(engine.ledger.decisions(stream.name))
    chosen = [owner.batch_id for owner in owners if owner.batch_id in expired]
    if not chosen:
        return {}
    plans = [engine.ledger.batch(batch_id)[0] for batch_id in chosen]

    def work(tx: PlanningTransaction) -> list[str]:
        made = {b.batch_id: tx.allocated(pipeline.name, b.batch_id, inputs(pipeline.recipe, b)) for b in plans}
        return [batch_id for batch_id, number in made.items() if number is None]

    return {batch_id: expired[batch_id] for batch_id in rounds.decide(engine.ledger, stream, None, work, keep=False)}


def _gone_owners(engine: Engine, owners: Iterable[Owner], starts: Mapping[int, int]) -> Iterable[Item]:
    """Planned batches that can never be landed: offsets of them expired before they were staged."""
    for owner in owners:
        if owner.landed or not below(owner.ranges, starts):
            continue
        missing = subtract(owner.ranges, [s.range for s in engine.ledger.slices(owner.batch_id)])
        if lost := below(missing, starts):
            yield Item(GONE, owner.batch_id, lost)
