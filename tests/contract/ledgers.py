"""What the ledger's contract tests share: a degraded double, values to record, and a planner for other processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Barrier
from typing import Any

from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, TopicIdentity, subtract
from airflow_provider_eventlog.core.protocols import (
    GenerationState,
    Ledger,
    PartRecord,
    PlanningTransaction,
    RunBinding,
    SliceRecord,
    StagedFile,
)

IDENTITY = TopicIdentity("cluster", "orders", "topic-id")
# The tables that have a row for each batch or more.
GROWING = ("slice", "cut", "cut_offset", "batch", "part", "generation", "run", "run_batch")


class Reopening:
    """A ledger that is opened anew for every call, as by another process: nothing may live in a handle's memory."""

    def __init__(self, opener: Callable[[], Ledger]) -> None:
        self._opener = opener

    @property
    def ledger_id(self) -> str:
        """The id that a fresh handle reads."""
        handle = self._opener()
        try:
            return handle.ledger_id
        finally:
            handle.close()

    @contextmanager
    def planning(self, stream: str, declaration: str) -> Iterator[PlanningTransaction]:
        """A planning transaction of a fresh handle."""
        handle = self._opener()
        try:
            with handle.planning(stream, declaration) as tx:
                yield tx
        finally:
            handle.close()

    def close(self) -> None:
        """Nothing is open between calls."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            handle = self._opener()
            try:
                return getattr(handle, name)(*args, **kwargs)
            finally:
                handle.close()

        return call


def cut(instant: int, offsets: dict[int, int], kind: str = "interval") -> Cut:
    """A cut whose offsets were found by timestamp."""
    return Cut(instant, kind, offsets, dict.fromkeys(offsets, "timestamp"))


def off_chain(batch_id: str, *texts: str, stream: str = "s", slices: Sequence[str] | None = None) -> BatchPlan:
    """An off-chain batch of ranges given as text; by default one slice a range."""
    ranges = tuple(map(OffsetRange.parse, texts))
    pieces = ranges if slices is None else tuple(map(OffsetRange.parse, slices))
    return BatchPlan(batch_id, stream, 1, "off_chain", None, None, ranges, pieces)


def segment(batch_id: str, low: int, high: int, *texts: str) -> BatchPlan:
    """A chain batch between two instants."""
    ranges = tuple(map(OffsetRange.parse, texts))
    return BatchPlan(batch_id, "s", 1, "chain", low, high, ranges, ranges)


def slice_record(text: str, digest: str = "d", *, gaps: Sequence[str] = (), lost: int = 0) -> SliceRecord:
    """A landed slice with one invisible range a gap, ten payload bytes an offset."""
    r = OffsetRange.parse(text)
    holes = tuple(map(OffsetRange.parse, gaps))
    invisible = sum(map(len, holes))
    file = StagedFile(f"raw/{r}", 7, "sha")
    return SliceRecord(r, file, digest, len(r) - invisible - lost, invisible, 0, lost, holes, 10 * len(r))


def part_record(text: str, digest: str = "d", kind: str = "typed") -> PartRecord:
    """A derived file of one slice."""
    r = OffsetRange.parse(text)
    return PartRecord(kind, r, StagedFile(f"{kind}/{r}", 9, "sha"), digest, "recipe", {"rows": len(r)}, {"first": [1]})


def binding(
    run_key: str, *batches: tuple[str, int, str], notes: tuple[str, ...] = (), pipeline: str = "p"
) -> RunBinding:
    """A binding with one group that names the first slice of every batch."""
    groups = (tuple((batch_id, "0:0-10") for batch_id, _, _ in batches),)
    return RunBinding(run_key, pipeline, "interval", {"mode": "interval", "interval": [0, 1]}, batches, groups, notes)


def plan_one(ledger: Ledger) -> None:
    """Plan batch b1, offsets 0 to 9 of partition 0 of stream s, and bind run k of pipeline p to it."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_cut(1, cut(100, {0: 0}))
        tx.add_cut(1, cut(200, {0: 10}))
        tx.add_batch(segment("b1", 100, 200, "0:0-10"))
        tx.bind(binding("k", ("b1", tx.allocate("p", "b1", "r", "i"), "new")))


