"""A ledger of 10,000 batches x 16 partitions: plans find their rows by indices, and fetch no more than of a short one.

The statements are those that planning executes, taken from the database driver while it plans.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.forecast import forecast
from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, RunPlan
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging.local import LocalStaging
from airflow_provider_eventlog.sensors.offsets import baseline
from tests.support import longchain
from tests.support.longchain import RECORDS, EvenLog, instant

LONG, SHORT, PARTITIONS = 10_000, 100, 16
GROWING = {"cut", "cut_offset", "batch", "slice", "generation", "part", "run", "run_batch", "decision"}


@dataclass
class Heard:
    """Statements with their parameters, and how many rows the reading ones gave."""

    statements: list[tuple[str, Any]] = field(default_factory=list)
    rows: int = 0


class World:
    """A filled ledger and the topic behind it, which has gone on for ten minutes since."""

    def __init__(self, address: str, folder: Path, batches: int) -> None:
        self.batches = batches
        self.ledger: SqlLedger = open_ledger(address)
        longchain.fill(self.ledger, batches, PARTITIONS)
        self.log = EvenLog(PARTITIONS, (batches + 10) * RECORDS)
        self.minute = batches + 10

        def no_target(_: object) -> Any:
            raise AssertionError("planning opens no target")

        staging = LocalStaging(folder)
        self.engine = Engine(self.ledger, staging, lambda _: self.log, no_target, clock=lambda: instant(self.minute))

    def plan(self, request: RunRequest, key: str, name: str = "p") -> RunPlan:
        return stages.plan(self.engine, longchain.pipeline(name), request, key)

    def every_way(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """What a plan may be asked, each with what asks it; the order matters."""
        last, half = self.batches, self.batches // 2
        yield "next interval", lambda: self.plan(_minutes(last, last + 1), "next")
        yield "cleared", lambda: self.plan(_minutes(last, last + 1), "next")
        yield "interval behind a hole", lambda: self.plan(_minutes(last + 2, last + 3, gap="hole"), "hole")
        yield "interval in a hole", lambda: self.plan(_minutes(last + 1, last + 2, gap="hole"), "fills")
        yield "old interval", lambda: self.plan(_minutes(half, half + 2), "old")
        within = RunRequest("interval", interval=(instant(half) + 1, instant(half) + 2))
        yield "inside a batch", lambda: self.plan(within, "inside")
        yield "old offsets", lambda: self.plan(_offsets(half * RECORDS + 7, half * RECORDS + 9), "offsets")
        yield "new offsets", lambda: self.plan(_offsets((last + 5) * RECORDS, (last + 6) * RECORDS), "ahead")
        yield "since last", lambda: self.plan(RunRequest("since_last"), "since")
        yield "a late pipeline", lambda: self.plan(RunRequest("since_last", max_batches=2), "late", "late")
        yield "a late pipeline again", lambda: self.plan(RunRequest("since_last", max_batches=2), "later", "late")
        yield (
            "sensor",
            lambda: baseline(self.ledger, lambda: self.log, longchain.pipeline().stream, longchain.pipeline()),
        )
        yield "forecast", lambda: forecast(self.ledger, self.log, "long", instant(self.minute), exact=False)

    def mark(self) -> int:
        """Up to where nothing waits for pipeline "p", as the ledger keeps it."""
        with self.ledger.engine.connect() as connection:
            query = "SELECT instant FROM reached WHERE pipeline = 'p'"
            return int(connection.exec_driver_sql(query).scalar_one())

    @contextmanager
    def heard(self) -> Iterator[Heard]:
        """What the ledger's database is told; every query is asked a second time, to count its rows."""
        found = Heard()

        def note(connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            if many or not statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
                return
            found.statements.append((statement, parameters))
            if statement.lstrip().startswith(("SELECT", "WITH")):
                beside = connection.connection.cursor()
                beside.execute(statement, parameters)
                found.rows += len(beside.fetchall())
                beside.close()

        event.listen(self.ledger.engine, "after_cursor_execute", note)
        try:
            yield found
        finally:
            event.remove(self.ledger.engine, "after_cursor_execute", note)


def _minutes(start: int, end: int, **more: Any) -> RunRequest:
    return RunRequest("interval", interval=(instant(start), instant(end)), **more)


def _offsets(start: int, end: int) -> RunRequest:
    return RunRequest("offsets", ranges=tuple(OffsetRange(p, start, end) for p in range(PARTITIONS)))


@pytest.fixture(scope="module")
def worlds(
    new_address: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], World]]:
    made: list[World] = []

    def make(batches: int) -> World:
        made.append(World(new_address(), tmp_path_factory.mktemp("staging"), batches))
        return made[-1]

    yield make
    for world in made:
        world.ledger.close()


