"""Questions about a part of the chain give what a look at the whole chain gives."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from airflow_provider_eventlog.core import retention
from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, between, merged, subtract
from airflow_provider_eventlog.core.protocols import Decision, GenerationState, PlanningTransaction, Waiting
from tests.contract.ledgers import IDENTITY, cut, off_chain, slice_record

PARTITIONS = 3
ENDS = {0: 400, 1: 390, 2: 5, 3: 20}


class Chance:
    """A chain made by chance: holes, empty segments, off-chain batches, slices of which some are landed."""

    def __init__(self, ledger: SqlLedger, seed: int) -> None:
        self.ledger, self.chance = ledger, random.Random(seed)
        with ledger.planning("s", "{}") as tx:
            tx.add_epoch(IDENTITY, "first plan")
            self._chain(tx)
            self._off_chain(tx)
        for plan, _ in ledger.batches("s"):
            self._land(plan)

    def _chain(self, tx: PlanningTransaction) -> None:
        offsets = {0: 10, 1: 0}
        made = [cut(100, offsets)]
        for n in range(1, 20):
            offsets = {p: o + self.chance.choice((0, 1, 10, 30)) for p, o in offsets.items()}
            if n == 8:
                offsets[2] = 3
            made.append(cut(100 + 10 * n, dict(offsets)))
        for one in self.chance.sample(made, len(made)):
            tx.add_cut(1, one)
        for low, high in self.chance.sample(list(pairwise(made)), 15):
            self._batch(tx, low, high)

    def _batch(self, tx: PlanningTransaction, low: Cut, high: Cut) -> None:
        ranges = tuple(between(low, high))
        slices = tuple(
            OffsetRange(r.partition, at, min(at + 7, r.end)) for r in ranges for at in range(r.start, r.end, 7)
        )
        plan = BatchPlan(f"c{low.instant}", "s", 1, "chain", low.instant, high.instant, ranges, slices)
        tx.add_batch(plan)

    def _off_chain(self, tx: PlanningTransaction) -> None:
        for n in range(6):
            start = self.chance.randrange(380)
            wanted = OffsetRange(self.chance.randrange(2), start, start + self.chance.randrange(1, 30))
            for r in subtract([wanted], tx.coverage(1)):
                tx.add_batch(off_chain(f"o{n}/{r}", str(r)))

    def _land(self, plan: BatchPlan) -> None:
        some = [r for r in plan.slices if self.chance.random() < 0.7]
        for r in some:
            self.ledger.record_slice(plan.batch_id, slice_record(str(r)))
        if len(some) == len(plan.slices):
            self.ledger.seal_batch(plan.batch_id, "m")

    def ranges(self) -> tuple[OffsetRange, ...]:
        """Some ranges to ask for, empty ones too."""
        found = []
        for _ in range(self.chance.randrange(1, 5)):
            start = self.chance.randrange(400)
            found.append(OffsetRange(self.chance.randrange(4), start, start + self.chance.choice((0, 1, 5, 60))))
        return tuple(found)


@pytest.fixture(params=range(4))
def chance(request: pytest.FixtureRequest, address: str) -> Iterable[Chance]:
    ledger = open_ledger(address)
    yield Chance(ledger, request.param)
    ledger.close()


def _common(one: Iterable[OffsetRange], other: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    ours = list(one)
    return merged(subtract(ours, subtract(ours, other)))


def test_cuts_and_segments_of_a_part_are_those_of_the_whole(chance: Chance) -> None:
    """Neighbours, cuts and batches around any two instants are found as by a look at all."""
    with chance.ledger.planning("s", "{}") as tx:
        cuts, chain = tx.cuts(1), [b for b in tx.batches(1) if b.kind == "chain"]
        assert (tx.first_instant(1), tx.newest_cut(1)) == (cuts[0].instant, cuts[-1])
        assert (tx.first_instant(2), tx.newest_cut(2)) == (None, None)
        for start in range(94, 300, 5):
            before = [c for c in cuts if c.instant <= start]
            after = [c for c in cuts if c.instant > start]
            assert tx.neighbours(1, start) == (before[-1] if before else None, after[0] if after else None)
            assert tx.segment_around(1, start) == next((b for b in chain if _spans(b, start, start)), None)
            for end in (start + 1, start + 10, start + 55):
                assert tx.cuts_between(1, start, end) == tuple(c for c in cuts if start <= c.instant <= end)
                assert tx.segments(1, start, end) == tuple(b for b in chain if _spans(b, start, end))


def _spans(batch: BatchPlan, start: int, end: int) -> bool:
    assert batch.from_instant is not None
    assert batch.to_instant is not None
    return batch.from_instant < end and start < batch.to_instant


def test_what_is_covered_of_some_ranges_is_what_all_batches_have_of_them(chance: Chance) -> None:
    """Owners and coverage of any ranges are those that a look at every batch finds."""
    with chance.ledger.planning("s", "{}") as tx:
        batches = tx.batches(1)
        for _ in range(60):
            wanted = chance.ranges()
            owners = tuple(b for b in batches if _common(b.ranges, wanted))
            assert tx.owners(1, wanted) == owners
            covered = tx.covered(1, wanted)
            assert _common(covered, wanted) == _common((r for b in batches for r in b.ranges), wanted)
            assert subtract(covered, [r for b in owners for r in b.ranges]) == ()


def test_unlanded_is_all_from_the_first_cut_to_the_ends_but_what_is_landed(chance: Chance) -> None:
    """Holes, planned slices, the log behind the newest cut and partitions that no cut knows: all of it is unlanded."""
    origin = chance.ledger.cuts("s", 1)[0].offsets
    wanted = [OffsetRange(p, min(origin.get(p, 0), end), end) for p, end in ENDS.items()]
    landed = chance.ledger.coverage("s", 1, landed=True)
    assert landed
    assert chance.ledger.unlanded("s", 1, ENDS) == merged(subtract(wanted, landed))


def test_holes_and_totals_are_those_of_a_full_look(chance: Chance) -> None:
    """What status says is what all cuts and batches say."""
    ledger = chance.ledger
    batches = [b for b, _ in ledger.batches("s")]
    held = {b.from_instant for b in batches if b.kind == "chain"}
    expected = [
        (low, high, subtract(between(low, high), [r for b in batches for r in b.ranges]))
        for low, high in pairwise(ledger.cuts("s", 1))
        if low.instant not in held
    ]
    assert len(expected) == 4
    assert list(ledger.holes("s", 1)) == expected
    assert ledger.totals("s", 1) == ledger.totals("s") == (len(batches), sum(b.length for b in batches))
    assert ledger.totals("s", 2) == ledger.totals("other") == (0, 0)


def test_only_the_newest_generation_of_a_batch_counts(chance: Chance) -> None:
    """A pipeline's standing has each batch once, in the state of its newest generation."""
    ledger = chance.ledger
    ids = [b.batch_id for b, _ in ledger.batches("s")][:4]
    with ledger.planning("s", "{}") as tx:
        for batch_id, inputs in [(i, "1") for i in ids] + [(ids[0], "2")]:
            tx.allocate("p", batch_id, "r", inputs)
        tx.allocate("other", ids[0], "r", "1")
    for batch_id in ids[:2]:
        ledger.advance_generation("p", batch_id, 1, GenerationState.LOADED)
    assert ledger.standing("p", "s") == {GenerationState.PLANNED: 3, GenerationState.LOADED: 1}
    assert ledger.standing("p", "other") == {}


