"""What a plan asks of Kafka and of its ledger, and what it says of an open transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import event

from airflow_provider_eventlog.core import deciding, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.ledger import SqlLedger
from airflow_provider_eventlog.core.offsets import OffsetRange, RunPlan
from airflow_provider_eventlog.core.protocols import Decision, StagedFile, Staging
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from airflow_provider_eventlog.operators.common import warn_of_expiry
from tests.support.listlog import FIRST_MS, ListLog, engine_over

MANY = 1_000
SINCE_LAST = RunRequest("since_last")
PIPELINE = Pipeline(
    "p", stream=Stream("orders", start="earliest"), decode=Raw(), outputs=[Rows(DuckDB("x.duckdb", table="t"))]
)


class World:
    """An engine over a topic of so many partitions of ten records each, dated one second apart."""

    def __init__(self, home: Path, partitions: int) -> None:
        home.mkdir()
        values: list[bytes | None] = [b"v"] * 10
        self.log = ListLog(*(list(values) for _ in range(partitions)))
        self.now = FIRST_MS + 100_000
        self.engine: Engine = engine_over(self.log, home, lambda: self.now)

    def plan(self, request: RunRequest, key: str) -> RunPlan:
        self.log.asked.clear()
        return stages.plan(self.engine, PIPELINE, request, key)

    def statements(self, request: RunRequest, key: str) -> int:
        """How many statements a plan sends to its ledger, those with many rows counted once."""
        seen: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            seen.append(statement)

        database = cast("SqlLedger", self.engine.ledger).engine
        event.listen(database, "before_cursor_execute", note)
        self.plan(request, key)
        event.remove(database, "before_cursor_execute", note)
        return len(seen)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "home", 3)
    yield made
    made.engine.close()


def interval(start: int, end: int, **more: Any) -> RunRequest:
    """Seconds after the first record."""
    return RunRequest("interval", interval=(FIRST_MS + 1000 * start, FIRST_MS + 1000 * end), **more)


def test_a_plan_over_a_thousand_partitions_asks_each_question_once(tmp_path: Path) -> None:
    """Identity, ends, starts and each bound by time are one request for all partitions; a bound that stands is none."""
    world = World(tmp_path / "home", MANY)
    first = ["describe", "high", "ends", "starts"]
    made = world.plan(interval(2, 4), "r1")
    assert sum(p.batch.length for p in made.batches) == 4 * MANY
    assert world.log.asked == [(what, MANY) for what in (*first, "at")]
    world.plan(interval(4, 6), "r2")
    assert world.log.asked == [(what, MANY) for what in (*first, "at")]
    made = world.plan(SINCE_LAST, "r3")
    assert sum(p.batch.length for p in made.batches) == 4 * MANY
    assert world.log.asked == [(what, MANY) for what in first]
    world.plan(interval(4, 6), "r2")
    assert world.log.asked == []
    world.engine.close()


def test_partitions_cost_rows_and_no_statements(tmp_path: Path) -> None:
    """A plan over 1,000 partitions sends its ledger as many statements as one over ten, but for asking in portions."""
    counts = {}
    for partitions in (10, MANY):
        world = World(tmp_path / str(partitions), partitions)
        counts[partitions] = [
            world.statements(interval(2, 4), "r1"),
            world.statements(interval(4, 6), "r2"),
            world.statements(SINCE_LAST, "r3"),
        ]
        world.engine.close()
    # Two questions of a plan are about all ranges, and ask for 500 of them at once.
    assert all(0 <= many - few <= 4 for few, many in zip(counts[10], counts[MANY], strict=True)), counts


def test_the_forecast_behind_a_plan_asks_only_what_the_plan_did_not(world: World) -> None:
    """Topic, starts and ends are not asked for a second time to warn of what expires."""
    made = world.plan(SINCE_LAST, "r")
    world.log.asked.clear()
    said: list[str] = []
    warn_of_expiry(said.append, said.append, world.engine, PIPELINE.stream, made)
    assert (world.log.asked, said) == ([("retention", 1)], [])


def test_decisions_are_written_down_once(world: World) -> None:
    """A plan adds the record of a decision whose attempt was killed, and never again looks for those that stand."""
    decided = [Decision("skip", "orders", 1, "p", None, "eve", "because", n, {}) for n in range(3)]
    places = [paths.decision("orders", "skip", one.id) for one in decided]
    deciding.decide(world.engine, decided[0])
    world.engine.ledger.decide(decided[1])
    world.engine.ledger.decide(decided[2])
    world.engine.staging.publish_json(places[2], decided[2].to_json())
    looked = Looking(world.engine.staging)
    world.engine.staging = cast("Staging", looked)
    world.plan(SINCE_LAST, "r1")
    assert sorted(p for p in looked.looked if "/decisions/" in p) == sorted(places[1:])
    assert all(looked.inner.exists(place) for place in places)
    looked.looked.clear()
    world.plan(SINCE_LAST, "r2")
    assert looked.looked
    assert not [p for p in looked.looked if "/decisions/" in p]


class Looking:
    """Staging that keeps which paths were looked for."""

    def __init__(self, inner: Staging) -> None:
        self.inner = inner
        self.looked: list[str] = []

    def exists(self, path: str) -> bool:
        self.looked.append(path)
        return self.inner.exists(path)

    def stat(self, path: str) -> StagedFile | None:
        self.looked.append(path)
        return self.inner.stat(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_an_open_transaction_is_named_where_it_holds_the_plan(world: World) -> None:
    """Partition, the offset waited on, how many offsets wait; the plan ends there, and the next run takes the rest."""
    world.log.open_from = {1: 7, 2: 0}
    made = world.plan(SINCE_LAST, "r1")
    assert [str(r) for r in made.batches[0].batch.ranges] == ["0:0-10", "1:0-7"]
    (note,) = (note for note in made.notes if "open transaction" in note.lower())
    assert "partition 1 waits at offset 7 (3 offsets wait)" in note
    assert "partition 2 waits at offset 0 (10 offsets wait)" in note
    assert "partition 0" not in note
    assert note in stages.headline(made)
    assert note in stages.describe(made)["notes"]
    # What a run was told stands with its plan.
    assert world.plan(SINCE_LAST, "r1").notes == made.notes
    world.log.open_from = {}
    made = world.plan(SINCE_LAST, "r2")
    assert [str(r) for r in made.batches[0].batch.ranges] == ["1:7-10", "2:0-10"]
    assert made.notes == ()


def test_an_interval_that_ends_before_the_transaction_says_nothing(world: World) -> None:
    """Only what this run takes up to is named: neither an older interval nor a replay waits for anything."""
    world.log.open_from = {1: 7}
    assert not _waits(world.plan(interval(1, 3), "old"))
    assert _waits(world.plan(interval(3, 20), "held")) == ["partition 1 waits at offset 7 (3 offsets wait)"]
    assert not _waits(world.plan(interval(3, 20), "replay"))
    assert not _waits(world.plan(RunRequest("offsets", ranges=(OffsetRange(1, 2, 5),)), "offsets"))


def _waits(made: RunPlan) -> list[str]:
    return re.findall(r"partition \d+ waits at offset \d+ \(\d+ offsets wait\)", " ".join(made.notes))


def test_many_held_partitions_are_counted(tmp_path: Path) -> None:
    """The line names five partitions and counts the others."""
    world = World(tmp_path / "home", 20)
    world.log.open_from = dict.fromkeys(range(20), 4)
    (note,) = world.plan(SINCE_LAST, "r").notes
    assert note.count("waits at offset 4") == 5
    assert "and 15 more partitions" in note
    world.engine.close()
