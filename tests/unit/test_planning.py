"""Planning on a simulated topic and a real ledger: what each kind of run takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import (
    FutureIntervalError,
    IntervalExpiredError,
    OffsetRangeError,
    OffsetsLostError,
    RequestError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, RunPlan, TopicIdentity, format_ranges, parse_ranges
from airflow_provider_eventlog.core.planning import plan_run, preview_run
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, FromGroup, Pipeline, Rows, Stream
from tests.support.simlog import SimSource

NOW = 1_000_000


class World:
    """One ledger, one simulated topic with a record every 10 ms in each partition, and a pipeline over it."""

    def __init__(self, folder: Path, partitions: int = 2, records: int = 100) -> None:
        self.ledger = open_ledger(folder / "ledger.sqlite")
        self.source = SimSource({p: [10 * (i + 1) for i in range(records)] for p in range(partitions)})
        self.now = NOW

    def pipeline(self, name: str = "p", version: str = "", **stream: Any) -> Pipeline:
        outputs = [Rows(DuckDB("x.duckdb", table=name))]
        return Pipeline(name, stream=Stream("t", **stream), outputs=outputs, version=version)

    def plan(self, pipeline: Pipeline, request: RunRequest, key: str, *, keep: bool = True) -> RunPlan:
        call = plan_run if keep else preview_run
        return call(self.ledger, lambda: self.source, pipeline, request, key, self.now)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()


def interval(start: int, end: int, **more: Any) -> RunRequest:
    return RunRequest("interval", interval=(start, end), **more)


def offsets(text: str) -> RunRequest:
    return RunRequest("offsets", ranges=parse_ranges(text))


def taken(plan: RunPlan) -> str:
    return format_ranges(r for p in plan.batches for r in p.batch.ranges)


def test_interval_takes_the_records_of_its_time(world: World) -> None:
    """[t0, t1) is cut at the first record at or after each bound, in every partition."""
    plan = world.plan(world.pipeline(), interval(105, 205), "r1")
    assert taken(plan) == "0:10-20,1:10-20"
    assert [p.mode for p in plan.batches] == ["new"]


def test_tiled_by_neighbouring_intervals(world: World) -> None:
    """The end cut of one interval is the start cut of the next: no offset between them, none in both."""
    pipeline = world.pipeline()
    plans = [world.plan(pipeline, interval(a, b), f"r{a}") for a, b in pairwise((100, 200, 300, 400))]
    ends = [[r.end for p in plan.batches for r in p.batch.ranges] for plan in plans]
    starts = [[r.start for p in plan.batches for r in p.batch.ranges] for plan in plans]
    assert ends[:-1] == starts[1:]


def test_the_same_run_finds_its_plan_again_without_kafka(world: World) -> None:
    """A clear or retry is bound to the batches of its first plan, and asks Kafka nothing."""
    pipeline = world.pipeline()
    first = world.plan(pipeline, interval(100, 200), "r")
    asked = len(world.source.requests)
    world.source.logs[0] += [150] * 50
    assert world.plan(pipeline, interval(100, 200), "r") == first
    assert len(world.source.requests) == asked


def test_another_run_of_the_same_interval_replays_its_owner(world: World) -> None:
    """A second run over planned coverage takes the same batch and generation, as a replay."""
    pipeline = world.pipeline()
    first = world.plan(pipeline, interval(100, 200), "a")
    second = world.plan(pipeline, interval(100, 200), "b")
    assert [(p.batch, p.generation, p.mode) for p in second.batches] == [
        (p.batch, p.generation, "replay") for p in first.batches
    ]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 0, 1)])
def test_out_of_order_catch_up_sees_the_same_cuts(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Whatever the order in which a schedule's intervals are planned, each takes the same offsets."""
    world = World(tmp_path)
    bounds = list(pairwise((100, 200, 300, 400, 500)))
    plans = {i: world.plan(world.pipeline(), interval(*bounds[i], gap="hole"), f"r{i}") for i in order}
    assert [taken(plans[i]) for i in range(4)] == [
        "0:9-19,1:9-19",
        "0:19-29,1:19-29",
        "0:29-39,1:29-39",
        "0:39-49,1:39-49",
    ]
    world.ledger.close()


