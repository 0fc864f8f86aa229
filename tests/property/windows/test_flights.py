"""Windows over the flights that left New York in 2013, a batch a month, against pandas over the data set."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.protocols import FoundOffset
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Hopping, Json, Pipeline, Session, Stream, Tumbling, Windows
from demo import flights
from tests.support.listlog import ListLog, engine_over

ZONE = ZoneInfo("America/New_York")
MONTHS = [int(datetime(2013 + m // 12, m % 12 + 1, 1, tzinfo=ZONE).timestamp() * 1000) for m in range(13)]
AGGREGATES = {
    "flights": "count(*)",
    "departed": "count(dep_delay)",
    "low": "min(dep_delay)",
    "high": "max(dep_delay)",
    "total": "sum(dep_delay)",
    "mean": "avg(dep_delay)",
}
GAP = pd.Timedelta(hours=6)
# Batches end at noon, when aircraft are under way, so that sessions go over them.
NOON = 12 * 3_600_000
EDGES = [MONTHS[0], *(month + NOON for month in MONTHS[1:-1]), MONTHS[-1]]


def windows(name: str, window: Any, *by: str) -> Windows:
    target = DuckDB("w.duckdb", table=name)
    return Windows(window, by=list(by), aggregates=AGGREGATES, target=target, name=name)


PIPELINE = Pipeline(
    "flights",
    stream=Stream(
        "flights",
        decode=Json(
            {
                "dep_delay": "INTEGER",
                "tailnum": "VARCHAR",
                "origin": "VARCHAR",
                "minute": "INTEGER",
                "time_hour": "TIMESTAMPTZ",
            }
        ),
    ),
    transform="select tailnum, origin, dep_delay, time_hour + to_minutes(minute) as departure from batch",
    event_time="departure",
    outputs=[
        windows("hours", Tumbling("1 hour"), "origin"),
        windows("sliding", Hopping("1 hour", "10 minutes"), "origin"),
        windows("visits", Session("6 hours", max_duration="30 days"), "tailnum"),
        windows("months", Tumbling("1 month", timezone="America/New_York")),
    ],
)


class Departures(ListLog):
    """Records in the order of time in each partition, so that instants are found by halving."""

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        found = {}
        for partition in range(len(self.values)) if partitions is None else partitions:
            every = range(len(self.values[partition]))
            offset = bisect_left(every, instant, key=partial(self.timestamp, partition))
            there = offset < len(every)
            found[partition] = FoundOffset(*((offset, self.timestamp(partition, offset)) if there else (None, None)))
        return found


@dataclass
class Year:
    """What was folded, and the months as each batch left them."""

    home: Path
    frame: pd.DataFrame
    months: list[dict[Any, tuple[Any, ...]]] = field(default_factory=list)

    def table(self, name: str, key: str) -> dict[Any, tuple[Any, ...]]:
        """The aggregates of a table by a key and the beginning of each window (ms)."""
        with duckdb.connect(str(self.home / "w.duckdb"), read_only=True) as connection:
            found = connection.execute(
                f"SELECT {key}, epoch_ms(window_start), {', '.join(AGGREGATES)} FROM {name}"
            ).fetchall()
        told = {(row[0], row[1]): row[2:] for row in found}
        assert len(told) == len(found)
        return told


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    """All twelve months, one interval after the other."""
    home = tmp_path_factory.mktemp("flights")
    frame = flights.dataset()
    log = Departures([], [])
    for number, record in enumerate(flights.records(frame)):
        of = log.values[number % 2]
        assert record.timestamp is not None
        log.timestamps[number % 2, len(of)] = record.timestamp
        of.append(record.value)
    made = Year(home, frame)
    with engine_over(log, home, lambda: MONTHS[-1] + 86_400_000) as engine:
        for number, (start, end) in enumerate(pairwise(EDGES)):
            request = RunRequest("interval", (start, end), first=number == 0)
            stages.run(engine, PIPELINE, request, f"month-{number}")
            with duckdb.connect(str(home / "w.duckdb"), read_only=True) as connection:
                rows = connection.execute("SELECT * FROM months").fetchall()
                names = [d[0] for d in connection.description or []]
            at = names.index("window_start")
            made.months.append({row[at]: tuple(zip(names, row, strict=True)) for row in rows})
    return made


def told(grouped: Any) -> dict[Any, tuple[Any, ...]]:
    """The same aggregates by pandas: keys as in `Year.table`, NULL as None."""
    delay = grouped["dep_delay"]
    table = pd.DataFrame(
        {
            "flights": grouped.size(),
            "departed": delay.count(),
            "low": delay.min(),
            "high": delay.max(),
            "total": delay.sum(min_count=1),
            "mean": delay.mean(),
        }
    )
    found = {}
    for (key, start), *values in table.itertuples():
        numbers = [None if pd.isna(v) else int(v) for v in values[:-1]]
        mean = None if pd.isna(values[-1]) else pytest.approx(float(values[-1]), rel=1e-12, abs=1e-12)
        found[None if pd.isna(key) else key, start] = (*numbers, mean)
    return found


def equal(found: dict[Any, tuple[Any, ...]], wanted: dict[Any, tuple[Any, ...]]) -> None:
    assert len(found) == len(wanted)
    assert found.keys() == wanted.keys()
    differing = [key for key in found if found[key] != wanted[key]]
    assert differing == [], [(key, found[key], wanted[key]) for key in differing[:3]]


def test_hours_by_origin(year: Year) -> None:
    """Fixed windows of an hour by airport: every count, bound and sum is that of the data set, means to 1e-12."""
    start = year.frame["_departure_ms"] // 3_600_000 * 3_600_000
    wanted = told(year.frame.groupby(["origin", start.rename("start")]))
    assert sum(row[0] for row in wanted.values()) == flights.ROWS
    equal(year.table("hours", "origin"), wanted)


def test_an_hour_sliding_by_ten_minutes(year: Year) -> None:
    """Each flight counts in six windows, those over midnight, months and both days of the clock's change too."""
    step = 600_000
    last = year.frame["_departure_ms"] // step * step
    spread = pd.concat([year.frame.assign(start=last - number * step) for number in range(6)])
    wanted = told(spread.groupby(["origin", "start"]))
    assert sum(row[0] for row in wanted.values()) == 6 * flights.ROWS
    equal(year.table("sliding", "origin"), wanted)


