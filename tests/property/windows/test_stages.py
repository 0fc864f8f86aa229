"""Windows through all stages: any events, intervals loaded in any order, attempts that die anywhere; one result."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Hopping, Json, Pipeline, Session, Stream, Tumbling, Windows
from tests.property.windows.reference import Event, exact_windows, gap_bounds, gap_sessions
from tests.support.listlog import ListLog, engine_over

EXAMPLES = int(os.environ.get("EVENTLOG_FOLDING_EXAMPLES", "8"))
MINUTE_US = 60_000_000
T0 = 1_704_067_200_000
STREAM = Stream("orders", name="s", start=datetime.fromtimestamp(T0 / 1000, UTC), event_time="ts",
                decode=Json({"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"}))  # fmt: skip
KINDS = {
    "fixed": Tumbling("2 minutes"),
    "sliding": Hopping("6 minutes", "2 minutes"),
    "session": Session(gap="90 seconds", max_duration="5 minutes"),
}


class Killed(BaseException):
    """An attempt that dies."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Events by partition: (key, value, event time and record's time in half minutes), and what happens to them."""

    events: tuple[tuple[tuple[str | None, int, int, int], ...], ...]
    order: tuple[int, ...]
    deaths: tuple[int, ...]


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Four intervals of five minutes; records are dated in order, events around their records."""
    partitions = []
    for _ in range(2):
        recorded = sorted(draw(st.lists(st.integers(0, 39), max_size=9)))
        partitions.append(
            tuple(
                (
                    draw(st.sampled_from([None, "", "a"])),
                    draw(st.integers(-3, 3)),
                    max(0, r + draw(st.integers(-9, 2))),
                    r,
                )
                for r in recorded
            )
        )
    order = tuple(draw(st.permutations(range(4))))
    return Scenario(tuple(partitions), order, tuple(draw(st.lists(st.integers(0, 30), max_size=3))))


def topic(scenario: Scenario) -> ListLog:
    """The scenario's records."""
    log = ListLog([], [])
    for partition, events in enumerate(scenario.events):
        for offset, (key, value, time, recorded) in enumerate(events):
            log.timestamps[partition, offset] = T0 + recorded * 30_000
            at = datetime.fromtimestamp(T0 / 1000 + time * 30, UTC)
            log.values[partition].append(json.dumps({"k": key, "v": value, "ts": at.isoformat()}).encode())
    return log


class Deadly:
    """Lets through so many effects and dies at the next; the calls that it counts are the engine's own."""

    def __init__(self, engine: Engine, after: int) -> None:
        self.left = after
        for owner, name in (
            (engine.staging, "publish"),
            (engine.staging, "publish_json"),
            (engine.ledger, "record_part"),
            (engine.ledger, "open_fold_log"),
            (engine.ledger, "record_fold"),
            (engine.ledger, "advance_generation"),
        ):
            setattr(owner, name, self._counted(getattr(owner, name)))
        opened = engine.open_target

        def open_target(output: Any) -> Any:
            target = opened(output)
            target.apply_changes = self._counted(target.apply_changes)  # type: ignore[method-assign]
            return target

        engine.open_target = open_target

    def _counted(self, call: Any) -> Any:
        def counted(*args: Any, **more: Any) -> Any:
            if self.left == 0:
                self.left = -1
                raise Killed
            self.left -= 1
            return call(*args, **more)

        return counted