def test_gap_hole_leaves_the_hole_for_its_run(world: World) -> None:
    """With gap=hole a skipped interval stays unplanned, and the run whose interval it is fills it exactly."""
    pipeline = world.pipeline()
    world.plan(pipeline, interval(100, 200, gap="hole"), "r1")
    world.plan(pipeline, interval(300, 400, gap="hole"), "r3")
    ledger = world.ledger
    assert [format_ranges(rest) for _, _, rest in ledger.holes("t", 1)] == ["0:19-29,1:19-29"]
    assert taken(world.plan(pipeline, interval(200, 300, gap="hole"), "r2")) == "0:19-29,1:19-29"
    assert ledger.holes("t", 1) == ()


def test_gap_absorb_takes_what_a_pause_skipped(world: World) -> None:
    """With gap=absorb a run after a pause begins at the newest cut before it, and says so."""
    pipeline = world.pipeline()
    world.plan(pipeline, interval(100, 200), "r1")
    plan = world.plan(pipeline, interval(500, 600), "r2")
    assert taken(plan) == "0:19-59,1:19-59"
    assert any("newest one before it" in note for note in plan.notes)


def test_an_interval_inside_planned_coverage_never_cuts_it(world: World) -> None:
    """An interval within a batch replays the whole batch and adds no cut."""
    pipeline = world.pipeline()
    first = world.plan(pipeline, interval(100, 500), "r1")
    cuts = world.ledger.cuts("t", 1)
    inner = world.plan(pipeline, interval(200, 300), "r2")
    assert [p.batch for p in inner.batches] == [p.batch for p in first.batches]
    assert world.ledger.cuts("t", 1) == cuts


def test_earliest_takes_all_that_came_before(world: World) -> None:
    """start=earliest: the schedule's first interval begins at the log start."""
    pipeline = world.pipeline(start="earliest")
    plan = world.plan(pipeline, interval(500, 600, gap="hole", first=True), "r1")
    assert taken(plan) == "0:0-59,1:0-59"


def test_latest_starts_at_the_end_of_the_log(world: World) -> None:
    """start=latest: nothing of before is taken, everything after is."""
    pipeline = world.pipeline(start="latest")
    assert taken(world.plan(pipeline, RunRequest("since_last"), "r1")) == ""
    world.source.logs[1] += [2000] * 3
    world.now += 10_000
    assert taken(world.plan(pipeline, RunRequest("since_last"), "r2")) == "1:100-103"


def test_a_time_offsets_and_a_group_are_starts(tmp_path: Path) -> None:
    """A time, offsets by partition and a group's committed offsets each give cut 0."""
    time = datetime.fromtimestamp(0.5, UTC)
    for index, (start, expected) in enumerate(
        [
            (time, "0:49-100,1:49-100"),
            ({0: 90, 1: 95}, "0:90-100,1:95-100"),
            (FromGroup("g"), "0:70-100,1:0-100"),
        ]
    ):
        world = World(tmp_path / str(index))
        world.source.groups["g"] = {0: 70}
        assert taken(world.plan(world.pipeline(start=start), RunRequest("since_last"), "r")) == expected
        world.ledger.close()


def test_since_last_takes_what_the_pipeline_has_not_taken(world: World) -> None:
    """Progress is the pipeline's own: a second pipeline over the stream starts from the batches that stand."""
    first, second = world.pipeline("p"), world.pipeline("q")
    world.plan(first, RunRequest("since_last"), "a")
    world.source.logs[0] += [3000]
    world.now += 5_000
    plan = world.plan(second, RunRequest("since_last"), "b")
    assert [p.mode for p in plan.batches] == ["replay", "new"]
    assert taken(plan) == "0:0-100,0:100-101,1:0-100"
    assert taken(world.plan(first, RunRequest("since_last"), "c")) == "0:100-101"


def test_since_last_names_what_remains(world: World) -> None:
    """At most max_batches are taken in one run, in order, and the plan says how many remain."""
    for index in range(4):
        world.source.logs[0] += [NOW + index]
        world.now += 100
        world.plan(world.pipeline("p"), RunRequest("since_last"), f"a{index}")
    plan = world.plan(world.pipeline("q"), RunRequest("since_last", max_batches=2), "b")
    assert len(plan.batches) == 2
    plan = world.plan(world.pipeline("q"), RunRequest("since_last", max_batches=2), "c")
    assert len(plan.batches) == 2


