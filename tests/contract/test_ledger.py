"""What every ledger does: each decision once, all of it or nothing, seen by every handle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_eventlog.core.errors import (
    AccountingError,
    ContentMismatchError,
    NotReadyError,
    RunNotPlannedError,
    StagingNotSharedError,
)
from airflow_provider_eventlog.core.offsets import (
    MAX_OFFSET,
    OffsetRange,
    PlannedBatch,
    RunPlan,
    SliceRef,
    TopicIdentity,
    parse_ranges,
)
from airflow_provider_eventlog.core.protocols import (
    BatchState,
    GenerationState,
    Ledger,
    PlanningTransaction,
    Waiting,
)
from tests.contract.ledgers import IDENTITY, binding, cut, off_chain, part_record, segment, slice_record


def _begin(tx: PlanningTransaction) -> None:
    """An epoch, two cuts and the batch between them, with a generation of pipeline p."""
    tx.add_epoch(IDENTITY, "first plan")
    tx.add_cut(1, cut(100, {0: 0, 1: 5}))
    tx.add_cut(1, cut(200, {0: 10, 1: 5}))
    tx.add_batch(segment("b1", 100, 200, "0:0-10"))
    assert tx.allocate("p", "b1", "r1", "inputs") == 1


@pytest.fixture
def begun(ledger: Ledger) -> Ledger:
    """A ledger in which stream s has batch b1 and pipeline p its first generation."""
    with ledger.planning("s", "{}") as tx:
        _begin(tx)
    return ledger


def test_a_new_ledger_is_empty_and_has_an_id_that_stays(ledger: Ledger) -> None:
    """Reads of what was never planned give nothing, and the id does not change from handle to handle."""
    assert ledger.ledger_id == ledger.ledger_id != ""
    assert ledger.epochs("s") == ()
    assert ledger.batches("s") == ()
    assert ledger.coverage("s", 1) == ()
    assert ledger.run("k", "p") is None
    assert ledger.pipelines() == ()
    with pytest.raises(RunNotPlannedError, match="plan stage"):
        ledger.run_plan("k", "p")
    with pytest.raises(KeyError):
        ledger.batch("b1")
    with pytest.raises(KeyError):
        ledger.generation("p", "b1", 1)


def test_staging_root_is_recorded_once_and_another_id_is_refused(ledger: Ledger) -> None:
    """The first root stands; the same id under another mount point passes, another id names both roots."""
    ledger.check_staging("/one", "id-1")
    ledger.check_staging("/one", "id-1")
    ledger.check_staging("/elsewhere", "id-1")
    with pytest.raises(StagingNotSharedError, match=r"/two.*id-2.*/one.*id-1.*staging_root"):
        ledger.check_staging("/two", "id-2")
    ledger.check_staging("/one", "id-1")


def test_a_failed_planning_transaction_leaves_nothing(ledger: Ledger) -> None:
    """An exception inside the block undoes every kind of write in it, and the next transaction starts clean."""

    def fail() -> None:
        with ledger.planning("s", "{}") as tx:
            _begin(tx)
            tx.bind(binding("k", ("b1", 1, "new")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (ledger.epochs("s"), ledger.batches("s"), ledger.coverage("s", 1)) == ((), (), ())
    assert (ledger.cuts("s", 1), ledger.generations("p"), ledger.run("k", "p")) == ((), (), None)
    with ledger.planning("s", "{}") as tx:
        assert (tx.epochs(), tx.cuts(1), tx.batches(1), tx.waiting("p", 1)) == ((), (), (), Waiting(()))
        _begin(tx)
    assert len(ledger.batches("s")) == 1


def test_a_transaction_sees_its_own_writes(ledger: Ledger) -> None:
    """What a plan has added is part of what it reads next."""
    with ledger.planning("s", "{}") as tx:
        _begin(tx)
        assert [c.instant for c in tx.cuts(1)] == [100, 200]
        assert [b.batch_id for b in tx.batches(1)] == ["b1"]
        assert tx.coverage(1) == (OffsetRange(0, 0, 10),)
        assert tx.coverage(1, [1]) == ()
        assert tx.waiting("p", 1) == Waiting(())
        assert [b.batch_id for b in tx.waiting("other", 1).batches] == ["b1"]


def test_epochs_are_numbered_and_an_identity_has_one(ledger: Ledger) -> None:
    """Each new identity opens the next epoch; adding a known one again gives the epoch it has."""
    other = TopicIdentity("cluster", "orders", "second-id")
    with ledger.planning("s", "{}") as tx:
        first = tx.add_epoch(IDENTITY, "first plan")
        second = tx.add_epoch(other, "adopted")
        assert tx.add_epoch(IDENTITY, "first plan") == first
        assert tx.add_epoch(other, "again") == second
    assert ledger.epochs("s") == (first, second)
    assert [(e.epoch, e.identity) for e in ledger.epochs("s")] == [(1, IDENTITY), (2, other)]


def test_a_weak_identity_may_be_adopted_again(ledger: Ledger) -> None:
    """Without a topic id the same name can be another topic: only the same reason on the newest epoch is a repeat."""
    weak = TopicIdentity("cluster", "orders", None)
    with ledger.planning("s", "{}") as tx:
        assert tx.add_epoch(weak, "first plan").epoch == 1
        assert tx.add_epoch(weak, "first plan").epoch == 1
        assert tx.add_epoch(weak, "adopted").epoch == 2
    assert [e.identity.weak for e in ledger.epochs("s")] == [True, True]


def test_cuts_come_in_order_of_instants_whatever_order_they_were_added_in(ledger: Ledger) -> None:
    """A cut inserted between others is found between them, with its offsets and how they were found."""
    first, last, middle = cut(1, {0: 0}), cut(9, {0: 8, 1: 3}), cut(5, {0: 4, 1: 3}, "size")
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for one in (first, last, middle):
            tx.add_cut(1, one)
        assert tx.cuts(1) == (first, middle, last)
    assert ledger.cuts("s", 1) == (first, middle, last)


def test_a_cut_is_made_once(ledger: Ledger) -> None:
    """The same cut again changes nothing; other offsets at its instant are refused."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_cut(1, cut(5, {0: 4}))
        tx.add_cut(1, cut(5, {0: 4}))
        with pytest.raises(ContentMismatchError, match="instant 5"):
            tx.add_cut(1, cut(5, {0: 7}))
        assert tx.cuts(1) == (cut(5, {0: 4}),)


