"""A pipeline with windows over a topic of chosen events, run through all stages on real staging, ledger and DuckDB."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Stream, Tumbling, Windows
from tests.support.listlog import ListLog

MINUTE = 60_000
# Midnight, so that windows of a day begin where the events do.
T0 = 1_704_067_200_000
SINCE_LAST = RunRequest("since_last")
STREAM = Stream("orders", name="s", start="earliest", event_time="ts",
                decode=Json({"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"}))  # fmt: skip
CATCHING_UP = Stream("orders", name="s", start="interval", event_time="ts", decode=STREAM.decode)
Event = tuple[str | None, int | None, float]


def windows(**more: Any) -> Windows:
    """Sums by key and minute, unless told otherwise."""
    options: dict[str, Any] = {
        "window": Tumbling("1 minute"),
        "by": ["k"],
        "aggregates": {"n": "count(*)", "s": "sum(v)"},
        "target": DuckDB("w.duckdb", table="w"),
        **more,
    }
    return Windows(**options)


def pipeline(*outputs: Any, **more: Any) -> Pipeline:
    """Windows alone, unless told otherwise."""
    return Pipeline("p", **{"stream": STREAM, "outputs": list(outputs) or [windows()], **more})


def send(log: ListLog, *events: Event, partition: int = 0, recorded: float | None = None) -> None:
    """Append events (key, value, minutes after T0); their records are dated like them, or at `recorded` minutes."""
    for key, value, minutes in events:
        at = datetime.fromtimestamp(T0 / 1000, UTC) + timedelta(minutes=minutes)
        offset = len(log.values[partition])
        log.timestamps[partition, offset] = T0 + round((minutes if recorded is None else recorded) * MINUTE)
        log.values[partition].append(json.dumps({"k": key, "v": value, "ts": at.isoformat()}).encode())


def interval(number: int, minutes: int = 10, **more: Any) -> RunRequest:
    """The interval of a schedule that begins at T0."""
    start = T0 + number * minutes * MINUTE
    return RunRequest("interval", (start, start + minutes * MINUTE), first=number == 0, **more)


def up_to_validated(engine: Engine, made: Pipeline, request: RunRequest, key: str) -> None:
    """All stages but load."""
    plan = stages.plan(engine, made, request, key)
    for group in range(len(plan.groups)):
        stages.land(engine, made, key, group)
    for group in range(len(plan.groups)):
        stages.transform(engine, made, key, group)
    stages.validate(engine, made, key)


def rows(home: Path, columns: str = "*", table: str = "w") -> list[tuple[Any, ...]]:
    """The table's rows, in order."""
    with duckdb.connect(str(home / "w.duckdb"), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()


SHOWN = "k, CAST((epoch_ms(window_start) - 1704067200000) / 60000 AS DOUBLE), n, s, _final, _revision"
NOT_NEGATIVE = Check("not_negative", "v >= 0")
