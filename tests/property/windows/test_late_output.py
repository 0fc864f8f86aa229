"""The late output through any chain of corrections: what windows do not hold is in it, once, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding.upgrading import upgrade
from airflow_provider_eventlog.declare import DuckDB, Hopping, Pipeline, Session, Tumbling, Windows
from tests.property.windows.reference import Bounds, exact_windows
from tests.property.windows.test_stages import STREAM, T0
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import interval

# Each is up to twelve runs.
EXAMPLES = max(3, int(os.environ.get("EVENTLOG_FOLDING_EXAMPLES", "8")) // 3)
MINUTE_US = 60_000_000
KINDS: dict[str, tuple[Any, Callable[[int], list[Bounds]] | None]] = {
    "fixed": (Tumbling("2 minutes"), exact_windows(2 * MINUTE_US, 2 * MINUTE_US)),
    "sliding": (Hopping("6 minutes", "2 minutes"), exact_windows(6 * MINUTE_US, 2 * MINUTE_US)),
    "session": (Session(gap="90 seconds", max_duration="5 minutes"), None),
}
Late = set[tuple[int, int | None]]


@dataclasses.dataclass(frozen=True)
class Event:
    """A record whose value is 2 to the power of its number, so that a sum tells the rows; times in half minutes."""

    number: int
    key: str | None
    time: int
    recorded: int


@dataclasses.dataclass(frozen=True)
class Step:
    """An interval that is run, under a recipe that keeps some rows (bits) and dates some three minutes later."""

    interval: int
    kept: int
    moved: int


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Events of one partition in the order of their records, and what is run."""

    events: tuple[Event, ...]
    steps: tuple[Step, ...]


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Three intervals of five minutes, each run at its time, and corrections of any of them in between."""
    recorded = sorted(draw(st.lists(st.integers(0, 29), min_size=4, max_size=10)))
    events = tuple(
        Event(n, draw(st.sampled_from([None, "a"])), max(0, r + draw(st.integers(-12, 2))), r)
        for n, r in enumerate(recorded)
    )
    rows = st.integers(0, 2 ** len(events) - 1)
    moved = st.one_of(st.just(0), rows)
    steps = []
    for number in range(3):
        steps.append(Step(number, draw(rows), draw(moved)))
        again = draw(st.lists(st.integers(0, number), max_size=3))
        steps += [Step(one, draw(rows), draw(moved)) for one in again]
    return Scenario(events, tuple(steps))


def topic(scenario: Scenario) -> ListLog:
    """The scenario's records."""
    log = ListLog([], [])
    for event in scenario.events:
        log.timestamps[0, event.number] = T0 + event.recorded * 30_000
        at = datetime.fromtimestamp(T0 / 1000 + event.time * 30, UTC)
        value = {"k": event.key, "v": 2**event.number, "ts": at.isoformat()}
        log.values[0].append(json.dumps(value).encode())
    return log


def pipeline(kind: str, step: Step, number: int) -> Pipeline:
    """The recipe of a step, unlike any other."""
    later = f"if((v & {step.moved}) <> 0, ts + INTERVAL 3 MINUTE, ts)"
    output = Windows(
        KINDS[kind][0],
        by=["k"],
        aggregates={"s": "sum(v)"},
        target=DuckDB("w.duckdb", table="w"),
        late=DuckDB("w.duckdb", table="late"),
    )
    transform = f"select k, v, {later} as ts from batch where (v & {step.kept}) <> 0 and {number} = {number}"
    return Pipeline("p", stream=STREAM, transform=transform, outputs=[output])