def run(home: Path, made: Pipeline, scenario: Scenario, order: Sequence[int], deaths: Sequence[int]) -> tuple[int, Any]:
    """Run the intervals in an order, each attempt dying where it is told to; how many died, and what there is then."""
    log, died = topic(scenario), 0
    pending = list(deaths)
    for number in order:
        start = T0 + number * 300_000
        request = RunRequest("interval", (start, start + 300_000), gap="hole", parallelism=2)
        while True:
            with engine_over(log, home, lambda: T0 + 3_600_000) as engine:
                if pending:
                    Deadly(engine, pending.pop())
                try:
                    stages.run(engine, made, request, f"r{number}")
                except Killed:
                    died += 1
                    continue
                break
    with engine_over(log, home, lambda: T0 + 3_600_000) as engine:
        folds = [(f.n, f.cause, f.inputs, f.watermark, dict(f.files)) for f in engine.ledger.folds("p", "w", 1)]
    with duckdb.connect(str(home / "w.duckdb"), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        table = connection.execute("SELECT * FROM w ORDER BY ALL").fetchall()
    return died, (folds, table)


def expected(kind: str, scenario: Scenario) -> dict[tuple[str | None, int], tuple[int, int, int]]:
    """{(key, start): (end, rows, sum)} of all events, in microseconds."""
    events = [
        Event(key, T0 * 1000 + time * 30_000_000, value, None, None, "x", partition, offset)
        for partition, of in enumerate(scenario.events)
        for offset, (key, value, time, _) in enumerate(of)
    ]
    found: dict[tuple[str | None, int], tuple[int, int, int]] = {}
    if kind == "session":
        for key in {event.key for event in events}:
            gap, longest = 90_000_000, 5 * MINUTE_US
            for one in gap_sessions([e for e in events if e.key == key], gap, longest):
                start, end = gap_bounds(one, gap, longest)
                found[key, start] = (end, len(one), sum(e.i or 0 for e in one))
        return found
    size, every = {"fixed": (2, 2), "sliding": (6, 2)}[kind]
    place = exact_windows(size * MINUTE_US, every * MINUTE_US)
    for event in events:
        for start, end in place(event.time):
            _, count, total = found.get((event.key, start), (end, 0, 0))
            found[event.key, start] = (end, count + 1, total + (event.i or 0))
    return found


@pytest.mark.timeout(max(300, 30 * EXAMPLES))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(scenario=scenarios(), kind=st.sampled_from(sorted(KINDS)), on_late=st.sampled_from(["late", "amend"]))
def test_order_and_deaths_change_nothing(scenario: Scenario, kind: str, on_late: str) -> None:
    """Folds, files and table are those of one interval after another; amended, they are those of one single batch."""
    output = Windows(
        KINDS[kind],
        by=["k"],
        aggregates={"n": "count(*)", "s": "sum(v)"},
        target=DuckDB("w.duckdb", table="w"),
        on_late=on_late,
    )
    made = Pipeline("p", stream=STREAM, outputs=[output])
    with tempfile.TemporaryDirectory() as folder:
        _, plain = run(Path(folder) / "plain", made, scenario, range(4), ())
        # The first interval opens the chain; later ones come in any order, and their attempts die.
        order = [0, *(number for number in scenario.order if number)]
        _, disturbed = run(Path(folder) / "disturbed", made, scenario, order, scenario.deaths)
    assert disturbed == plain
    folds, table = plain
    assert [fold[0] for fold in folds] == list(range(1, 5))
    if on_late == "amend":
        us = datetime.fromtimestamp(0, UTC)
        shown = {
            (key, round((start - us).total_seconds() * 1e6)): (round((end - us).total_seconds() * 1e6), n, int(s))
            for key, start, end, n, s, *_ in table
        }
        assert shown == expected(kind, scenario)


def test_deaths_are_deaths() -> None:
    """The attempts of these examples really die: at each of the first effects once."""
    made = Pipeline("p", stream=STREAM, outputs=[Windows(
        KINDS["fixed"], by=["k"], aggregates={"n": "count(*)"}, target=DuckDB("w.duckdb", table="w")
    )])  # fmt: skip
    scenario = Scenario(((("a", 1, 1, 1), ("a", 1, 12, 12)), ()), (0, 1, 2, 3), ())
    with tempfile.TemporaryDirectory() as folder:
        died, _ = run(Path(folder), made, scenario, range(4), (0, 3, 6))
    assert died == 3