def test_back_fill_subtracts_coverage(world: World) -> None:
    """Explicit offsets replay the owners of what is covered, whole, and add one batch for the uncovered rest."""
    pipeline = world.pipeline()
    owner = world.plan(pipeline, interval(100, 200), "r1").batches[0].batch
    plan = world.plan(pipeline, offsets("0:5-25,1:15-18"), "r2")
    assert [(p.mode, format_ranges(p.batch.ranges)) for p in plan.batches] == [
        ("replay", format_ranges(owner.ranges)),
        ("new", "0:5-9,0:19-25"),
    ]


def test_a_chain_batch_leaves_out_what_was_back_filled(world: World) -> None:
    """A chain batch is its segment minus the coverage that stood when it was frozen."""
    pipeline = world.pipeline()
    world.plan(pipeline, offsets("0:12-15"), "b")
    assert taken(world.plan(pipeline, interval(100, 200), "r")) == "0:9-12,0:15-19,1:9-19"


def test_a_record_from_the_future_does_not_pin_the_cuts(world: World) -> None:
    """A record dated beyond the allowed skew is read past: later cuts fall on believed records."""
    world.source.logs[0][5] = NOW * 10_000
    plan = world.plan(world.pipeline(), interval(100, 200), "r")
    assert taken(plan) == "0:9-19,1:9-19"
    found = world.ledger.cuts("t", 1)[0].found_by
    assert found[0] == "probe"
    assert "probe" in world.source.requests


def test_an_interval_in_the_future_is_refused(world: World) -> None:
    """An interval that ends after now has no last offset yet: a retriable refusal, nothing planned."""
    with pytest.raises(FutureIntervalError, match="ends in the future") as caught:
        world.plan(world.pipeline(), interval(NOW - 10, NOW + 1), "r")
    assert caught.value.retriable
    assert world.ledger.cuts("t", 1) == ()


def test_an_expired_interval_is_not_empty(world: World) -> None:
    """An interval whose start falls on a log start above 0 cannot be proved whole and is refused."""
    world.source.starts = {0: 30, 1: 0}
    with pytest.raises(IntervalExpiredError, match="partition 0 now starts at offset 30"):
        world.plan(world.pipeline(), interval(100, 500), "r")
    assert world.ledger.run("r", "p") is None


def test_lost_offsets_are_named(world: World) -> None:
    """Offsets below the log start are refused with their exact range, by interval and by offsets."""
    pipeline = world.pipeline()
    world.plan(pipeline, interval(100, 200), "r1")
    world.source.starts = {0: 25}
    with pytest.raises(OffsetsLostError, match="partition 0, offsets 19 to 24"):
        world.plan(pipeline, interval(200, 300), "r2")
    with pytest.raises(OffsetsLostError, match="partition 0, offsets 22 to 24"):
        world.plan(pipeline, offsets("0:22-30"), "r3")


def test_a_replaced_topic_is_refused(world: World) -> None:
    """A topic with another id is another topic, even if every offset exists."""
    world.plan(world.pipeline(), interval(100, 200), "r1")
    world.source.identity = TopicIdentity("cluster", "t", "id-2")
    with pytest.raises(TopicReplacedError, match=r"id-1.*id-2"):
        world.plan(world.pipeline(), interval(200, 300), "r2")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("7:0-5", OffsetRangeError, "partition 7"),
        ("0:90-101", OffsetRangeError, "last stable offset 100"),
        ("0:9-3", RequestError, "starts after its end"),
        ("0:1-5,0:4-9", RequestError, "overlap"),
        ("nonsense", RequestError, "partition:start-end"),
        ("", RequestError, "No offsets"),
    ],
)
def test_wrong_offsets_say_what_is_wrong(world: World, text: str, error: type[Exception], words: str) -> None:
    """Malformed and out-of-range offsets are refused before anything is written."""
    with pytest.raises(error, match=words):
        world.plan(world.pipeline(), offsets(text), "r")
    assert world.ledger.run("r", "p") is None


