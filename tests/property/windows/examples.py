"""How many examples the property tests of windows draw, and what an example is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from airflow_provider_eventlog.core.windows.plan import WindowPlan
from tests.property.windows import reference
from tests.property.windows.reference import Event
from tests.property.windows.world import Batch, World, exactly

# The full run asks for 1,000 and more.
EXAMPLES = int(os.environ.get("EVENTLOG_WINDOW_EXAMPLES", "25"))
# Seconds; a test gets five minutes otherwise.
TIMEOUT = max(300, 2 * EXAMPLES)
KEYS = (None, "", "a", "b")


@dataclass(frozen=True)
class Scenario:
    """Events, cut into batches and slices in one of many ways, and the output's tolerance in microseconds."""

    batches: tuple[Batch, ...]
    disorder: int
    lateness: int
    landing: int


@st.composite
def scenarios(draw: st.DrawFn, base: int, step: int, kinds: Sequence[str] = ("x", "y")) -> Scenario:
    """Events at multiples of `step` (microseconds) after `base`, some a microsecond off, in order or not."""
    moments = draw(
        st.lists(
            st.tuples(st.integers(0, 40), st.sampled_from([0, 0, 0, 0, 1, -1])).map(
                lambda m: base + m[0] * step + m[1]
            ),
            min_size=1,
            max_size=22,
        )
    )
    if draw(st.booleans()):
        moments = sorted(moments)
    offsets = [0, 0, 0]
    events: list[list[Event]] = [[], [], []]
    for time in moments:
        partition = draw(st.integers(0, 2))
        value = draw(st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([2**62, -(2**62), 10**9])))
        events[partition].append(
            Event(
                draw(st.sampled_from(KEYS)),
                time,
                value,
                None if value is None else Decimal(value % 10**9).scaleb(-2),
                None if value is None else value / 3,
                draw(st.sampled_from(kinds)),
                partition,
                offsets[partition],
            )
        )
        offsets[partition] += draw(st.integers(1, 3))
    count = draw(st.integers(1, 4))
    cuts = [sorted(draw(st.integers(0, len(events[p]))) for _ in range(count - 1)) for p in range(3)]
    batches = []
    for b in range(count):
        slices: list[tuple[Event, ...]] = []
        for p in range(3):
            bounds = [0, *cuts[p], len(events[p])]
            part = events[p][bounds[b] : bounds[b + 1]]
            half = draw(st.integers(0, len(part)))
            slices += [tuple(s) for s in (part[:half], part[half:]) if s]
        instant = draw(st.one_of(st.none(), st.just((base + 40 * step) // 1000)))
        batches.append(Batch(tuple(slices), instant))
    disorder, lateness = draw(st.sampled_from([0, 0, 3 * step, 60 * step])), draw(st.sampled_from([0, 0, 2 * step]))
    return Scenario(
        tuple(batches), disorder // 1000 * 1000, lateness // 1000 * 1000, draw(st.sampled_from([0, 0, 1, 3]))
    )


def watermarks(scenario: Scenario) -> list[int | None]:
    """The watermark (ms) before each batch and after the last, by the formula, in plain words."""
    marks: list[int | None] = [None]
    for batch in scenario.batches:
        newest: dict[int, int] = {}
        for event in (e for one in batch.slices for e in one):
            newest[event.partition] = max(newest.get(event.partition, event.time // 1000), event.time // 1000)
        reached = min(newest.values()) if newest else batch.instant
        before = marks[-1]
        if reached is None:
            marks.append(before)
        else:
            reached -= scenario.disorder // 1000
            marks.append(reached if before is None else max(before, reached))
    return marks


def every_event(scenario: Scenario) -> list[Event]:
    """All events."""
    return [event for batch in scenario.batches for one in batch.slices for event in one]


def tolerant(plan: WindowPlan, scenario: Scenario, on_late: str) -> WindowPlan:
    """The plan with the scenario's disorder and lateness."""
    windows = replace(
        plan.windows,
        disorder=scenario.disorder / 1_000_000,
        allowed_lateness=scenario.lateness / 1_000_000,
        on_late=on_late,
    )
    return replace(plan, windows=windows)


Contents = Mapping[tuple[Any, int], tuple[int, list[Event]]]


def check_contents(world: World, expected: Contents) -> None:
    """The target has exactly these windows: {(key, start): (end, events)}, exact values exactly, floats in bounds."""
    assert set(world.target) == set(expected)
    for key, (end, events) in expected.items():
        found = world.target[key]
        wanted = reference.aggregate(events)
        assert found["window_end"] == end
        for name in (name for name in wanted if name in found):
            assert exactly(found[name]) == exactly(wanted[name]), (key, name)
        for name, bound in reference.float_bounds(events).items():
            if bound is None or name not in found:
                assert found.get(name) is None
            else:
                assert abs(found[name] - bound[0]) <= bound[1], (key, name)


def check_late(world: World, expected: set[tuple[int, int, int | None]]) -> None:
    """The late output has exactly these (partition, offset, start of the window)."""
    found = [(row["_partition"], row["_offset"], row["_window_start"]) for row in world.late]
    assert len(found) == len(set(found))
    assert set(found) == expected