def test_the_newest_cut_is_told_outside_of_a_plan_too(chance: Chance) -> None:
    """The sensor counts from it."""
    assert chance.ledger.newest_offsets("s", 1) == chance.ledger.cuts("s", 1)[-1].offsets
    assert chance.ledger.newest_offsets("s", 2) is None


def test_without_a_cut_what_is_planned_is_unlanded(address: str) -> None:
    """A stream of which only explicit offsets were taken waits for those alone."""
    ledger = open_ledger(address)
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_batch(off_chain("b1", "0:5-10", "1:0-5"))
    ledger.record_slice("b1", slice_record("0:5-10"))
    assert ledger.unlanded("s", 1, {0: 100, 1: 100}) == (OffsetRange(1, 0, 5),)
    ledger.close()


def test_waiting_is_what_was_not_taken_in_chain_order(chance: Chance) -> None:
    """However batches are taken, expire, come back and are added, the next ones that wait are those of a full look."""
    ledger, rng = chance.ledger, chance.chance
    taken: set[str] = set()
    gone: set[str] = set()
    for turn in range(30):
        with ledger.planning("s", "{}") as tx:
            chain = [b for b in tx.batches(1) if b.kind == "chain"]
            expected = [b for b in chain if b.batch_id not in taken | gone]
            assert ledger.waiting_offsets("p", "s", 1) == sum(b.length for b in expected)
            limit = rng.choice((None, 1, 3))
            found = tx.waiting("p", 1, limit)
            assert list(found.batches) == expected[:limit]
            assert found.more == max(0, len(expected) - (limit or len(expected)))
            landed = tx.landed(b.batch_id for b in expected)
            assert (
                list(tx.waiting("p", 1, limit, landed=True).batches)
                == [b for b in expected if b.batch_id in landed][:limit]
            )
            assert tx.gone(b.batch_id for b in chain).keys() == gone
            for b in expected[:limit] if turn % 3 else rng.sample(expected, min(2, len(expected))):
                tx.allocate("p", b.batch_id, "r", "i")
                taken.add(b.batch_id)
        if turn % 4 == 1:
            kind, some = _change(rng, gone, [b.batch_id for b in chain])
            ledger.decide(_decision(kind, turn, some))
            gone = gone | set(some) if kind == retention.EXPIRED else gone - set(some)
        if turn % 5 == 2:
            with ledger.planning("s", "{}") as tx:
                held = {b.from_instant for b in tx.batches(1)}
                holes = [(a, b) for a, b in pairwise(tx.cuts(1)) if a.instant not in held]
                if holes:
                    low, high = rng.choice(holes)
                    ranges = tuple(subtract(between(low, high), tx.coverage(1)))
                    tx.add_batch(BatchPlan(f"f{turn}", "s", 1, "chain", low.instant, high.instant, ranges, ranges))
    assert taken