@pytest.mark.parametrize(("instant", "offset"), [(3, 11), (9, 9)])
def test_cuts_that_run_backwards_are_refused(ledger: Ledger, instant: int, offset: int) -> None:
    """An earlier cut beyond a later one, or a later one before an earlier one, would part the chain wrongly."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_cut(1, cut(5, {0: 10}))
        with pytest.raises(AccountingError, match="backwards in partition 0"):
            tx.add_cut(1, cut(instant, {0: offset}))


def test_batches_come_in_chain_order_then_off_chain_by_id(ledger: Ledger) -> None:
    """Chain order is that of the cuts, not of planning; off-chain batches follow."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for instant in (10, 20, 30):
            tx.add_cut(1, cut(instant, {0: instant}))
        tx.add_batch(off_chain("y", "1:5-6"))
        tx.add_batch(segment("late", 20, 30, "0:20-30"))
        tx.add_batch(off_chain("x", "1:0-5"))
        tx.add_batch(segment("zearly", 10, 20, "0:10-20"))
        inside = [b.batch_id for b in tx.batches(1)]
    assert inside == ["zearly", "late", "x", "y"]
    assert [b.batch_id for b, _ in ledger.batches("s")] == inside
    assert [b.batch_id for b, _ in ledger.batches("s", 1)] == inside
    assert ledger.batches("s", 2) == ()


def test_a_plan_is_read_back_as_it_was_frozen(ledger: Ledger) -> None:
    """Ranges and slices keep their order and their last bit up to the greatest offset; instants come from the cuts."""
    top = f"7:{MAX_OFFSET - 3}-{MAX_OFFSET}"
    cut_up = off_chain("sliced", "2:0-10", top, slices=["2:0-4", "2:4-10", top])
    with ledger.planning("s", "{}") as tx:
        _begin(tx)
        tx.add_batch(off_chain("whole", "3:1-2"))
        tx.add_batch(cut_up)
    assert ledger.batch("sliced") == (cut_up, BatchState.PLANNED)
    assert ledger.batch("whole")[0] == off_chain("whole", "3:1-2")
    assert ledger.batch("b1")[0] == segment("b1", 100, 200, "0:0-10")


