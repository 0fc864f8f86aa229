"""Fixed and sliding windows against brute force: every split, every disorder, time zones and their changing clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.declare.windows import Hopping, Tumbling
from tests.property.windows import world
from tests.property.windows.examples import (
    EXAMPLES,
    TIMEOUT,
    Scenario,
    check_contents,
    check_late,
    every_event,
    scenarios,
    tolerant,
    watermarks,
)
from tests.property.windows.reference import Bounds, Event, calendar_windows, exact_windows, micros

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
Grid = tuple[Tumbling | Hopping, Callable[[int], list[Bounds]], int, int]


def at(year: int, month: int, day: int) -> int:
    return micros(datetime(year, month, day, tzinfo=UTC))


GRIDS: dict[str, Grid] = {
    "minutes": (Tumbling("1 minute"), exact_windows(MINUTE, MINUTE), at(1969, 12, 31) + 86_340 * SECOND, 7 * SECOND),
    "hours of Kolkata": (
        Tumbling("1 hour", timezone="Asia/Kolkata"),
        exact_windows(HOUR, HOUR, -19_800 * SECOND),
        at(2024, 5, 1),
        11 * MINUTE,
    ),
    "days of Berlin in spring": (
        Tumbling("1 day", timezone="Europe/Berlin"),
        calendar_windows("day", 1, 1, "Europe/Berlin"),
        at(2024, 3, 29),
        3 * HOUR,
    ),
    "days of Berlin in autumn": (
        Tumbling("1 day", timezone="Europe/Berlin"),
        calendar_windows("day", 1, 1, "Europe/Berlin"),
        at(2024, 10, 25),
        3 * HOUR,
    ),
    "late days of Cairo": (
        Tumbling("1 day", timezone="Africa/Cairo", offset="30 minutes"),
        calendar_windows("day", 1, 1, "Africa/Cairo", timedelta(minutes=30)),
        at(2024, 4, 24),
        2 * HOUR,
    ),
    "months of New York": (
        Tumbling("1 month", timezone="America/New_York"),
        calendar_windows("month", 1, 1, "America/New_York"),
        at(2023, 12, 1),
        9 * 24 * HOUR,
    ),
    "sliding": (
        Hopping("10 minutes", "4 minutes"),
        exact_windows(10 * MINUTE, 4 * MINUTE),
        at(2024, 1, 1),
        MINUTE,
    ),
    "sliding days of Havana": (
        Hopping("3 days", "1 day", timezone="America/Havana"),
        calendar_windows("day", 3, 1, "America/Havana"),
        at(2024, 11, 1),
        7 * HOUR,
    ),
}
Planned = tuple[duckdb.DuckDBPyConnection, dict[str, WindowPlan]]


@pytest.fixture(scope="module")
def planned() -> Iterator[Planned]:
    """One session for all examples, and a plan for each grid."""
    with session(threads=1) as connection:
        plans = {
            name: world.plan_of(connection, grid[0], aggregates=world.SHARES[number % 3])
            for number, (name, grid) in enumerate(GRIDS.items())
        }
        again = {"n": "count(*)", "ds": "sum(DISTINCT i)", "u": "count(DISTINCT i)"}
        plans["sliding"] = world.plan_of(connection, GRIDS["sliding"][0], aggregates=again)
        yield connection, plans


def all_windows(events: list[Event], windows: Callable[[int], list[Bounds]]) -> dict[Any, tuple[int, list[Event]]]:
    """What every window holds of events that are all in time."""
    found: dict[Any, tuple[int, list[Event]]] = {}
    for event in events:
        for begin, end in windows(event.time):
            found.setdefault((event.key, begin), (end, []))[1].append(event)
    return found


def in_fold_order(
    scenario: Scenario, windows: Callable[[int], list[Bounds]]
) -> tuple[dict[Any, tuple[int, list[Event]]], set[tuple[int, int, int | None]]]:
    """What windows hold where rows for final ones are late, and the late (row, window) pairs."""
    found: dict[Any, tuple[int, list[Event]]] = {}
    late: set[tuple[int, int, int | None]] = set()
    for mark, batch in zip(watermarks(scenario), scenario.batches, strict=False):
        for event in (e for one in batch.slices for e in one):
            for begin, end in windows(event.time):
                if mark is not None and end + scenario.lateness <= mark * 1000:
                    late.add((event.partition, event.offset, begin))
                else:
                    found.setdefault((event.key, begin), (end, []))[1].append(event)
    return found, late


@pytest.mark.timeout(TIMEOUT)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_windows_are_what_brute_force_says(planned: Planned, data: st.DataObject) -> None:
    """Late rows apart, windows hold exactly their rows, by the fold log alone; amended, exactly all rows.

    (a) where no row is late the result is that of one batch; (b) amended windows end as those of one batch; (c) neither
    the order of landing nor chunks nor compactions change a byte of what is folded.
    """
    connection, plans = planned
    name = data.draw(st.sampled_from(sorted(GRIDS)))
    _, windows, base, step = GRIDS[name]
    scenario = data.draw(scenarios(base, step))
    marks = watermarks(scenario)
    plan = tolerant(plans[name], scenario, "late")
    strict = world.run(connection, plan, scenario.batches)
    assert strict.watermarks == marks[1:]
    expected, late = in_fold_order(scenario, windows)
    check_late(strict, late)
    check_contents(strict, expected)
    whole = all_windows(every_event(scenario), windows)
    if not late:
        check_contents(strict, whole)
    for row in strict.target.values():
        mark = marks[-1]
        assert row["_final"] == (mark is not None and row["window_end"] + scenario.lateness <= mark * 1000)
    if scenario.landing:
        assert world.run(connection, plan, scenario.batches, landing=scenario.landing).digests == strict.digests
    amended = world.run(connection, tolerant(plans[name], scenario, "amend"), scenario.batches)
    check_late(amended, set())
    check_contents(amended, whole)
