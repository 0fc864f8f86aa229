"""The main job in Airflow: two scheduled intervals, a back-fill by offsets, and the proof of the numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.offsets import OffsetRange, format_ranges
from demo import flights
from demo.airflow import AirflowStandalone
from demo.hello import eventlog
from demo.show import say, table

if TYPE_CHECKING:
    import pandas as pd

DAG = "flights"
# How many offsets of each partition the back-fill names although a scheduled run has them already.
_OVERLAP = 500
_HEAD = "carrier, flight, origin, dest, time_hour, dep_delay, _batch_id, _partition, _offset"
_LANDING = ("length", "landed", "invisible", "lost")
_TRANSFORM = ("tombstones", "typed", "filtered", "passed")


def scheduled(airflow: AirflowStandalone) -> None:
    """Let the schedule take its two intervals of 2013."""
    airflow.wait_dag(DAG)
    airflow.unpause(DAG)
    say(f"    the DAG {DAG!r} is on; its schedule has two intervals in 2013, caught up in order")
    for run in airflow.wait_runs(DAG, 2, timeout=300):
        say(f"      {run['dag_run_id']}: {run['state']}")


def back_fill(airflow: AirflowStandalone, source_ends: dict[int, int], ledger: Path) -> None:
    """Trigger a run for all other offsets, part of them overlapping what the schedule took."""
    batches = eventlog("batches", "--pipeline", DAG, "--ledger", str(ledger))["batches"]
    taken = [OffsetRange.parse(text) for b in batches for text in b["ranges"]]
    ranges = []
    for partition, end in sorted(source_ends.items()):
        done = max((r.end for r in taken if r.partition == partition), default=0)
        if done < end:
            ranges.append(OffsetRange(partition, max(0, done - _OVERLAP), end))
    asked = format_ranges(ranges)
    say(f"    triggered with eventlog_what=offsets, eventlog_offsets={asked}")
    conf = {"eventlog_what": "offsets", "eventlog_offsets": asked}
    run = airflow.trigger(DAG, conf=conf, run_id="backfill_by_offsets", note=f"offsets {asked}")
    state = airflow.wait_run(DAG, run, timeout=300)
    say(f"      {run}: {state}; up to {_OVERLAP} offsets a partition were named twice")


def accounting(ledger: Path) -> None:
    """Print where every offset of each batch went."""
    document = eventlog("accounting", "--pipeline", DAG, "--ledger", str(ledger))
    rows = [_row(b["batch_id"], b["kind"], b["state"], b["accounting"]) for b in document["batches"]]
    rows.append(_row("total", "", "", document["total"]))
    columns = [
        "batch",
        "kind",
        "state",
        "offsets",
        "landed",
        "invisible",
        "lost",
        "tombstones",
        "typed",
        "filtered",
        "passed",
    ]
    table("accounting", columns, rows)


def _row(name: str, kind: str, state: str, figures: dict[str, Any]) -> list[Any]:
    landing, transform = figures["landing"], figures["transform"]
    return [
        name,
        kind,
        state,
        *(landing[k] for k in _LANDING),
        *(transform[k] for k in _TRANSFORM),
    ]


def compare(database: Path, frame: pd.DataFrame) -> None:
    """Print the table's head, and its figures beside the data set's own; raises unless they are equal."""
    import duckdb

    with duckdb.connect(str(database), read_only=True) as connection:
        first = "(select * from flights order by _partition, _offset limit 5)"
        head = connection.execute(f"select {_HEAD} from {first}")
        table("flights.duckdb, table flights", [d[0] for d in head.description or []], head.fetchall())
        rows = connection.execute("select count(*), count(distinct (_partition, _offset)) from flights").fetchall()[0]
        figures = "carrier, count(*), min(dep_delay), max(dep_delay), avg(dep_delay)"
        found = connection.execute(f"select {figures} from flights group by 1 order by 1").fetchall()
    wanted = flights.expected(frame)
    shown = [
        (
            *(f"{v:.6f}" if isinstance(v, float) else v for v in have),
            "=" if equal(have, want) else "DIFFERS",
            *want[1:4],
            f"{want[4]:.6f}",
        )
        for have, want in zip(found, wanted, strict=False)
    ]
    columns = [*flights.FIGURES, "", *(f"pandas {name}" for name in flights.FIGURES[1:])]
    table("departure delay by carrier: SQL over the loaded rows, and pandas over the data set", columns, shown)
    say(f"    rows: {rows[0]:,} loaded, {rows[1]:,} different offsets, {len(frame):,} in the data set")
    if rows != (len(frame), len(frame)) or len(found) != len(wanted) or not all(map(equal, found, wanted)):
        raise RuntimeError("The loaded figures differ from the data set's.")
    compare_months(database, frame)
    say("    equal.", style="bold green")


def compare_months(database: Path, frame: pd.DataFrame) -> None:
    """Print how the windows' figures are to the data set's by month; raises unless they are equal."""
    import duckdb

    query = (
        "select carrier, strftime(timezone('UTC', window_start), '%Y-%m'), flights, low, high, mean, _final "
        "from flights_by_month order by 1, 2"
    )
    with duckdb.connect(str(database), read_only=True) as connection:
        found = connection.execute(query).fetchall()
    wanted = flights.expected_by_month(frame)
    final = sum(row[-1] for row in found)
    say(
        f"    windows: {len(found)} of carrier and month ({final} final, {len(found) - final} open), "
        f"{len(wanted)} in the data set"
    )
    if len(found) != len(wanted) or not all(equal_month(have, want) for have, want in zip(found, wanted, strict=True)):
        raise RuntimeError("The windows' figures differ from the data set's.")


def equal_month(have: tuple[Any, ...], want: tuple[Any, ...]) -> bool:
    """Like `equal`; a month without a known delay has no figures but the count."""
    if have[5] is None or want[5] is None:
        return have[:6] == want
    return have[:5] == want[:5] and math.isclose(have[5], want[5], rel_tol=1e-12)


def equal(have: tuple[Any, ...], want: tuple[Any, ...]) -> bool:
    """Counts and bounds to the last digit; means up to the rounding of their sums' order."""
    return have[:4] == want[:4] and math.isclose(have[4], want[4], rel_tol=1e-12)
