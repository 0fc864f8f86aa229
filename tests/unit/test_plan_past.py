"""Runs that lie before an adoption: what was landed of the topic that is gone is taken again, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.adopting import adopt
from airflow_provider_eventlog.core.errors import RequestError, TopicReplacedError
from airflow_provider_eventlog.core.offsets import OffsetRange, RunPlan, TopicIdentity
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over

SINCE_LAST = RunRequest("since_last")


def pipeline(name: str = "p") -> Pipeline:
    stream = Stream("orders", start="interval", decode=Json({"id": "BIGINT"}))
    return Pipeline(name, stream=stream, outputs=[Rows(DuckDB("out.duckdb", table=name))])


def interval(start: int, end: int) -> RunRequest:
    """Seconds after the first record of the topic that is gone."""
    return RunRequest("interval", interval=(FIRST_MS + 1000 * start, FIRST_MS + 1000 * end), gap="hole")


class World:
    """Records 0 to 9, one a second; seconds 2 to 4, 4 to 6 and 9 to 10 are loaded, 7 to 9 are planned only.

    At second 20 the topic was made again, with records 100 to 104 from second 30 on, and adopted.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.now = home, FIRST_MS + 15_000
        self.log = ListLog([b'{"id": %d}' % i for i in range(10)])
        self.engine = engine_over(self.log, home, lambda: self.now)
        for start in (2, 4):
            stages.run(self.engine, pipeline(), interval(start, start + 2), f"r{start}")
        self.planned = self.plan(interval(7, 9), "r7")
        stages.run(self.engine, pipeline(), interval(9, 10), "r9")
        self.now = FIRST_MS + 20_000
        self.replace("topic-2", first=100, count=5, second=30)
        adopt(self.engine, pipeline().stream, "earliest", who="eve", why="made again")
        self.now = FIRST_MS + 60_000

    def replace(self, topic_id: str, first: int, count: int, second: int) -> None:
        """Another topic under the same name."""
        self.log.identity = TopicIdentity("cluster", "orders", topic_id)
        self.log.values = [[b'{"id": %d}' % i for i in range(first, first + count)]]
        self.log.timestamps = {(0, n): FIRST_MS + 1000 * (second + n) for n in range(count)}
        self.log.reads.clear()

    def plan(self, request: RunRequest, key: str, name: str = "p") -> RunPlan:
        return stages.plan(self.engine, pipeline(name), request, key)

    def run(self, request: RunRequest, key: str, name: str = "p") -> RunPlan:
        stages.run(self.engine, pipeline(name), request, key)
        return self.engine.ledger.run_plan(key, name)

    def ids(self, name: str = "p") -> list[int]:
        with duckdb.connect(str(self.home / "out.duckdb"), read_only=True) as connection:
            return [row[0] for row in connection.execute(f"select id from {name} order by id").fetchall()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.engine.close()


def taken(plan: RunPlan) -> tuple[int, list[tuple[str, str]]]:
    return plan.epoch, [(str(r), p.mode) for p in plan.batches for r in p.batch.ranges]


def test_an_interval_before_the_adoption_replays_what_was_landed(world: World) -> None:
    """Its batches come whole from staging, under the old topic's identity; the new topic's records are not read."""
    made = world.run(interval(2, 6), "again", "late")
    assert taken(made) == (1, [("0:2-4", "replay"), ("0:4-6", "replay")])
    assert made.identity.topic_id == "topic-id"
    assert "epoch 1" in made.notes[0]
    assert world.ids("late") == [2, 3, 4, 5]
    assert world.log.reads == []


def test_a_bound_inside_a_batch_takes_it_whole(world: World) -> None:
    """An interval that touches a landed batch of the old topic replays all of it: no batch is cut afterwards."""
    made = world.plan(RunRequest("interval", interval=(FIRST_MS + 4_500, FIRST_MS + 5_000)), "inside")
    assert taken(made) == (1, [("0:4-6", "replay")])


def test_a_replay_of_the_past_adds_nothing(world: World) -> None:
    """The same pipeline finds its own generations again; cuts, batches and rows stay as they were."""
    before = world.engine.ledger.cuts("orders", 1), world.engine.ledger.batches("orders"), world.ids()
    made = world.run(interval(2, 6), "again")
    assert [p.generation for p in made.batches] == [1, 1]
    assert (world.engine.ledger.cuts("orders", 1), world.engine.ledger.batches("orders"), world.ids()) == before
    assert world.plan(interval(2, 6), "again").batches == made.batches


def test_what_was_planned_and_never_landed_is_refused(world: World) -> None:
    """Its topic is gone: the error names the batch, nothing is bound."""
    missing = world.planned.batches[0].batch.batch_id
    with pytest.raises(TopicReplacedError, match=f"never landed: {missing}"):
        world.plan(interval(4, 9), "r")
    assert world.engine.ledger.run("r", "p") is None


@pytest.mark.parametrize(("start", "end"), [(0, 1), (6, 7), (10, 12), (11, 20)])
def test_what_was_never_planned_is_refused(world: World, start: int, end: int) -> None:
    """Before the first cut, in a hole, and between the last batch and the adoption nothing was landed."""
    with pytest.raises(TopicReplacedError, match=r"epoch 1.*nothing of it was"):
        world.plan(interval(start, end), "r")
    assert world.engine.ledger.run("r", "p") is None


def test_an_interval_is_of_the_epoch_in_which_it_ends(world: World) -> None:
    """One that ends with the adoption is of the old topic, one that ends behind it of the new one from its start on."""
    with pytest.raises(TopicReplacedError):
        world.plan(interval(10, 20), "old")
    across = world.plan(interval(2, 32), "across")
    assert taken(across) == (2, [("0:0-2", "new")])
    assert any("before the stream's start" in note for note in across.notes)
    assert taken(world.plan(interval(32, 34), "new")) == (2, [("0:2-4", "new")])


def test_the_past_of_several_adoptions_is_told_apart(world: World) -> None:
    """Each interval goes to the epoch whose time it is, however many topics there were."""
    world.run(interval(30, 33), "second")
    world.replace("topic-3", first=200, count=3, second=70)
    adopt(world.engine, pipeline().stream, "earliest", who="eve", why="made again, again")
    world.now = FIRST_MS + 90_000
    assert taken(world.plan(interval(2, 4), "a", "late")) == (1, [("0:2-4", "replay")])
    assert taken(world.plan(interval(31, 33), "b", "late")) == (2, [("0:0-3", "replay")])
    assert taken(world.plan(interval(70, 72), "c", "late")) == (3, [("0:0-2", "new")])
    with pytest.raises(RequestError, match="no epoch 4"):
        world.plan(RunRequest("offsets", ranges=(OffsetRange(0, 0, 1),), epoch=4), "d", "late")


def test_since_last_works_the_past_off_first(world: World) -> None:
    """A late pipeline takes landed batches of the old topic, as many a run as it may, then goes on with the new one.

    What was planned and not landed is left where it is, and does not hide what comes behind it.
    """
    few = RunRequest("since_last", max_batches=1)
    first = world.run(few, "a", "late")
    assert taken(first) == (1, [("0:2-4", "replay")])
    assert "1 landed batches of epoch 1 come first; 2 more of it" in first.notes[0]
    assert taken(world.run(few, "b", "late")) == (1, [("0:4-6", "replay")])
    assert taken(world.run(few, "c", "late")) == (1, [("0:9-10", "replay")])
    assert taken(world.run(SINCE_LAST, "d", "late")) == (2, [("0:0-5", "new")])
    assert world.ids("late") == [2, 3, 4, 5, 9, *range(100, 105)]