def test_an_empty_batch_stands_between_its_cuts(begun: Ledger) -> None:
    """A chain batch without offsets is a batch: planned, sealed with no slice, and no coverage."""
    with begun.planning("s", "{}") as tx:
        tx.add_cut(1, cut(300, {0: 10, 1: 5}))
        tx.add_batch(segment("empty", 200, 300))
    begun.seal_batch("empty", "manifest")
    assert begun.batch("empty") == (segment("empty", 200, 300), BatchState.LANDED)
    assert begun.coverage("s", 1) == (OffsetRange(0, 0, 10),)


@pytest.mark.parametrize("text", ["0:0-10", "0:9-11", "0:3-4", "0:0-1"])
def test_overlapping_coverage_is_refused_and_both_ranges_named(begun: Ledger, text: str) -> None:
    """No offset is planned twice: the message names the wanted range and the one that has it."""
    wanted = OffsetRange.parse(text)
    with begun.planning("s", "{}") as tx:
        with pytest.raises(AccountingError) as caught:
            tx.add_batch(off_chain("b2", "1:0-1", text))
        tx.add_batch(off_chain("b3", "0:10-12"))
    assert wanted.people in str(caught.value)
    assert OffsetRange(0, 0, 10).people in str(caught.value)
    assert [b.batch_id for b, _ in begun.batches("s")] == ["b1", "b3"]
    assert begun.coverage("s", 1) == (OffsetRange(0, 0, 12),)


def test_a_range_around_a_planned_one_is_refused(begun: Ledger) -> None:
    """Coverage inside a wanted range counts, not only at its edges."""
    with begun.planning("s", "{}") as tx:
        tx.add_batch(off_chain("far", "0:50-60"))
        with pytest.raises(AccountingError, match="offsets 50 to 59"):
            tx.add_batch(off_chain("around", "0:40-90"))


@pytest.mark.parametrize(
    ("ranges", "slices"),
    [
        (["0:20-30"], ["0:20-29"]),
        (["0:20-30"], ["0:20-31"]),
        (["0:20-30"], ["0:20-26", "0:25-30"]),
        (["0:20-30", "0:29-31"], ["0:20-31"]),
        (["0:20-30"], ["0:20-30", "0:30-30"]),
    ],
)
def test_slices_that_do_not_tile_the_ranges_are_refused(begun: Ledger, ranges: list[str], slices: list[str]) -> None:
    """A batch whose slices leave, add or repeat an offset is not planned."""
    with begun.planning("s", "{}") as tx, pytest.raises(AccountingError):
        tx.add_batch(off_chain("b2", *ranges, slices=slices))
    assert len(begun.batches("s")) == 1


def test_a_batch_needs_its_cuts_and_has_them_for_itself(begun: Ledger) -> None:
    """A missing cut, or a cut at which another batch begins, is refused."""
    with begun.planning("s", "{}") as tx, pytest.raises(AccountingError, match="instant 150"):
        tx.add_batch(segment("b2", 100, 150, "0:20-30"))

    def twice() -> None:
        with begun.planning("s", "{}") as tx:
            tx.add_cut(1, cut(300, {0: 30, 1: 5}))
            tx.add_batch(segment("b2", 100, 300, "0:20-30"))

    with pytest.raises(AccountingError, match="another batch"):
        twice()
    assert [c.instant for c in begun.cuts("s", 1)] == [100, 200]


def test_adding_a_batch_again_changes_nothing_and_another_plan_is_refused(begun: Ledger) -> None:
    """A batch's id stands for one plan for ever."""
    with begun.planning("s", "{}") as tx:
        tx.add_batch(segment("b1", 100, 200, "0:0-10"))
        with pytest.raises(ContentMismatchError, match="b1"):
            tx.add_batch(off_chain("b1", "0:20-30"))
    assert [b for b, _ in begun.batches("s")] == [segment("b1", 100, 200, "0:0-10")]


