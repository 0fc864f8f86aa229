"""Replaced generations and filled windows against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core.windows import state
from airflow_provider_eventlog.core.windows.fold import Arrival, Past, fold
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.declare.windows import Hopping, Session, Tumbling
from tests.property.windows import world
from tests.property.windows.examples import (
    EXAMPLES,
    TIMEOUT,
    Scenario,
    check_contents,
    every_event,
    scenarios,
    tolerant,
    watermarks,
)
from tests.property.windows.reference import Bounds, Event, calendar_windows, exact_windows, micros
from tests.property.windows.test_grids import all_windows, in_fold_order
from tests.property.windows.test_sessions import events_whole, gap_whole

SECOND = 1_000_000
STEP = 10 * SECOND
BASE = micros(datetime(2024, 3, 31, tzinfo=UTC))
Whole = Callable[[list[Event]], dict[Any, tuple[int, list[Event]]]]
SLIDING = exact_windows(60 * SECOND, 25 * SECOND)
EVENTS = Session(start="kind = 'login'", end="kind = 'logout'", max_duration="60 s")
OUTPUTS: dict[str, tuple[Tumbling | Hopping | Session, Whole]] = {
    "sliding": (Hopping("60 s", "25 s"), lambda events: all_windows(events, SLIDING)),
    "inactivity": (Session("20 s", "45 s"), lambda events: gap_whole(events, 20 * SECOND, 45 * SECOND)),
    "events": (EVENTS, lambda events: events_whole(events, 60 * SECOND)),
}
FILLED: dict[str, tuple[Tumbling | Hopping, Callable[[int], list[Bounds]], int]] = {
    "minutes": (Tumbling("1 minute"), exact_windows(60 * SECOND, 60 * SECOND), 15 * SECOND),
    "sliding": (Hopping("60 s", "25 s"), SLIDING, STEP),
    "days of Apia": (
        Tumbling("1 day", timezone="Pacific/Apia"),
        calendar_windows("day", 1, 1, "Pacific/Apia"),
        5 * 3600 * SECOND,
    ),
}
AGGREGATES = {"n": "count(*)", "s": "sum(i)", "u": "count(DISTINCT i)", "sf": "sum(f)"}


@pytest.fixture(scope="module")
def plans(connection: duckdb.DuckDBPyConnection) -> dict[str, WindowPlan]:
    """Plans of all outputs; the filled ones are named so."""
    made = {name: world.plan_of(connection, window, aggregates=AGGREGATES) for name, (window, _) in OUTPUTS.items()}
    for name, (window, _, _) in FILLED.items():
        made[f"{name}, filled"] = world.plan_of(connection, window, aggregates=AGGREGATES, fill="null")
    return made


@pytest.mark.timeout(TIMEOUT)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_corrected_generation_gives_what_it_had_given_at_first(
    connection: duckdb.DuckDBPyConnection, plans: dict[str, WindowPlan], data: st.DataObject
) -> None:
    """After any batch is replaced by another one, amended windows hold the corrected rows, each once."""
    name = data.draw(st.sampled_from(sorted(OUTPUTS)))
    whole = OUTPUTS[name][1]
    scenario = data.draw(scenarios(BASE, STEP, kinds=("login", "logout", "x")))
    plan = tolerant(plans[name], scenario, "amend")
    made = world.run(connection, plan, scenario.batches)
    number = data.draw(st.integers(0, len(scenario.batches) - 1))
    corrected = []
    for one in scenario.batches[number].slices:
        kept = [e for e in one if data.draw(st.booleans())]
        corrected.append(tuple(replace(e, time=e.time + data.draw(st.sampled_from([0, 0, 3 * STEP]))) for e in kept))
    batches = [*scenario.batches[:number], world.Batch(tuple(corrected)), *scenario.batches[number + 1 :]]
    parts = [[partial(connection, plan, world.table(one)) for one in batch.slices] for batch in batches]
    before = [partial(connection, plan, world.table(one)) for one in scenario.batches[number].slices]
    events = every_event(replace(scenario, batches=tuple(batches)))

    def archive(wanted: pa.Table) -> pa.Table:
        return state.newest_closed(connection, plan, [folded.closed for folded in made.folds])

    mark = made.watermarks[-1]
    result = fold(
        connection,
        plan,
        made.state,
        Arrival([p for batch in parts for p in batch], lambda wanted: world.table(events), [*before, *parts[number]]),
        before=mark,
        after=mark,
        past=Past(closed=archive),
    )
    world.apply(made, result)
    check_contents(made, whole(events))
    after = state.apply(connection, plan, made.state, [result.delta])
    assert after.num_rows == sum(not row["_final"] for row in made.target.values())


def filled(found: dict[Any, tuple[int, list[Event]]], windows: Callable[[int], list[Bounds]], step: int) -> None:
    """Add the windows without rows between each key's first and last one."""
    for key in {key for key, _ in found}:
        mine = [begin for k, begin in found if k == key]
        time = min(mine)
        while time <= max(mine):
            for begin, end in windows(time):
                if min(mine) <= begin <= max(mine):
                    found.setdefault((key, begin), (end, []))
            time += step


@pytest.mark.timeout(TIMEOUT)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_filled_windows_are_what_brute_force_says(
    connection: duckdb.DuckDBPyConnection, plans: dict[str, WindowPlan], data: st.DataObject
) -> None:
    """Between a key's first and last window there is every window, with or without rows, in every split."""
    name = data.draw(st.sampled_from(sorted(FILLED)))
    _, windows, step = FILLED[name]
    base = BASE if name != "days of Apia" else micros(datetime(2011, 12, 28, tzinfo=UTC))
    scenario: Scenario = data.draw(scenarios(base, step))
    plan = plans[f"{name}, filled"]
    strict = world.run(connection, tolerant(plan, scenario, "late"), scenario.batches)
    expected, _ = in_fold_order(scenario, windows)
    filled(expected, windows, step)
    check_contents(strict, expected)
    mark = watermarks(scenario)[-1]
    for row in strict.target.values():
        assert row["_final"] == (mark is not None and row["window_end"] + scenario.lateness <= mark * 1000)
    amended = world.run(connection, tolerant(plan, scenario, "amend"), scenario.batches)
    whole = all_windows(every_event(scenario), windows)
    filled(whole, windows, step)
    check_contents(amended, whole)
