"""Which offsets a back-fill is about: those of a time, of a stream's holes, or of a pipeline's unfinished batches.

All of it is read only: no cut is created, nothing is planned.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import FutureIntervalError, IntervalExpiredError, RequestError
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, between, merged, subtract
from airflow_provider_eventlog.core.planning.observe import Observations
from airflow_provider_eventlog.core.planning.sizes import clamp
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.declare.pipeline import Pipeline


def ranges_between(
    engine: Engine, pipeline: Pipeline, start: int, end: int, *, whole: bool = True
) -> tuple[OffsetRange, ...]:
    """The offsets of the records from `start` to before `end` (milliseconds), by record time; no cut is created.

    A bound where a cut stands is that cut; one inside a planned batch takes the batch whole; any other is looked up
    and kept between its neighbouring cuts. With `whole`, raises IntervalExpiredError where what stood at `start` may
    have expired. Raises FutureIntervalError, RequestError for an empty or reversed time, and what the source raises.
    """
    if not 0 <= start < end:
        raise RequestError(f"The time from {when(start)} to {when(end)} is empty or reversed.")
    now = engine.clock()
    if end > now:
        raise FutureIntervalError(f"The time {when(end)} lies in the future; its last offsets are not known before.")
    stream = pipeline.stream
    observed = Observations(engine.source(stream), now, stream.max_future_skew_ms)
    times = _Times(engine, stream.name, observed)
    low, high = times.offsets(start, at_end=False), times.offsets(end, at_end=True)
    if whole:
        times.prove_whole(start, low)
    return merged(OffsetRange(p, low.get(p, 0), offset) for p, offset in sorted(high.items()) if low.get(p, 0) < offset)


class _Times:
    """From instants to offsets, by the cuts that stand and by look-ups between them."""

    def __init__(self, engine: Engine, stream: str, observed: Observations) -> None:
        epochs = engine.ledger.epochs(stream)
        self.observed = observed
        self.cuts: Sequence[Cut] = engine.ledger.cuts(stream, epochs[-1].epoch) if epochs else ()
        self.instants = [c.instant for c in self.cuts]
        batches = engine.ledger.batches(stream, epochs[-1].epoch) if epochs else ()
        self.ends = {b.from_instant: b.to_instant for b, _ in batches if b.kind == "chain"}

    def offsets(self, instant: int, *, at_end: bool) -> Mapping[int, int]:
        index = bisect_left(self.instants, instant)
        if index < len(self.cuts) and self.instants[index] == instant:
            return self.cuts[index].offsets
        low = self.cuts[index - 1] if index else None
        high = self.cuts[index] if index < len(self.cuts) else None
        # Cuts of a planned batch are neighbours: no cut is ever put into one.
        if low is not None and high is not None and self.ends.get(low.instant) == high.instant:
            return high.offsets if at_end else low.offsets
        found = {p: (f.offset, f.by) for p, f in self.observed.find(instant).items()}
        return clamp(instant, "interval", found, low, high).offsets

    def prove_whole(self, start: int, low: Mapping[int, int]) -> None:
        index = bisect_right(self.instants, start)
        before = self.cuts[index - 1].offsets if index else {}
        for partition, offset in sorted(low.items()):
            first = self.observed.starts.get(partition, 0)
            if 0 < first == offset and before.get(partition, 0) < first:
                raise IntervalExpiredError(
                    f"The time from {when(start)} of topic {self.observed.topic.identity.topic!r} cannot be proved "
                    f"whole: partition {partition} now starts at offset {first}, and what stood before it has "
                    f"expired. Begin later, or take what is left with --skip-gone."
                )


def ranges_of_holes(engine: Engine, pipeline: Pipeline) -> tuple[OffsetRange, ...]:
    """The offsets of all segments that no chain batch has taken, but for what off-chain batches have.

    Off-chain batches that this pipeline has begun and not loaded count as not done, so that a back-fill of holes
    that was stopped is found again.
    """
    name, ledger = pipeline.stream.name, engine.ledger
    epochs = ledger.epochs(name)
    if not epochs:
        return ()
    plans = [plan for plan, _ in ledger.batches(name, epochs[-1].epoch)]
    taken = {b.from_instant for b in plans if b.kind == "chain"}
    open_segments = [
        r
        for low, high in pairwise(ledger.cuts(name, epochs[-1].epoch))
        if low.instant not in taken
        for r in between(low, high)
    ]
    unfinished = {b.batch_id for b in _unfinished(engine, pipeline, plans) if b.kind != "chain"}
    return merged(subtract(open_segments, [r for b in plans if b.batch_id not in unfinished for r in b.ranges]))


def ranges_of_failed(engine: Engine, pipeline: Pipeline) -> tuple[OffsetRange, ...]:
    """The offsets of all batches whose newest generation of this pipeline is not loaded."""
    name = pipeline.stream.name
    epochs = engine.ledger.epochs(name)
    if not epochs:
        return ()
    plans = [plan for plan, _ in engine.ledger.batches(name, epochs[-1].epoch)]
    return merged(r for b in _unfinished(engine, pipeline, plans) for r in b.ranges)


def _unfinished(engine: Engine, pipeline: Pipeline, plans: Iterable[BatchPlan]) -> list[BatchPlan]:
    # In order of batch and number: the last one of a batch is its newest.
    newest = {g.batch_id: g.state for g in engine.ledger.generations(pipeline.name)}
    return [b for b in plans if newest.get(b.batch_id, GenerationState.LOADED) is not GenerationState.LOADED]