def test_coverage_merges_what_touches_and_keeps_partitions_apart(ledger: Ledger) -> None:
    """Planned ranges come sorted, merged where they touch, across batches and only within a partition."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_batch(off_chain("c", "0:20-30", "1:10-20"))
        tx.add_batch(off_chain("a", "0:0-10"))
        tx.add_batch(off_chain("b", "0:10-15", slices=["0:10-12", "0:12-15"]))
    assert ledger.coverage("s", 1) == parse_ranges("0:0-15,0:20-30,1:10-20")
    with ledger.planning("s", "{}") as tx:
        assert tx.coverage(1, [1]) == parse_ranges("1:10-20")
        assert tx.coverage(1, []) == ()


def test_streams_do_not_share_coverage(begun: Ledger) -> None:
    """The same offsets of another stream are other offsets."""
    with begun.planning("t", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_batch(off_chain("t1", "0:0-10", stream="t"))
        with pytest.raises(AccountingError, match="'s'"):
            tx.add_batch(off_chain("s2", "0:30-40", stream="s"))
    assert begun.coverage("t", 1) == begun.coverage("s", 1)


def test_generations_are_numbered_by_inputs(begun: Ledger) -> None:
    """Equal inputs find their generation, new inputs get the next number, each pipeline counts alone."""
    with begun.planning("s", "{}") as tx:
        assert tx.allocate("p", "b1", "r1", "inputs") == 1
        assert tx.allocate("p", "b1", "r2", "others") == 2
        assert tx.allocate("p", "b1", "r1", "inputs") == 1
        assert tx.allocate("q", "b1", "r1", "inputs") == 1
        with pytest.raises(AccountingError, match="no such batch"):
            tx.allocate("p", "nowhere", "r1", "inputs")
    assert [(g.generation, g.recipe, g.state) for g in begun.generations("p", "b1")] == [
        (1, "r1", GenerationState.PLANNED),
        (2, "r2", GenerationState.PLANNED),
    ]
    assert [g.generation for g in begun.generations("q")] == [1]


def test_a_run_is_bound_once_and_read_back_whole(begun: Ledger) -> None:
    """The binding, its order and its groups come back as they were, joined to plans, identity and recipe."""
    with begun.planning("s", "{}") as tx:
        tx.add_batch(off_chain("b2", "0:10-20"))
        assert tx.allocate("p", "b2", "r1", "inputs") == 1
        bound = binding("k", ("b2", 1, "new"), ("b1", 1, "replay"), notes=("a note: é \ud800",))
        tx.bind(bound)
        assert tx.bound("k", "p") == bound
        assert tx.bound("k", "q") is None
    assert begun.run("k", "p") == bound
    assert begun.run_plan("k", "p") == RunPlan(
        run_key="k",
        pipeline="p",
        stream="s",
        epoch=1,
        identity=IDENTITY,
        recipe="r1",
        batches=(
            PlannedBatch(off_chain("b2", "0:10-20"), 1, "new"),
            PlannedBatch(segment("b1", 100, 200, "0:0-10"), 1, "replay"),
        ),
        groups=((SliceRef("b2", OffsetRange(0, 0, 10)), SliceRef("b1", OffsetRange(0, 0, 10))),),
        notes=("a note: é \ud800",),
    )


def test_binding_again_replaces_generations_and_never_batches(begun: Ledger) -> None:
    """A run planned again under another recipe takes the same batches; other batches are refused and nothing moves."""
    with begun.planning("s", "{}") as tx:
        tx.bind(binding("k", ("b1", 1, "new")))
        tx.bind(binding("k", ("b1", 1, "new")))
    with begun.planning("s", "{}") as tx:
        assert tx.allocate("p", "b1", "r2", "others") == 2
        tx.bind(binding("k", ("b1", 2, "new"), notes=("again",)))
    with begun.planning("s", "{}") as tx:
        tx.add_batch(off_chain("b2", "0:10-20"))
        tx.allocate("p", "b2", "r2", "inputs")
        with pytest.raises(AccountingError, match=r"b1.*b2"):
            tx.bind(binding("k", ("b2", 1, "new")))
    assert begun.run("k", "p") == binding("k", ("b1", 2, "new"), notes=("again",))
    assert begun.run_plan("k", "p").recipe == "r2"
    assert [g.generation for g in begun.generations("p", "b1")] == [1, 2]


def test_a_binding_to_what_is_not_allocated_is_refused(begun: Ledger) -> None:
    """A run cannot name a generation or a batch that does not exist."""
    with begun.planning("s", "{}") as tx:
        for taken in (("b1", 7, "new"), ("nowhere", 1, "new")):
            with pytest.raises(AccountingError, match=taken[0]):
                tx.bind(binding("k", taken))
    assert begun.run("k", "p") is None


def test_a_run_without_batches_goes_under_the_current_recipe(begun: Ledger) -> None:
    """A run that takes nothing has no generation; its plan still has identity, epoch and a recipe."""
    with begun.planning("s", "{}") as tx:
        tx.bind(binding("k"))
    begun.register_pipeline("p", "s", "r9", "{}")
    plan = begun.run_plan("k", "p")
    assert (plan.batches, plan.groups, plan.identity, plan.recipe) == ((), ((),), IDENTITY, "r9")


def test_a_landed_slice_is_recorded_once(begun: Ledger) -> None:
    """The first record stands and is given back; the same digest again is nothing new, another is refused."""
    first = slice_record("0:0-10", gaps=["0:3-5"])
    assert begun.slices("b1") == ()
    assert begun.record_slice("b1", first) == first
    again = slice_record("0:0-10", gaps=["0:3-5"])
    assert begun.record_slice("b1", again) == first
    with pytest.raises(ContentMismatchError, match=r"0:0-10.*other"):
        begun.record_slice("b1", slice_record("0:0-10", "other"))
    assert begun.slices("b1") == (first,)


@pytest.mark.parametrize("text", ["0:0-9", "0:1-10", "1:0-10"])
def test_a_slice_that_was_not_planned_is_refused(begun: Ledger, text: str) -> None:
    """Only planned pieces are landed, with exactly their bounds."""
    with pytest.raises(AccountingError, match="not a planned slice"):
        begun.record_slice("b1", slice_record(text))
    with pytest.raises(AccountingError, match="not a planned slice"):
        begun.record_slice("nowhere", slice_record("0:0-10"))
    assert begun.slices("b1") == ()


def test_a_slice_that_does_not_balance_is_refused(begun: Ledger) -> None:
    """Rows, invisible and lost offsets add up to the range's length, or nothing is recorded."""
    good = slice_record("0:0-10")
    bad = type(good)(good.range, good.file, "d", 9, 0, 0, 0, (), 1)
    with pytest.raises(AccountingError, match="does not balance"):
        begun.record_slice("b1", bad)
    assert begun.slices("b1") == ()