@pytest.fixture(scope="module")
def asked(worlds: Callable[[int], World]) -> dict[int, tuple[World, dict[str, Heard]]]:
    """Both chains, each with what every way of planning told its database."""
    found = {}
    for batches in (SHORT, LONG):
        world = worlds(batches)
        told: dict[str, Heard] = {}
        for name, plan in world.every_way():
            with world.heard() as heard:
                plan()
            told[name] = heard
        found[batches] = (world, told)
    return found


def test_no_table_of_the_chain_is_read_whole(asked: dict[int, tuple[World, dict[str, Heard]]]) -> None:
    """The database explains every statement of every way to plan over 10,000 batches without a scan of a table.

    PostgreSQL explains by the statistics of the full tables and with every kind of scan and join allowed.
    """
    world, told = asked[LONG]
    sqlite = world.ledger.engine.dialect.name == "sqlite"
    scans: list[str] = []
    used: set[str] = set()
    with world.ledger.engine.connect() as connection:
        for name, heard in told.items():
            for statement, parameters in heard.statements:
                if sqlite:
                    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                    steps = [str(row[-1]).split()[:2] for row in rows]
                    names = {"from_cut": "cut", "to_cut": "cut"}
                    reads = [(word, names.get(table, table)) for word, table in steps if word in ("SCAN", "SEARCH")]
                    whole = [table for word, table in reads if word == "SCAN"]
                else:
                    ((plan,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
                    nodes = list(_nodes((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]))
                    reads = [("SEARCH", node["Relation Name"]) for node in nodes if "Relation Name" in node]
                    whole = [n["Relation Name"] for n in nodes if "Relation Name" in n and _whole(n)]
                used |= {table for _, table in reads}
                scans += [f"{name}: {table}: {statement}" for table in whole if table in GROWING]
    assert scans == []
    assert used >= {"cut", "cut_offset", "batch", "slice", "generation", "run", "run_batch", "decision"}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _whole(node: dict[str, Any]) -> bool:
    # An index of the few rows for which a condition holds may be read from end to end.
    few = node.get("Index Name") in ("cut_open", "batch_gone", "slice_unlanded", "decision_unwritten")
    return "Scan" in node["Node Type"] and not few and not {"Index Cond", "Recheck Cond"} & set(node)


def test_a_plan_fetches_no_more_of_a_long_chain_than_of_a_short_one(
    asked: dict[int, tuple[World, dict[str, Heard]]],
) -> None:
    """Every way to plan sends as many statements and fetches as many rows over 10,000 batches as over 100."""
    short, long = asked[SHORT][1], asked[LONG][1]
    assert {name: (len(h.statements), h.rows) for name, h in long.items()} == {
        name: (len(h.statements), h.rows) for name, h in short.items()
    }
    # A bound that no plan of one or two batches of 16 partitions should come near, were it not for a loop.
    assert max(h.rows for h in long.values()) < 60 * PARTITIONS


def test_a_pipeline_that_keeps_up_is_not_searched_from_the_start(worlds: Callable[[int], World]) -> None:
    """The search for what waits begins where the last one ended; a hole that is filled before it is found as well."""
    world = worlds(SHORT)
    world.plan(RunRequest("since_last"), "a")
    assert world.mark() == instant(SHORT)
    world.minute += 5
    world.log.length += 5 * RECORDS
    world.plan(_minutes(world.minute - 2, world.minute - 1, gap="hole"), "b", "q")
    world.plan(RunRequest("since_last"), "c")
    world.plan(RunRequest("since_last"), "d")
    assert world.mark() >= instant(world.minute - 1)
    filled = world.plan(_minutes(world.minute - 4, world.minute - 3, gap="hole"), "e", "q")
    assert world.mark() == instant(world.minute - 4)
    taken = world.plan(RunRequest("since_last"), "f")
    assert taken.batches[0].batch == filled.batches[0].batch