def use_everything(ledger: Ledger) -> None:
    """Plan, land and derive so that every statement runs whose cost could grow with the chain."""
    for _ in range(2):
        plan_one(ledger)
    with ledger.planning("s", "{}") as tx:
        tx.coverage(1)
        tx.coverage(1, [0, 3])
        tx.cuts(1)
        tx.batches(1)
        tx.waiting("p", 1)
        tx.waiting("q", 1, 1, landed=True)
        tx.cuts_between(1, 100, 200)
        tx.neighbours(1, 150)
        tx.first_instant(1)
        tx.newest_cut(1)
        tx.segments(1, 100, 200)
        tx.segment_around(1, 150)
        tx.covered(1, [OffsetRange(0, 5, 30), OffsetRange(1, 0, 5)])
        tx.owners(1, [OffsetRange(0, 5, 30)])
        tx.landed(["b1"])
        tx.gone(["b1"])
        tx.batches_by_id(["b1"])
        tx.mean_bytes(1)
        tx.allocate("p", "b1", "r2", "i2")
        tx.add_batch(off_chain("b2", "0:20-30", "1:0-5"))
        tx.bound("k", "p")
    ledger.record_slice("b1", slice_record("0:0-10"))
    ledger.record_slice("b1", slice_record("0:0-10"))
    ledger.seal_batch("b1", "m")
    ledger.record_part("p", "b1", 1, part_record("0:0-10"))
    ledger.advance_generation("p", "b1", 1, GenerationState.VALIDATED)
    ledger.register_pipeline("p", "s", "r", "{}")
    ledger.slices("b1")
    ledger.parts("p", "b1", 1)
    ledger.batch("b1")
    ledger.batches("s")
    ledger.generations("p")
    ledger.generations("p", "b1")
    ledger.run_plan("k", "p")
    ledger.runs("p", 5)
    ledger.unlanded("s", 1, {0: 40})
    ledger.unwritten("s")
    ledger.newest_offsets("s", 1)
    ledger.holes("s", 1)
    ledger.losses("s", 1)
    ledger.totals("s", 1)
    ledger.standing("p", "s")
    ledger.waiting_offsets("p", "s", 1)
    ledger.waiting_offsets("q", "s", 1)


def plan_at_once(address: str, seed: int, rounds: int, barrier: Barrier) -> tuple[str, int, list[str]]:
    """In a process of its own: open the ledger with the others, then plan `rounds` batches against them.

    Returns the ledger's id, how often a range that others had planned was refused, and the planned ranges.
    """
    chance = random.Random(seed)
    barrier.wait(timeout=60)
    ledger = open_ledger(address, timeout_s=60)
    refused = 0
    planned: list[str] = []
    for n in range(rounds):
        with ledger.planning("s", "{}") as tx:
            tx.add_epoch(IDENTITY, "first plan")
            partition, start = chance.randrange(3), chance.randrange(400)
            wanted = OffsetRange(partition, start, start + chance.randrange(1, 80))
            rest = subtract([wanted], tx.coverage(1, [partition]))
            if rest != (wanted,):
                refused += _is_refused(tx, f"{seed}/{n}/blind", wanted)
            tx.add_batch(BatchPlan(f"{seed}/{n}", "s", 1, "off_chain", None, None, rest, rest))
            planned += map(str, rest)
    ledger_id = ledger.ledger_id
    ledger.close()
    return ledger_id, refused, planned


def _is_refused(tx: PlanningTransaction, batch_id: str, wanted: OffsetRange) -> bool:
    try:
        tx.add_batch(BatchPlan(batch_id, "s", 1, "off_chain", None, None, (wanted,), (wanted,)))
    except AccountingError:
        return True
    raise AssertionError(f"{wanted} overlaps coverage and was taken")