def test_a_batch_is_sealed_once_and_whole(begun: Ledger) -> None:
    """A batch with a slice missing is not landed; sealed, it keeps its manifest."""
    with pytest.raises(KeyError):
        begun.seal_batch("nowhere", "m")
    with pytest.raises(NotReadyError, match="b1"):
        begun.seal_batch("b1", "m")
    assert begun.batch("b1")[1] is BatchState.PLANNED
    begun.record_slice("b1", slice_record("0:0-10"))
    begun.seal_batch("b1", "m")
    begun.seal_batch("b1", "m")
    assert begun.batch("b1")[1] is BatchState.LANDED
    with pytest.raises(ContentMismatchError, match="b1"):
        begun.seal_batch("b1", "other")


def test_mean_bytes_are_those_of_landed_slices(begun: Ledger) -> None:
    """Nothing is known before the first landing; then payload bytes over offsets, planned slices left out."""
    with begun.planning("s", "{}") as tx:
        tx.add_batch(off_chain("b2", "0:10-1000"))
        assert tx.mean_bytes(1) is None
    begun.record_slice("b1", slice_record("0:0-10"))
    with begun.planning("s", "{}") as tx:
        assert tx.mean_bytes(1) == 10.0


def test_a_part_is_recorded_once(begun: Ledger) -> None:
    """The first record stands; another digest or another range at its place is refused; kinds are apart."""
    typed, rejected = part_record("0:0-10"), part_record("0:0-10", kind="quarantine")
    assert begun.record_part("p", "b1", 1, typed) == typed
    assert begun.record_part("p", "b1", 1, part_record("0:0-10")) == typed
    assert begun.record_part("p", "b1", 1, rejected) == rejected
    with pytest.raises(ContentMismatchError, match="typed"):
        begun.record_part("p", "b1", 1, part_record("0:0-10", "other"))
    with pytest.raises(ContentMismatchError, match="typed"):
        begun.record_part("p", "b1", 1, part_record("0:0-9"))
    with pytest.raises(KeyError):
        begun.record_part("p", "b1", 2, typed)
    assert begun.parts("p", "b1", 1) == (rejected, typed)
    assert begun.parts("p", "b1", 2) == ()


