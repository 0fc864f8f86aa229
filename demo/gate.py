"""A gate that holds real flights back, the correction of the contract, and the redrive that lets them pass."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from demo.airflow import AirflowStandalone
from demo.hello import eventlog
from demo.show import say, table

if TYPE_CHECKING:
    import pandas as pd

DAG, PIPELINE, FILE = "flights_gate", "flights_checked", "example_gate.py"
SINCE, UNTIL = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)
WRONG, RIGHT = "KNOWN = MAINLAND\n", "KNOWN = MAINLAND + TERRITORIES\n"
REASON = "SJU, BQN, STT and PSE are airports"


def held(airflow: AirflowStandalone, home: Path) -> int:
    """Run two months through the gate, which holds them; how many rows it has stopped."""
    airflow.wait_dag(DAG)
    airflow.unpause(DAG)
    conf = {"eventlog_what": "interval", "eventlog_from": SINCE.isoformat(), "eventlog_to": UNTIL.isoformat()}
    run = airflow.trigger(DAG, conf=conf, run_id="two_months")
    airflow.wait_run(DAG, run, timeout=300, expect="failed")
    batches = eventlog("quarantine", "list", "--pipeline", PIPELINE, "--home", str(home))["batches"]
    say(f"    run {run}: the gate holds {len(batches)} batches; nothing is in the table")
    for batch in batches:
        told = ", ".join(f"{rows:,} by {code}" for code, rows in batch["codes"].items())
        say(f"      batch {batch['batch_id']}: {batch['state']}, {told}")
    if {batch["state"] for batch in batches} != {"held"} or (home / "flights_checked.duckdb").exists():
        raise RuntimeError("The gate was expected to hold, and nothing to be loaded.")
    return sum(batch["rows"] for batch in batches)


def correct(dags: Path) -> None:
    """Correct the contract in the DAG's file."""
    file = dags / FILE
    text = file.read_text()
    if text.count(WRONG) != 1:
        raise RuntimeError(f"{FILE} has no line {WRONG.strip()!r} to correct.")
    file.write_text(text.replace(WRONG, RIGHT))
    say(f"    corrected in {FILE}: {RIGHT.strip()}")


def redrive(airflow: AirflowStandalone) -> None:
    """Run what was stopped again."""
    conf = {"eventlog_what": "redrive", "eventlog_checks": "known_airport", "eventlog_reason": REASON}
    run = airflow.trigger(DAG, conf=conf, run_id="redrive", note=REASON)
    state = airflow.wait_run(DAG, run, timeout=300)
    say(f"      {run}: {state}")


def compare(home: Path, frame: pd.DataFrame, stopped: int) -> None:
    """Print the flights to the airports that were not known beside the data set's; raises unless all are equal."""
    import duckdb

    dated = frame["_departure_ms"]
    wanted = frame[(dated >= SINCE.timestamp() * 1000) & (dated < UNTIL.timestamp() * 1000)]
    with duckdb.connect(str(home / "flights_checked.duckdb"), read_only=True) as connection:
        found = dict(connection.execute("select dest, count(*) from flights group by 1").fetchall())
        rows = connection.execute("select count(*), count(distinct (_partition, _offset)) from flights").fetchall()[0]
    expected = {dest: int(count) for dest, count in wanted["dest"].value_counts().items()}
    shown = [(dest, found.get(dest, 0), expected.get(dest, 0)) for dest in ("BQN", "PSE", "SJU", "STT")]
    table("flights that the gate had stopped", ["dest", "loaded", "pandas"], shown)
    say(f"    rows: {rows[0]:,} loaded, {rows[1]:,} different offsets, {len(wanted):,} in the data set")
    again = sum(count for _, count, _ in shown)
    if found != expected or rows != (len(wanted), len(wanted)) or again != stopped:
        raise RuntimeError("What went through the gate differs from the data set.")
    say(f"    equal; {stopped:,} rows were stopped and run again.", style="bold green")