def test_a_preview_changes_nothing(world: World) -> None:
    """A preview tells the plan that a run would make, and leaves no cut, batch or binding."""
    pipeline = world.pipeline()
    shown = world.plan(pipeline, interval(100, 200), "r", keep=False)
    assert world.ledger.cuts("t", 1) == ()
    assert world.ledger.run("r", "p") is None
    assert world.plan(pipeline, interval(100, 200), "r") == shown


def test_a_long_range_is_cut_by_time(world: World) -> None:
    """A range above max_batch_offsets becomes several batches that tile it, none above the bound."""
    plan = world.plan(world.pipeline(max_batch_offsets=50, start="earliest"), interval(900, 1001, first=True), "r")
    assert all(p.batch.length <= 50 for p in plan.batches)
    assert sum(p.batch.length for p in plan.batches) == 200
    for left, right in pairwise(plan.batches):
        assert left.batch.to_instant == right.batch.from_instant


def test_equal_timestamps_are_cut_proportionally(world: World) -> None:
    """Where timestamps do not part the offsets the cut is by share, and the plan says so."""
    world.source.logs = {0: [500] * 400}
    plan = world.plan(world.pipeline(max_batch_offsets=100, start="earliest"), RunRequest("since_last"), "r")
    assert [p.batch.length for p in plan.batches] == [100, 100, 100, 100]
    assert any("proportionally" in note for note in plan.notes)


def test_a_partition_that_appears_is_taken_from_its_start(world: World) -> None:
    """A partition added between two cuts belongs to the batch in which it appeared, from offset 0."""
    pipeline = world.pipeline()
    world.plan(pipeline, RunRequest("since_last"), "a")
    world.source.logs[2] = [NOW + 1, NOW + 2]
    world.now += 1_000
    assert taken(world.plan(pipeline, RunRequest("since_last"), "b")) == "2:0-2"


def test_slices_and_groups(world: World) -> None:
    """Slices are pieces of at most max_slice_offsets; groups deal all of them out once, and there is always one."""
    plan = world.plan(world.pipeline(max_slice_offsets=30), RunRequest("since_last", parallelism=3), "r")
    assert len(plan.groups) == 3
    dealt = sorted(ref.range for group in plan.groups for ref in group)
    assert dealt == sorted(r for p in plan.batches for r in p.batch.slices)
    assert max(len(r) for r in dealt) == 30
    empty = world.plan(world.pipeline(), RunRequest("since_last"), "r2")
    assert empty.groups == ((),)


def test_a_changed_recipe_gives_the_next_generation(world: World) -> None:
    """Planned again under another recipe a run gets generation 2; the old recipe finds generation 1 again."""
    old, new = world.pipeline(), world.pipeline(version="2")
    assert world.plan(old, interval(100, 200), "r").batches[0].generation == 1
    assert world.plan(new, interval(100, 200), "r").batches[0].generation == 2
    assert world.plan(old, interval(100, 200), "r").batches[0].generation == 1


def test_a_cut_is_two_requests_for_all_partitions(tmp_path: Path) -> None:
    """Look-ups are one request each over all partitions, however many there are."""
    world = World(tmp_path, partitions=200, records=20)
    world.plan(world.pipeline(), interval(50, 100), "r")
    assert sorted(world.source.requests) == ["at", "at", "describe", "ends", "high", "starts"]
    world.ledger.close()


def test_ranges_of_one_batch_do_not_repeat_an_offset(world: World) -> None:
    """Coverage holds every planned offset once."""
    pipeline = world.pipeline()
    for index, request in enumerate(
        [offsets("0:3-9"), interval(50, 300), offsets("0:0-60,1:0-60"), interval(250, 700)]
    ):
        world.plan(pipeline, request, f"r{index}")
    covered = world.ledger.coverage("t", 1)
    for left, right in pairwise(covered):
        assert (left.partition, left.end) <= (right.partition, right.start)
    batches = [b for b, _ in world.ledger.batches("t", 1)]
    assert sum(b.length for b in batches) == sum(map(len, covered))
    assert OffsetRange(0, 0, 3) in [r for b in batches for r in b.ranges]