def test_parts_come_by_kind_partition_and_start(begun: Ledger) -> None:
    """The order of parts is that of offsets, not of recording, and numbers are compared as numbers."""
    texts = ["10:0-1", "2:100-101", "2:9-10", "0:5-6"]
    for text in texts:
        begun.record_part("p", "b1", 1, part_record(text))
    assert [str(p.range) for p in begun.parts("p", "b1", 1)] == ["0:5-6", "2:9-10", "2:100-101", "10:0-1"]


def test_a_generation_only_moves_forward(begun: Ledger) -> None:
    """Planned, held, validated, loaded: a repeated or an earlier state changes nothing."""
    order = [GenerationState.PLANNED, GenerationState.HELD, GenerationState.VALIDATED, GenerationState.LOADED]
    for i, state in enumerate(order):
        begun.advance_generation("p", "b1", 1, state)
        for earlier in order[: i + 1]:
            begun.advance_generation("p", "b1", 1, earlier, accounting={"late": 1} if earlier != state else None)
        assert begun.generation("p", "b1", 1).state is state
    assert begun.generation("p", "b1", 1).accounting is None
    with pytest.raises(KeyError):
        begun.advance_generation("p", "b1", 9, GenerationState.HELD)


def test_a_generation_keeps_its_digest_and_its_last_accounting(begun: Ledger) -> None:
    """A digest once recorded admits no other, whatever the state; accounting is that of the last step forward."""
    begun.advance_generation("p", "b1", 1, GenerationState.VALIDATED, digest="d", accounting={"rows": 1})
    begun.advance_generation("p", "b1", 1, GenerationState.VALIDATED, digest="d", accounting={"rows": 2})
    assert begun.generation("p", "b1", 1).accounting == {"rows": 1}
    for state in GenerationState:
        with pytest.raises(ContentMismatchError, match=r"b1.*other"):
            begun.advance_generation("p", "b1", 1, state, digest="other")
    begun.advance_generation("p", "b1", 1, GenerationState.LOADED)
    kept = begun.generation("p", "b1", 1)
    assert (kept.state, kept.digest, kept.accounting) == (GenerationState.LOADED, "d", {"rows": 1})
    begun.advance_generation("p", "b1", 1, GenerationState.LOADED, digest="d")
    assert begun.generation("p", "b1", 1) == kept


def test_a_pipeline_is_registered_under_its_newest_recipe(ledger: Ledger) -> None:
    """Registering again changes nothing; a new recipe becomes the current one, and an old one may come back."""
    ledger.register_pipeline("p", "s", "r1", '{"a":1}')
    ledger.register_pipeline("p", "s", "r1", '{"a":1}')
    ledger.register_pipeline("a", "s", "r0", "{}")
    assert ledger.pipelines() == (("a", "s", "r0", "{}"), ("p", "s", "r1", '{"a":1}'))
    ledger.register_pipeline("p", "s", "r2", '{"a":2}')
    assert ledger.pipelines()[1] == ("p", "s", "r2", '{"a":2}')
    ledger.register_pipeline("p", "s", "r1", '{"a":1}')
    assert ledger.pipelines()[1] == ("p", "s", "r1", '{"a":1}')


def test_two_handles_see_each_others_commits(open_handle: Callable[[], Ledger]) -> None:
    """What one handle has committed the other reads at once, and what it has not is invisible."""
    one, two = open_handle(), open_handle()
    assert one.ledger_id == two.ledger_id
    with one.planning("s", "{}") as tx:
        _begin(tx)
        assert two.batches("s") == ()
    assert two.batches("s") == one.batches("s") != ()
    two.record_slice("b1", slice_record("0:0-10"))
    assert one.slices("b1") == (slice_record("0:0-10"),)
    with two.planning("s", "{}") as tx, pytest.raises(AccountingError):
        tx.add_batch(off_chain("b2", "0:5-6"))