def _change(rng: random.Random, gone: set[str], known: list[str]) -> tuple[str, list[str]]:
    if gone and rng.random() < 0.5:
        return retention.RESTORED, sorted(rng.sample(sorted(gone), 1))
    return retention.EXPIRED, sorted(rng.sample(known, 2))


def _decision(kind: str, at: int, batch_ids: list[str]) -> Decision:
    payload = {"what": retention.RAW, "batches": batch_ids}
    return Decision(kind, "s", None, None, None, "me", "test", at, payload)


def test_batches_that_went_are_told_of_once(address: str) -> None:
    """A plan says how many batches it leaves out because their raw files are gone; the next one does not repeat it."""
    ledger = open_ledger(address)
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for n in range(4):
            tx.add_cut(1, cut(100 + n, {0: 10 * n}))
        for n in range(3):
            ranges = (OffsetRange(0, 10 * n, 10 * n + 10),)
            tx.add_batch(BatchPlan(f"b{n}", "s", 1, "chain", 100 + n, 101 + n, ranges, ranges))
    ledger.decide(_decision(retention.EXPIRED, 1, ["b0", "b1"]))
    with ledger.planning("s", "{}") as tx:
        first = tx.waiting("p", 1)
        assert ([b.batch_id for b in first.batches], first.gone, first.first_gone) == (["b2"], 2, "b0")
        assert tx.waiting("p", 1) == Waiting(first.batches)
    ledger.decide(_decision(retention.RESTORED, 2, ["b1"]))
    with ledger.planning("s", "{}") as tx:
        again = tx.waiting("p", 1)
        assert ([b.batch_id for b in again.batches], again.gone, again.first_gone) == (["b1", "b2"], 1, "b0")
    ledger.close()


def test_a_decision_is_unwritten_until_its_record_is_told_of(address: str) -> None:
    """What planning decides stands as unwritten, by stream, until somebody has written it down."""
    ledger = open_ledger(address)
    one, two = _decision("loss", 1, []), _decision("loss", 2, [])
    with ledger.planning("s", "{}") as tx:
        tx.decide(one)
    ledger.decide(two)
    assert ledger.unwritten("s") == (one, two)
    assert ledger.unwritten("other") == ()
    ledger.written([one.id])
    ledger.decide(one)
    assert ledger.unwritten("s") == (two,)
    ledger.written([])
    ledger.written([one.id, two.id])
    assert (ledger.unwritten("s"), ledger.decisions("s")) == ((), (one, two))
    ledger.close()
