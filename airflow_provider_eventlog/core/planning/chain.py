"""The chain: cuts, the segments between them, and the batches that take them.

Every function works inside one planning transaction and raises `LookupNeeded` where it must know more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from airflow_provider_eventlog.core.errors import FutureIntervalError, OffsetsLostError
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, below, between, people, subtract
from airflow_provider_eventlog.core.planning import origin, regressed
from airflow_provider_eventlog.core.planning.observe import Found, Observations
from airflow_provider_eventlog.core.planning.sizes import clamp, slices, split_by_time
from airflow_provider_eventlog.core.planning.words import BEGINNING, when
from airflow_provider_eventlog.core.protocols import Decision, PlanningTransaction
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging.records import digest
from airflow_provider_eventlog.declare.stream import Stream

LOSS = "loss"
# A line names so many partitions.
_NAMED = 5


class Chain:
    """The chain of one epoch as seen by one planning transaction; what it adds is written at once.

    It asks for the cuts and batches around what is wanted only: a plan costs the same however long the chain is.
    """

    def __init__(self, tx: PlanningTransaction, observed: Observations, stream: Stream, epoch: int) -> None:
        self.tx, self.observed, self.stream, self.epoch = tx, observed, stream, epoch
        self.created: set[str] = set()
        self.notes: list[str] = []
        self._added: list[Cut] = []

    def interval(self, request: RunRequest) -> list[BatchPlan]:
        """The batches of [t0, t1): planned ones as they are, new ones for what is not planned, in chain order."""
        assert request.interval is not None
        start, end = request.interval
        if end > self.observed.now:
            raise FutureIntervalError(
                f"The interval {when(start)} to {when(end)} of stream {self.stream.name!r} ends in the future; "
                f"its last offsets are not known before {when(end)}."
            )
        first = self.tx.first_instant(self.epoch)
        if first is None:
            first = self._origin(start).instant
        if end <= first and not self._grows_left:
            self.notes.append(f"The interval ends before the stream's start ({when(first)}): nothing to take.")
            return []
        end = self._end(end)
        start = self._start(start, first, absorb=request.gap == "absorb" or request.first)
        return self._between(start, end)

    def since_last(self, pipeline: str, limit: int | None) -> list[BatchPlan]:
        """Chain batches that the pipeline has not taken, then what came since the newest cut; at most `limit`."""
        newest = self.tx.newest_cut(self.epoch) or self._origin(None)
        waiting = self.tx.waiting(pipeline, self.epoch, limit)
        if waiting.gone:
            self.notes.append(
                f"{waiting.gone} batches are left out, since raw_retention has removed their raw files, "
                f"first {waiting.first_gone}; `eventlog fsck --restore` brings back what Kafka still has."
            )
        chosen, beside = list(waiting.batches), 0
        if limit is None or len(chosen) < limit:
            regressed.refuse(self.observed, self.stream.topic, newest)
            # Two plans within one millisecond, or a clock that was set back, must not meet on one instant.
            instant = max(self.observed.now, newest.instant + 1)
            ends = {p: (end, "log_end") for p, end in self.observed.ends.items()}
            self._add(clamp(instant, "since_last", ends, newest, None))
            chosen += self._between(newest.instant, instant)
        if limit is not None and len(chosen) > limit:
            beside = len(chosen) - limit
            chosen = chosen[:limit]
        if waiting.more or beside:
            self.notes.append(
                f"{waiting.remaining(beside)} more batches remain for the next run (at most {limit} a run)."
            )
        return chosen

    def note_held(self) -> None:
        """Say which partitions the plan takes only up to an open transaction."""
        held = self.observed.held
        here = [p for p in sorted(held) if any(c.offsets.get(p) == held[p][0] for c in self._added)]
        if not here:
            return
        said = [f"partition {p} waits at offset {held[p][0]} ({held[p][1]} offsets wait)" for p in here[:_NAMED]]
        more = f"; and {len(here) - _NAMED} more partitions" if len(here) > _NAMED else ""
        self.notes.append(
            f"Open transactions hold the log back: {'; '.join(said)}{more}. A later run takes what waits, once the "
            f"transaction is committed or aborted."
        )

    @property
    def _grows_left(self) -> bool:
        """Whether intervals before cut 0 may be planned; what came before an adopted topic is another epoch's."""
        return self.stream.start == "interval" and self.epoch == 1

    def _origin(self, first: int | None) -> Cut:
        """Cut 0, from the stream's `start`; `first` is the first interval's start where there is one."""
        start, observed = self.stream.start, self.observed
        instant = observed.now - 1 if first is None else first
        if start == "earliest" or (start == "interval" and first is None):
            found = {p: Found(o, "log_start") for p, o in observed.starts.items()}
            instant = BEGINNING
        elif start == "interval":
            found = dict(observed.at(instant))
            self._prove(instant, found, None)
        else:
            found = origin.find(observed, self.stream, self._expired)
            if isinstance(start, datetime):
                instant = int(start.timestamp() * 1000)
        cut = Cut(instant, "origin", {p: f.offset for p, f in found.items()}, {p: f.by for p, f in found.items()})
        self._add(cut)
        return cut

    def _end(self, end: int) -> int:
        low, high = self.tx.neighbours(self.epoch, end)
        if low is not None and low.instant == end:
            return end
        inside = self.tx.segment_around(self.epoch, end)
        if inside is not None:
            self.notes.append(
                f"The interval's end lies inside a planned batch, which is taken whole ({inside.batch_id})."
            )
            assert inside.to_instant is not None
            return inside.to_instant
        self._cut(end, low, high)
        return end

    def _start(self, start: int, first: int, *, absorb: bool) -> int:
        low, high = self.tx.neighbours(self.epoch, start)
        if low is not None and low.instant == start:
            return start
        inside = self.tx.segment_around(self.epoch, start)
        if inside is not None:
            self.notes.append(
                f"The interval's start lies inside a planned batch, which is taken whole ({inside.batch_id})."
            )
            assert inside.from_instant is not None
            return inside.from_instant
        if low is None and not self._grows_left:
            self.notes.append(f"The interval begins before the stream's start; taken from {when(first)}.")
            return first
        if low is not None and absorb:
            self.notes.append(
                f"No cut stands at {when(start)}: taken from the newest one before it, {when(low.instant)}."
            )
            return low.instant
        self._cut(start, low, high, prove_whole=True)
        return start

    def _cut(self, instant: int, low: Cut | None, high: Cut | None, *, prove_whole: bool = False) -> None:
        """Create an interval cut, clamped between its neighbours."""
        if low is not None and high is None:
            regressed.refuse(self.observed, self.stream.topic, low)
        found = dict(self.observed.at(instant))
        if prove_whole:
            self._prove(instant, found, low)
        self._add(clamp(instant, "interval", {p: (f.offset, f.by) for p, f in found.items()}, low, high))

    def _add(self, cut: Cut) -> None:
        self.tx.add_cut(self.epoch, cut)
        self._added.append(cut)

    def _between(self, start: int, end: int) -> list[BatchPlan]:
        """Planned and new batches between two cuts."""
        batches: list[BatchPlan] = []
        reached = start
        for planned in self.tx.segments(self.epoch, start, end):
            assert planned.from_instant is not None
            assert planned.to_instant is not None
            batches += self._unplanned(reached, planned.from_instant)
            batches.append(planned)
            reached = planned.to_instant
        return batches + self._unplanned(reached, end)

    def _unplanned(self, start: int, end: int) -> list[BatchPlan]:
        if start >= end:
            return []
        found = self.tx.cuts_between(self.epoch, start, end)
        return [batch for low, high in pairwise(found) for batch in self._segment(low, high)]

    def _segment(self, low: Cut, high: Cut) -> list[BatchPlan]:
        """New chain batches for one unplanned segment: its offsets minus the coverage that exists."""
        ranges = self._ranges(low, high)
        if sum(map(len, ranges)) <= self.stream.max_batch_offsets:
            return [self._batch(low, high, ranges)]
        based = Cut(low.instant, low.kind, {**self.observed.starts, **low.offsets}, low.found_by)
        limit = self.stream.max_batch_offsets
        inner: tuple[Cut, ...] = self.observed.once(
            ("split", low.instant, high.instant), lambda observed: tuple(split_by_time(observed, based, high, limit))
        )
        for cut in inner:
            self._add(cut)
        shared = sum("share" in c.found_by.values() for c in inner)
        self.notes.append(
            f"{sum(map(len, ranges))} offsets are more than max_batch_offsets={self.stream.max_batch_offsets}: cut "
            f"into {len(inner) + 1} batches"
            + (f", {shared} cuts proportionally since timestamps do not part them." if shared else " by time.")
        )
        return [self._batch(a, b, self._ranges(a, b)) for a, b in pairwise([low, *inner, high])]

    def _ranges(self, low: Cut, high: Cut) -> tuple[OffsetRange, ...]:
        wanted = between(low, high)
        rest = subtract(wanted, self.tx.covered(self.epoch, wanted))
        self.refuse_lost(rest)
        return rest

    def _prove(self, instant: int, found: dict[int, Found], low: Cut | None) -> None:
        if hidden := origin.unproved(self.observed, found, None if low is None else low.offsets):
            self._expired(instant, hidden)

    def _expired(self, instant: int, hidden: Mapping[int, int]) -> None:
        if self.stream.on_data_loss == "fail":
            origin.refuse(self.stream.topic, instant, hidden)
        starts = ", ".join(f"{start} in partition {partition}" for partition, start in hidden.items())
        self._record_loss(
            f"what stood from {when(instant)} to the log start ({starts}) has expired, nobody can tell how much it was",
            {"instant": instant, "unknown_before": {str(p): start for p, start in hidden.items()}},
        )

    def refuse_lost(self, ranges: tuple[OffsetRange, ...]) -> None:
        """Raise OffsetsLostError if any offset of `ranges` lies below its partition's log start.

        With on_data_loss="record" the loss is written down instead, and landing finds it again offset by offset.
        """
        lost = below(ranges, self.observed.starts)
        if not lost:
            return
        said = people(lost)
        if self.stream.on_data_loss == "record":
            self._record_loss(f"retention removed {said} before they were landed", {"ranges": [str(r) for r in lost]})
            return
        raise OffsetsLostError(
            f"Topic {self.stream.topic!r} no longer has {said}: retention removed them before they were landed. "
            f"Nothing was planned. Name offsets from the log start on to take what is left, or declare the stream with "
            f"on_data_loss='record' to go on and write the loss down."
        )

    def _record_loss(self, why: str, payload: Mapping[str, Any]) -> None:
        self.notes.append(f"Data loss is recorded: {why}.")
        self.tx.decide(
            Decision(
                kind=LOSS,
                stream=self.stream.name,
                epoch=self.epoch,
                pipeline=None,
                batch_id=None,
                who="on_data_loss",
                why=why,
                at=self.observed.now,
                payload=payload,
            )
        )

    def _batch(self, low: Cut, high: Cut, ranges: tuple[OffsetRange, ...]) -> BatchPlan:
        return self.add_batch("chain", low.instant, high.instant, ranges)

    def add_batch(self, kind: str, low: int | None, high: int | None, ranges: tuple[OffsetRange, ...]) -> BatchPlan:
        """Freeze a batch; its id is a digest of what it takes."""
        identity = [self.stream.name, self.epoch, low, high, [str(r) for r in ranges]]
        batch = BatchPlan(
            batch_id=digest(identity)[:24],
            stream=self.stream.name,
            epoch=self.epoch,
            kind=kind,
            from_instant=low,
            to_instant=high,
            ranges=ranges,
            slices=slices(ranges, self.stream.max_slice_offsets),
        )
        self.tx.add_batch(batch)
        self.created.add(batch.batch_id)
        return batch