def loaded(home: Path) -> tuple[dict[tuple[str | None, int], tuple[int, bool]], Late]:
    """What each window holds (bits, finality) by key and start, and the late output: (event, window), none twice."""
    with duckdb.connect(str(home / "w.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT k, epoch_us(window_start), CAST(s AS BIGINT), _final FROM w").fetchall()
        late = connection.execute("SELECT _offset, epoch_us(_window_start) FROM late").fetchall()
        values = connection.execute("SELECT _offset, v FROM late").fetchall()
    assert len(set(late)) == len(late)
    assert all(value == 2**offset for offset, value in values)
    return {(k, start): (s, final) for k, start, s, final in found}, set(late)


def check(
    kind: str,
    scenario: Scenario,
    recipes: dict[int, Step],
    held: dict[tuple[str | None, int], tuple[int, bool]],
    late: Late,
) -> None:
    """Every row of the current generations is in its windows or late for them; no other row is late."""
    current = [
        (event, step)
        for event in scenario.events
        if (step := recipes.get(event.recorded // 10)) and step.kept >> event.number & 1
    ]
    place = KINDS[kind][1]
    if place is None:
        in_windows = 0
        for bits, _ in held.values():
            in_windows |= bits
        told = {number for number, _ in late}
        assert told == {event.number for event, _ in current if not in_windows >> event.number & 1}
        return
    expected: Late = set()
    opened: dict[tuple[str | None, int], int] = {}
    for event, step in current:
        time = T0 * 1000 + (event.time + (6 if step.moved >> event.number & 1 else 0)) * 30_000_000
        for start, _ in place(time):
            bits, final = held.get((event.key, start), (0, True))
            if not final:
                opened[event.key, start] = opened.get((event.key, start), 0) | 1 << event.number
            elif not bits >> event.number & 1:
                expected.add((event.number, start))
    assert late == expected
    assert {key: bits for key, (bits, final) in held.items() if not final} == opened


def corrected(home: Path, kind: str, scenario: Scenario) -> int:
    """Run the steps and check after each; how many windows were final when something was corrected."""
    log, recipes, seen, met = topic(scenario), dict[int, Step](), dict[tuple[str | None, int], int](), 0
    ticks = iter(range(10**9))
    with engine_over(log, home, lambda: T0 + 3_600_000 + next(ticks)) as engine:
        for number, step in enumerate(scenario.steps):
            made = pipeline(kind, step, number)
            again = step.interval in recipes
            causes = run(engine, made, step, number)
            assert causes == (["correction"] if again else ["batch"])
            recipes[step.interval] = step
            held, late = loaded(home)
            final = {key: bits for key, (bits, is_final) in held.items() if is_final}
            assert {key: final.get(key) for key in seen} == seen, "a final window has changed"
            met += len(seen) if again else 0
            seen = final
            check(kind, scenario, recipes, held, late)
    return met


def run(engine: Engine, made: Pipeline, step: Step, number: int) -> list[str]:
    """Run an interval under the recipe of now; why it was folded."""
    if number:
        upgrade(engine, made, "from-next-batch", who="me", why="a test")
    folded = stages.run(engine, made, interval(step.interval, 5), f"r{number}")["load"]["windows"]["w"]["folded"]
    return [fold["cause"] for fold in folded]


@pytest.mark.timeout(max(300, 30 * EXAMPLES))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(scenario=scenarios(), kind=st.sampled_from(sorted(KINDS)))
def test_late_output_is_what_windows_do_not_hold(scenario: Scenario, kind: str) -> None:
    """After any corrections of any batches the late output is what final windows lack of the current generations."""
    with tempfile.TemporaryDirectory() as folder:
        corrected(Path(folder), kind, scenario)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_left_and_comes_back_is_held_still(kind: str) -> None:
    """A row that a final window holds, and that a correction took out, is not late when the next one brings it back."""
    events = (Event(0, "a", 2, 2), Event(1, "a", 3, 3), Event(2, "a", 25, 25))
    steps = (Step(0, 7, 0), Step(1, 7, 0), Step(2, 7, 0), Step(0, 5, 0), Step(0, 7, 0))
    with tempfile.TemporaryDirectory() as folder:
        assert corrected(Path(folder), kind, Scenario(events, steps)) > 0
        assert loaded(Path(folder))[1] == set()


def test_a_row_that_was_late_once_may_come_back_in_time() -> None:
    """A late row that a correction took out enters an open session when the next one brings it back at a later time."""
    events = (Event(0, "a", 9, 9), Event(1, "a", 3, 12))
    steps = (Step(0, 3, 0), Step(1, 3, 0), Step(1, 0, 0), Step(1, 3, 2))
    with tempfile.TemporaryDirectory() as folder:
        corrected(Path(folder), "session", Scenario(events, steps[:2]))
        assert [number for number, _ in loaded(Path(folder))[1]] == [1]
    with tempfile.TemporaryDirectory() as folder:
        corrected(Path(folder), "session", Scenario(events, steps))
        held, late = loaded(Path(folder))
    assert [bits for bits, _ in held.values()] == [3]
    assert late == set()
