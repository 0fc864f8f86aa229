"""Sessions against brute force: by inactivity and between events, every split, every disorder."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.declare.windows import Session
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
from tests.property.windows.reference import (
    Between,
    Event,
    between_bounds,
    event_sessions,
    gap_bounds,
    gap_sessions,
    micros,
)

STEP = 10_000_000
BASE = micros(datetime(2024, 3, 31, tzinfo=UTC))
Found = dict[Any, tuple[int, list[Event]]]
Late = set[tuple[int, int]]


@pytest.fixture(scope="module")
def plans(connection: duckdb.DuckDBPyConnection) -> dict[str, WindowPlan]:
    """Plans of sessions; a step is the gap of the first, half of that of the others."""
    events = {"start": "kind = 'login'", "end": "kind = 'logout'"}
    again = {"n": "count(*)", "u": "count(DISTINCT i)", "sf": "sum(f)"}
    declared = {
        "tight": (Session("10 s", "25 s"), world.SHARES[0]),
        "wide": (Session("20 s", "45 s"), world.SHARES[1]),
        "long": (Session("20 s", "1 hour"), world.SHARES[2]),
        "again": (Session("20 s", "1 hour"), again),
        "events": (Session(**events, max_duration="60 s"), world.SHARES[2]),
        "events without end": (Session(**events), again),
    }
    return {name: world.plan_of(connection, w, aggregates=a) for name, (w, a) in declared.items()}


def split_by_key(events: list[Event]) -> dict[str | None, list[Event]]:
    found: dict[str | None, list[Event]] = {}
    for event in events:
        found.setdefault(event.key, []).append(event)
    return found


@dataclass
class Past:
    """What one key has: rows in open sessions (or in none), and sessions that are final."""

    rows: list[Event] = field(default_factory=list)
    final: list[tuple[int, int, int, list[Event]]] = field(default_factory=list)


def gap_in_fold_order(scenario: Scenario, gap: int, longest: int) -> tuple[Found, Late]:
    """Sessions by inactivity where rows for final ones are late: per key and batch, one row after the other."""
    pasts: dict[str | None, Past] = {}
    late: Late = set()
    marks = watermarks(scenario)
    lateness = scenario.lateness

    def final_at(part: list[Event]) -> int:
        return min(part[-1].time + gap + 1, part[0].time + longest) + lateness

    for number, batch in enumerate(scenario.batches):
        before, after = marks[number], marks[number + 1]
        for key, arrived in split_by_key([e for one in batch.slices for e in one]).items():
            past = pasts.setdefault(key, Past())
            taken = []
            for event in arrived:
                hit = None
                for first, last, end, _ in past.final:
                    if first <= event.time <= last or (
                        event.time - last <= gap and last < event.time < first + longest
                    ):
                        hit = first
                    elif 0 < first - event.time <= gap:
                        hit = event.time if hit is None else hit
                    assert end >= last
                if hit is None:
                    taken.append(event)
                else:
                    late.add((event.partition, event.offset))
            kept = []
            for part in gap_sessions([*past.rows, *taken], gap, longest):
                fresh = all(event in taken for event in part)
                if before is not None and fresh and final_at(part) <= before * 1000:
                    late |= {(event.partition, event.offset) for event in part}
                else:
                    kept += part
            past.rows = kept
        for past in pasts.values():
            rest = []
            for part in gap_sessions(past.rows, gap, longest):
                if after is not None and final_at(part) <= after * 1000:
                    past.final.append((part[0].time, part[-1].time, gap_bounds(part, gap, longest)[1], part))
                else:
                    rest += part
            past.rows = rest
    found: Found = {}
    for key, past in pasts.items():
        for first, _, end, part in past.final:
            found[key, first] = (end, part)
        for part in gap_sessions(past.rows, gap, longest):
            found[key, part[0].time] = (gap_bounds(part, gap, longest)[1], part)
    return found, late


def gap_whole(events: list[Event], gap: int, longest: int) -> Found:
    """Sessions by inactivity of all events at once."""
    found: Found = {}
    for key, mine in split_by_key(events).items():
        for part in gap_sessions(mine, gap, longest):
            found[key, part[0].time] = (gap_bounds(part, gap, longest)[1], part)
    return found


def events_whole(events: list[Event], longest: int | None) -> Found:
    """Sessions between events of all events at once."""
    found: Found = {}
    for key, mine in split_by_key(events).items():
        for part in event_sessions(mine, longest)[0]:
            begin, end = between_bounds(part)
            found[key, begin] = (end, part.rows)
    return found


def check_everything(
    connection: duckdb.DuckDBPyConnection,
    plan: WindowPlan,
    scenario: Scenario,
    expected: Found,
    late: Late | None,
    whole: Found,
) -> None:
    """The statements, for a scenario and what brute force says of it."""
    lenient = tolerant(plan, scenario, "late")
    strict = world.run(connection, lenient, scenario.batches)
    assert strict.watermarks == watermarks(scenario)[1:]
    if late is not None:
        # Which window a row is late for is known as long as a row in time could touch it.
        found = [(row["_partition"], row["_offset"]) for row in strict.late]
        assert len(found) == len(set(found))
        assert set(found) == late
        check_contents(strict, expected)
    if not strict.late:
        check_contents(strict, whole)
    if scenario.landing:
        assert world.run(connection, lenient, scenario.batches, landing=scenario.landing).digests == strict.digests
    amended = world.run(connection, tolerant(plan, scenario, "amend"), scenario.batches)
    assert amended.late == []
    check_contents(amended, whole)


@pytest.mark.timeout(TIMEOUT)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_sessions_by_inactivity_are_what_brute_force_says(
    connection: duckdb.DuckDBPyConnection, plans: dict[str, WindowPlan], data: st.DataObject
) -> None:
    """(a), (b), (c): see the test of fixed windows. Sessions are cut where they get too long, joined by late rows."""
    name = data.draw(st.sampled_from(["tight", "wide", "long", "again"]))
    plan = plans[name]
    assert plan.session.gap_ms is not None
    assert plan.session.max_duration_ms is not None
    gap, longest = plan.session.gap_ms * 1000, plan.session.max_duration_ms * 1000
    scenario = data.draw(scenarios(BASE, STEP))
    expected, late = gap_in_fold_order(scenario, gap, longest)
    check_everything(connection, plan, scenario, expected, late, gap_whole(every_event(scenario), gap, longest))


@dataclass
class Log:
    """What one key has between events: rows, and its final sessions with the last time that is theirs."""

    rows: list[Event] = field(default_factory=list)
    final: list[tuple[int, Between]] = field(default_factory=list)


def events_in_fold_order(scenario: Scenario, longest: int | None) -> tuple[Found, Late]:
    """Sessions between events where rows for final ones are late."""
    logs: dict[str | None, Log] = {}
    late: Late = set()
    marks = watermarks(scenario)
    lateness = scenario.lateness

    def final_at(part: Between) -> int | None:
        if part.end is None:
            return None
        limit = None if longest is None else part.rows[0].time + longest
        return part.end + lateness + (1 if part.by_row and part.end != limit else 0)

    for number, batch in enumerate(scenario.batches):
        before, after = marks[number], marks[number + 1]
        for key, arrived in split_by_key([e for one in batch.slices for e in one]).items():
            log = logs.setdefault(key, Log())
            last = log.final[-1][0] if log.final else None
            taken = []
            for event in arrived:
                frozen = last is not None and event.time <= last
                reach = None if longest is None or before is None else before * 1000 - longest - lateness
                if frozen or (reach is not None and event.time <= reach):
                    late.add((event.partition, event.offset))
                else:
                    taken.append(event)
            while True:
                refused: list[Event] = []
                for part in event_sessions([*log.rows, *taken], longest)[0]:
                    at = final_at(part)
                    if part.rows[0] in taken and at is not None and before is not None and at <= before * 1000:
                        mine = [event for event in part.rows if event in taken]
                        late |= {(event.partition, event.offset) for event in mine}
                        refused += mine
                if not refused:
                    break
                taken = [event for event in taken if event not in refused]
            if log.final and log.final[-1][1].end == log.final[-1][0] + 1:
                # Rows of the very instant at which a start ended the final session, from before that start.
                outside = event_sessions([*log.rows, *taken], longest)[1]
                missed = [e for e in taken if e in outside and e.time == log.final[-1][1].end]
                late |= {(event.partition, event.offset) for event in missed}
                taken = [event for event in taken if event not in missed]
            log.rows += taken
        for log in logs.values():
            if after is None:
                continue
            for part in event_sessions(log.rows, longest)[0]:
                at = final_at(part)
                if at is not None and at <= after * 1000:
                    assert part.end is not None
                    own = (
                        part.end if part.rows[-1].kind == "logout" and part.rows[-1].time == part.end else part.end - 1
                    )
                    log.final.append((own, part))
                    log.rows = [
                        e for e in log.rows if e.time > own or (e.time == own and e.order > part.rows[-1].order)
                    ]
    found: Found = {}
    for key, log in logs.items():
        for _, part in log.final:
            found[key, part.rows[0].time] = (between_bounds(part)[1], part.rows)
        for part in event_sessions(log.rows, longest)[0]:
            found[key, part.rows[0].time] = (between_bounds(part)[1], part.rows)
    return found, late


@pytest.mark.timeout(TIMEOUT)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_sessions_between_events_are_what_brute_force_says(
    connection: duckdb.DuckDBPyConnection, plans: dict[str, WindowPlan], data: st.DataObject
) -> None:
    """(a), (b), (c): see the test of fixed windows. Every start begins a session, rows outside are in none."""
    name = data.draw(st.sampled_from(["events", "events without end"]))
    plan = plans[name]
    longest = None if plan.session.max_duration_ms is None else plan.session.max_duration_ms * 1000
    scenario = data.draw(scenarios(BASE, STEP, kinds=("login", "logout", "x", "x", "login")))
    expected, late = events_in_fold_order(scenario, longest)
    check_everything(connection, plan, scenario, expected, late, events_whole(every_event(scenario), longest))