def test_sessions_by_tail_number(year: Year) -> None:
    """An aircraft's flights within six hours of each other are one session, over batches, the unknown one's too."""
    frame = year.frame.assign(tail=year.frame["tailnum"].fillna("")).sort_values(["tail", "_departure_ms"])
    gap = int(GAP.total_seconds() * 1000)
    apart = (frame["tail"] != frame["tail"].shift()) | (frame["_departure_ms"].diff() > gap)
    number = apart.cumsum()
    start = frame.groupby(number)["_departure_ms"].transform("min")
    # Otherwise sessions would be cut, which is another test's.
    assert (frame["_departure_ms"] - start).max() < 30 * 86_400_000
    spans = frame["_departure_ms"].groupby(number).agg(["min", "max"])
    crossing = [(spans["min"] < edge) & (spans["max"] >= edge) for edge in EDGES[1:-1]]
    assert sum(int(one.sum()) for one in crossing) > 100
    wanted = told(frame.assign(start=start).groupby(["tail", "start"]))
    assert any(key == "" for key, _ in wanted)
    found = {(key or "", at): row for (key, at), row in year.table("visits", "tailnum").items()}
    equal(found, wanted)


def test_months_are_final_one_by_one(year: Year) -> None:
    """Behind each batch the months that ended before are final, and from then on no column of theirs ever changes."""
    local = pd.to_datetime(year.frame["_departure_ms"], unit="ms", utc=True).dt.tz_convert(str(ZONE))
    month = local.dt.month - 1
    wanted = told(year.frame.groupby([month.map(lambda _: "all").rename("key"), month.map(MONTHS.__getitem__)]))
    equal(year.table("months", "'all'"), wanted)
    for number, rows in enumerate(year.months):
        finals = sorted(int(start.timestamp() * 1000) for start, row in rows.items() if dict(row)["_final"])
        # The last batch ends with the year: nothing behind it tells that December is over.
        assert finals == MONTHS[: min(number + 1, 11)]
        for later in year.months[number:]:
            assert all(later[start] == row for start, row in rows.items() if dict(row)["_final"])
