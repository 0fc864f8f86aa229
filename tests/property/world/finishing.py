"""The end of every world: faults stop, runs are tried again, and then all is as if nothing had happened."""

from __future__ import annotations

import re
from itertools import pairwise

from airflow_provider_eventlog.core.errors import (
    BatchHeldError,
    FutureIntervalError,
    OffsetRangeError,
    OffsetsLostError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.offsets import OffsetRange, merged, subtract
from airflow_provider_eventlog.core.requests import RunRequest
from tests.property.world import reference
from tests.property.world.attempts import Attempt
from tests.property.world.declared import LAST
from tests.property.world.invariants import Promises, everything
from tests.property.world.world import Run, World

# What a run may be refused with when nothing is broken any more: it asks for what is not there.
REFUSED = (FutureIntervalError, OffsetRangeError, OffsetsLostError, TopicReplacedError)


def finish(world: World, promises: Promises) -> None:
    """Let everything come to its end by plain retries, and compare it with the log."""
    while world.asleep:
        world.go(world.asleep[0])
    heal(world)
    promises.check()
    for run in list(world.runs):
        if not _done(world, run):
            _tried(world, run)
    world.recipe = LAST
    promises.check()
    for name in ("rows", "windows"):
        _take_all(world, promises, name)
    promises.check()
    _compare(world, promises)


def heal(world: World) -> None:
    """Transactions end, the topic is there, and what is lost is declared so."""
    if world.log.topic is None:
        world.recreate(same=False)
    for number in world.log.open_transactions:
        world.log.end_transaction(number, commit=False)
    world.on_data_loss = "record"
    pinned = world.asked("SELECT topic_id FROM epoch ORDER BY epoch DESC LIMIT 1")
    topic = world.log.known()
    if pinned and pinned[0][0] != topic.identity.topic_id:
        _well(world.adopt("earliest"))


def _well(attempt: Attempt) -> Attempt:
    assert attempt.done
    assert attempt.error is None, f"{attempt.name}: {attempt.error!r}"
    return attempt


def _done(world: World, run: Run) -> bool:
    """Whether all that the run is bound to is loaded: nobody would try it again."""
    bound = "FROM run_batch JOIN generation USING (pipeline, batch_id, gen) WHERE run_key = ? AND pipeline = ?"
    states = world.asked(f"SELECT DISTINCT state {bound}", run.key, run.pipeline)
    return states == [("loaded",)]


def _tried(world: World, run: Run) -> None:
    """A run from plan to load; held batches are released on the way."""
    for _ in range(2):
        made = world.go(world.staged(run, "all", 0))
        if not isinstance(made.error, BatchHeldError):
            break
        for released in world.release():
            _well(released)
    if made.error is not None:
        assert isinstance(made.error, REFUSED), f"{made.name}: {made.error!r}"


def _take_all(world: World, promises: Promises, name: str) -> None:
    """What came since the last batch, what holes hold, what others have taken; and the windows pass what is gone."""
    for number in range(20):
        run = Run(f"{name}-finish-{number}", name, RunRequest("since_last", parallelism=2))
        _tried(world, run)
        taken = world.asked("SELECT length, mode FROM run_batch JOIN batch USING (batch_id) WHERE run_key = ?", run.key)
        if taken == [(0, "new")]:
            break
    else:
        raise AssertionError(f"{name} finds no end")
    epochs = [n for (n,) in world.asked("SELECT epoch FROM epoch ORDER BY 1")]
    newest = epochs[-1]
    cuts = promises.cuts(newest)
    for number, ((low, _), (high, _)) in enumerate(pairwise(cuts)):
        # Windows of a schedule that catches up wait for its first interval.
        if number == 0 or promises.hole(newest, low):
            request = RunRequest("interval", (max(0, low), high), gap="hole", first=number == 0, parallelism=2)
            _tried(world, Run(f"{name}-hole-{low}", name, request))
    for epoch in epochs:
        ranges = everything(promises.batches(), epoch)
        if epoch == newest:
            # Also what a lost ledger had planned by offsets, which no other run takes.
            ranges = merged([*ranges, *promises.gaps(epoch)])
        if ranges:
            request = RunRequest("offsets", ranges=ranges, epoch=epoch, parallelism=2)
            _tried(world, Run(f"{name}-all-{epoch}", name, request))
    if name == "windows":
        _pass_what_is_gone(world, promises, newest)


def _pass_what_is_gone(world: World, promises: Promises, newest: int) -> None:
    """Batches of topics that are gone will never be landed: windows pass them by decision."""
    gone = [b.batch_id for b, s in promises.batches() if s != "landed" and b.epoch < newest and b.kind == "chain"]
    for batch_id in gone:
        _well(world.skip(batch_id, None))
    for number in range(20):
        # Whichever run comes by folds on.
        _tried(world, Run(f"windows-end-{number}", "windows", RunRequest("since_last")))
        empty = re.search(r"waiting': 'batch (\w+) .* not validated yet'", world.waiting)
        if empty is not None:
            # An empty batch that was bound together with one that is gone: no back-fill by offsets names it.
            _well(world.skip(empty.group(1), None))
            continue
        if "a hole from" not in world.waiting:
            return
        instants = [i for epoch in range(1, newest) for i, _ in promises.cuts(epoch)]
        assert any(world.skip(None, instant).error is None for instant in instants), world.waiting
    raise AssertionError(f"the windows find no end: {world.waiting}")


def _compare(world: World, promises: Promises) -> None:
    """Every committed record of every planned offset is there once, under the recipe of now; nothing is left over."""
    batches, newest = promises.batches(), world.asked("SELECT max(epoch) FROM epoch")[0][0]
    unlanded = [b.batch_id for b, state in batches if state != "landed" and b.epoch == newest]
    assert unlanded == [], f"never landed: {unlanded}"
    # Of an empty batch nobody need ever take more notice.
    landed = {b.batch_id: b for b, state in batches if state == "landed" and b.length}
    cuts = promises.cuts(newest)
    topic = promises.topic(newest)
    assert topic is not None
    if cuts:
        first = cuts[0][1]
        whole = [OffsetRange(p, first.get(p, 0), topic.end(p)) for p in range(len(topic.partitions))]
        left = subtract([r for r in whole if len(r)], everything(batches, newest))
        assert not left, f"nobody took {left}; cuts {cuts}, batches {batches}"
    table = world.database.get("t")
    of_rows = {} if table is None else table.rows
    assert set(landed) <= set(of_rows)
    for batch_id, batch in landed.items():
        assert table is not None
        generation = table.loads[batch_id].generation
        recipe = promises.recipe("rows", batch_id, generation)
        assert recipe == world.recipe
        assert reference.of_table(of_rows[batch_id]) == promises.expected(batch, recipe)
    _compare_windows(world, promises, set(landed))
    document = world.fsck()
    damaged = [f for f in document["findings"] if f["damaged"]]
    assert damaged == [], damaged


def _compare_windows(world: World, promises: Promises, landed: set[str]) -> None:
    entered = {
        a for (a,) in world.asked("SELECT about FROM fold WHERE cause IN ('batch', 'outside') AND pipeline = 'windows'")
    }
    assert landed <= entered, f"not in the windows: {sorted(landed - entered)}; {world.waiting}; {promises.batches()}"
    cursor = world.database["w"].cursor
    assert cursor is not None
    assert [cursor[:2]] == world.asked("SELECT log, max(n) FROM fold WHERE log = (SELECT max(log) FROM fold)")
