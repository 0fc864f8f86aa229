"""The chain: cuts, the segments between them, and the batches that take them.

Every function works inside one planning transaction and raises `LookupNeeded` where it must know more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from airflow_provider_eventlog.core import retention
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


class Chain:
    """The chain of one epoch as seen by one planning transaction; what it adds is written at once."""

    def __init__(self, tx: PlanningTransaction, observed: Observations, stream: Stream, epoch: int) -> None:
        self.tx, self.observed, self.stream, self.epoch = tx, observed, stream, epoch
        self.cuts: list[Cut] = list(tx.cuts(epoch))
        self.batches: list[BatchPlan] = list(tx.batches(epoch))
        self.planned: dict[int, BatchPlan] = {
            b.from_instant: b for b in self.batches if b.kind == "chain" and b.from_instant is not None
        }
        self.created: set[str] = set()
        self.notes: list[str] = []

    def interval(self, request: RunRequest) -> list[BatchPlan]:
        """The batches of [t0, t1): planned ones as they are, new ones for what is not planned, in chain order."""
        assert request.interval is not None
        start, end = request.interval
        if end > self.observed.now:
            raise FutureIntervalError(
                f"The interval {when(start)} to {when(end)} of stream {self.stream.name!r} ends in the future; "
                f"its last offsets are not known before {when(end)}."
            )
        if not self.cuts:
            self._origin(start)
        if end <= self.cuts[0].instant and not self._grows_left:
            self.notes.append(
                f"The interval ends before the stream's start ({when(self.cuts[0].instant)}): nothing to take."
            )
            return []
        end = self._end(end)
        start = self._start(start, end, absorb=request.gap == "absorb" or request.first)
        return self._between(start, end)

    def since_last(self, pipeline: str, limit: int | None) -> list[BatchPlan]:
        """Chain batches that the pipeline has not taken, then what came since the newest cut; at most `limit`."""
        if not self.cuts:
            self._origin(None)
        taken = self.tx.taken(pipeline, self.epoch)
        waiting = self._not_expired([b for b in self._chain_order() if b.batch_id not in taken])
        if limit is None or len(waiting) < limit:
            newest = self.cuts[-1]
            regressed.refuse(self.observed, self.stream.topic, newest)
            # Two plans within one millisecond, or a clock that was set back, must not meet on one instant.
            instant = max(self.observed.now, newest.instant + 1)
            ends = {p: (end, "log_end") for p, end in self.observed.ends.items()}
            self._add(clamp(instant, "since_last", ends, newest, None))
            waiting += self._between(newest.instant, instant)
        if limit is not None and len(waiting) > limit:
            self.notes.append(f"{len(waiting) - limit} more batches remain for the next run (at most {limit} a run).")
            waiting = waiting[:limit]
        return waiting

    def _not_expired(self, waiting: list[BatchPlan]) -> list[BatchPlan]:
        """Those of the batches whose raw files stand; a pipeline added after retention begins behind the others."""
        if not waiting:
            return waiting
        gone = retention.gone_raw(self.tx)
        left = [b for b in waiting if b.batch_id not in gone]
        if len(left) < len(waiting):
            first = next(b.batch_id for b in waiting if b.batch_id in gone)
            self.notes.append(
                f"{len(waiting) - len(left)} batches are left out, since raw_retention has removed their raw files, "
                f"first {first}; `eventlog fsck --restore` brings back what Kafka still has."
            )
        return left

    @property
    def _grows_left(self) -> bool:
        """Whether intervals before cut 0 may be planned; what came before an adopted topic is another epoch's."""
        return self.stream.start == "interval" and self.epoch == 1

    def _chain_order(self) -> list[BatchPlan]:
        return [self.planned[i] for i in sorted(self.planned)]

    def _origin(self, first: int | None) -> None:
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
        self._add(Cut(instant, "origin", {p: f.offset for p, f in found.items()}, {p: f.by for p, f in found.items()}))

    def _end(self, end: int) -> int:
        if any(c.instant == end for c in self.cuts):
            return end
        inside = self._planned_around(end)
        if inside is not None:
            self.notes.append(
                f"The interval's end lies inside a planned batch, which is taken whole ({inside.batch_id})."
            )
            assert inside.to_instant is not None
            return inside.to_instant
        self._cut(end)
        return end

    def _start(self, start: int, end: int, *, absorb: bool) -> int:
        if any(c.instant == start for c in self.cuts):
            return start
        inside = self._planned_around(start)
        if inside is not None:
            self.notes.append(
                f"The interval's start lies inside a planned batch, which is taken whole ({inside.batch_id})."
            )
            assert inside.from_instant is not None
            return inside.from_instant
        older = [c for c in self.cuts if c.instant < start]
        if not older and not self._grows_left:
            self.notes.append(
                f"The interval begins before the stream's start; taken from {when(self.cuts[0].instant)}."
            )
            return self.cuts[0].instant
        if older and absorb:
            self.notes.append(
                f"No cut stands at {when(start)}: taken from the newest one before it, {when(older[-1].instant)}."
            )
            return older[-1].instant
        self._cut(start, prove_whole=True)
        return start

    def _planned_around(self, instant: int) -> BatchPlan | None:
        for batch in self.planned.values():
            assert batch.from_instant is not None
            assert batch.to_instant is not None
            if batch.from_instant < instant < batch.to_instant:
                return batch
        return None

    def _cut(self, instant: int, *, prove_whole: bool = False) -> None:
        """Create an interval cut, clamped between its neighbours."""
        index = bisect_left([c.instant for c in self.cuts], instant)
        low = self.cuts[index - 1] if index else None
        high = self.cuts[index] if index < len(self.cuts) else None
        if low is not None and high is None:
            regressed.refuse(self.observed, self.stream.topic, low)
        found = dict(self.observed.at(instant))
        if prove_whole:
            self._prove(instant, found, low)
        self._add(clamp(instant, "interval", {p: (f.offset, f.by) for p, f in found.items()}, low, high))

    def _add(self, cut: Cut) -> None:
        self.tx.add_cut(self.epoch, cut)
        self.cuts.append(cut)
        self.cuts.sort(key=lambda c: c.instant)

    def _between(self, start: int, end: int) -> list[BatchPlan]:
        batches: list[BatchPlan] = []
        chosen = [c for c in self.cuts if start <= c.instant <= end]
        for low, high in pairwise(chosen):
            if low.instant in self.planned:
                batches.append(self.planned[low.instant])
            else:
                batches += self._segment(low, high)
        return batches

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
        rest = subtract(between(low, high), self.tx.coverage(self.epoch, sorted(high.offsets)))
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
        batch = self.add_batch("chain", low.instant, high.instant, ranges)
        self.planned[low.instant] = batch
        return batch

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
        self.batches.append(batch)
        self.created.add(batch.batch_id)
        return batch
