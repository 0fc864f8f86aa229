"""The crash suite's world of windows: intervals with late rows, and one that is computed again with other values.

Driven in units, a stage of a run each, as Airflow retries tasks: a unit that ended is not asked for again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import head
from airflow_provider_eventlog.core.folding.advancing import advance
from airflow_provider_eventlog.core.loading import load_batch
from airflow_provider_eventlog.core.protocols import ApplyResult, Outcome, OutputId
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Session, Stream, Tumbling, Windows
from tests.crash import world
from tests.support.effects import Counted, CountedLedger, CountedSource, CountedStaging, Effects, tear_log
from tests.support.listlog import ListLog

MINUTE = 60_000
# Midnight, so that windows begin at whole minutes.
T0 = 1_704_067_200_000
INTERVALS = 12
# Every other state is written whole, so that few folds meet whole states and deltas alike.
COMPACTED = 2
TABLES = ("t", "w", "w_late", "s")
# Sessions have the other file for themselves, so that their first change-set is what makes it.
SHARED = "shared.duckdb"
# What the transform reads beside its input: the run that computes an interval again finds another rate.
RATES = SimpleNamespace(factor=1)


def rated(table: Any) -> Any:
    """Key, value and time from JSON; the values go by a rate from outside."""
    told = [json.loads(value) for value in table["value"].to_pylist()]
    times = [datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=one["ms"]) for one in told]
    return pa.table(
        {
            "k": pa.array([one["k"] for one in told], pa.string()),
            "v": pa.array([one["v"] * RATES.factor for one in told], pa.int64()),
            "ts": pa.array(times, pa.timestamp("us", tz="UTC")),
            "_partition": table["_partition"],
            "_offset": table["_offset"],
        }
    )


AGGREGATES = {"n": "count(*)", "s": "sum(v)"}
LATE = Windows(
    Tumbling("1 minute"),
    by=["k"],
    aggregates=AGGREGATES,
    target=DuckDB(SHARED, table="w"),
    late=DuckDB(SHARED, table="w_late"),
)
AMENDED = Windows(
    Session(gap="2 minutes", max_duration="10 minutes"),
    by=["k"],
    aggregates=AGGREGATES,
    on_late="amend",
    target=DuckDB(world.TARGET, table="s"),
)
PIPELINE = Pipeline(
    "p",
    stream=Stream("orders", start="earliest", decode=Raw()),
    transform=rated,
    schema={"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"},
    event_time="ts",
    outputs=[Rows(DuckDB(SHARED, table="t")), LATE, AMENDED],
)


def interval(number: int, **more: Any) -> RunRequest:
    """One of the intervals of ten minutes."""
    start = T0 + number * 10 * MINUTE
    return RunRequest("interval", (start, start + 10 * MINUTE), first=number == 0, parallelism=2, **more)


# The third run takes the second interval again, when its rows are in windows already.
RUNS = {"r1": interval(0), "r2": interval(1), "r3": interval(1, recompute=True)}
CATCH_UP = {f"c{number}": interval(number, gap="hole") for number in range(INTERVALS)}
# `load` in its parts, one an output: a kill amid one of them needs no more than that one to be tried again.
PARTS = ("plan", "transform", "validate", "t", "w", "s")
UNITS = [f"{key}:{part}" for key in RUNS for part in PARTS]
STAGES = ("plan", "transform", "validate", "load")


def events(number: int) -> Iterator[tuple[int, str | None, int, float]]:
    """(partition, key, value, minutes after T0) of an interval; every other one's late row joins two sessions."""
    at = 10 * number
    yield 0, "a", 1 + number, at + 1.2
    yield 0, "b", 2, at + 4.5
    if number % 2:
        yield 0, "a", 6, at - 7.0
    else:
        yield 1, "a", 4, at + 4.7
        yield 1, "b", 5, at + 8.9
    yield 0, None, 3, at + 8.4


def topic() -> ListLog:
    """All intervals; a record is dated within its own, whatever its event time."""
    log = ListLog([], [])
    for number in range(INTERVALS):
        for place, (partition, key, value, minutes) in enumerate(events(number)):
            log.timestamps[partition, len(log.values[partition])] = T0 + (10 * number + place) * MINUTE
            told = {"k": key, "v": value, "ms": T0 + round(minutes * MINUTE)}
            log.values[partition].append(json.dumps(told).encode())
    return log


class JournaledTarget(DuckDBTarget):
    """Notes which change-sets it took, over all attempts."""

    def __init__(self, declared: DuckDB, home: Path, patience: float) -> None:
        super().__init__(declared, home, busy_timeout_s=patience)
        self._journal = home.parent / "applied"

    def apply_changes(self, output: OutputId, log: int, n: int, *args: Any, **kwargs: Any) -> ApplyResult:
        result = super().apply_changes(output, log, n, *args, **kwargs)
        if result.outcome is Outcome.LANDED:
            with self._journal.open("a") as handle:
                handle.write(f"{output.output}/{log}/{n}\n")
        return result


def open_world(home: Path, effects: Effects | None = None, patience: float = world.PATIENCE_S) -> Engine:
    """The engine of one attempt; its clock stands, since decisions keep when they were made."""
    from airflow_provider_eventlog.core.ledger import open_ledger
    from airflow_provider_eventlog.core.staging.local import LocalStaging

    staging: Any = LocalStaging(home / world.STAGING)
    ledger: Any = open_ledger(home / world.LEDGER, timeout_s=patience)
    source: Any = topic()
    counted = effects or Effects()

    def target(output: Any) -> Any:
        return Counted(JournaledTarget(output.target, home, patience), counted)

    if effects is not None:
        log = home / f"{world.LEDGER}-wal"
        staging, source = CountedStaging(staging, effects), CountedSource(source, effects)
        ledger = CountedLedger(ledger, effects, lambda do: tear_log(log, do))
    ledger.check_staging(str(staging.root), staging.root_id())
    return Engine(ledger, staging, lambda _: source, target, clock=lambda: T0 + 600 * MINUTE)


def drive(case: dict[str, Any], effects: Effects) -> None:
    """Do what of the case's units is not done yet."""
    home = Path(case["home"])
    done = home.parent / case.get("done", "done")
    head.COMPACTED = COMPACTED
    for unit in case["units"]:
        if unit in world.finished(done):
            continue
        with open_world(home, effects, case.get("patience", world.PATIENCE_S)) as engine:
            work(engine, unit)
        with done.open("a") as handle:
            handle.write(f"{unit}\n")


def work(engine: Engine, unit: str) -> None:
    """One stage of a run over all its groups, or one part of its load; planning lands as well."""
    key, stage = unit.split(":")
    RATES.factor = 2 if key == "r3" else 1
    if stage == "plan":
        stages.plan(engine, PIPELINE, {**RUNS, **CATCH_UP}[key], key)
    bound = engine.ledger.run_plan(key, PIPELINE.name)
    if stage in ("plan", "transform"):
        for group in range(len(bound.groups)):
            {"plan": stages.land, "transform": stages.transform}[stage](engine, PIPELINE, key, group)
    elif stage == "t":
        load_batch(engine, PIPELINE, bound.batches[0])
    elif stage in ("w", "s"):
        advance(engine, PIPELINE, {"w": LATE, "s": AMENDED}[stage], [bound.batches[0].batch])
    else:
        {"validate": stages.validate, "load": stages.load}[stage](engine, PIPELINE, key)


def applied(folder: Path) -> list[str]:
    """The change-sets that attempts were told of as taken, in the order in which they were."""
    journal = folder / "applied"
    return journal.read_text().split() if journal.exists() else []


def settled(home: Path) -> dict[str, list[Any]]:
    """What a loss of power leaves of a world in which all was synced: everything."""
    found = list(home.rglob("*"))
    return {"entries": [str(path) for path in [home, *found]], "contents": [os.stat(path).st_ino for path in found]}


def look(home: Path) -> dict[str, Any]:
    """All that stands below `home`, but for ids that are drawn once and for what names a host."""
    told: dict[str, Any] = {"files": world._files(home), **world._ledger(home / world.LEDGER)}
    # The engine moves its log into the file when it opens that for writing the next time.
    own = (SHARED, f"{SHARED}.wal", f"{world.TARGET}.wal")
    told["left"] = [name for name in world._left(home) if name not in own]
    return {**told, "shared": _tables(home / SHARED), "sessions": _tables(home / world.TARGET)}


def _tables(file: Path) -> dict[str, Any]:
    import duckdb

    if not file.exists():
        return {}
    with duckdb.connect(str(file), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")

        def asked(query: str) -> list[Any]:
            return connection.execute(f"{query} ORDER BY ALL").fetchall()

        names = {name for (name,) in asked("SELECT table_name FROM duckdb_tables()")}
        told = {name: asked(f"SELECT * FROM {name}") for name in TABLES if name in names}
        for own, columns in (("_eventlog_load", "batch_id, gen, digest, rows"), ("_eventlog_fold", "log, n, digest")):
            if own in names:
                of_own = ", ".join(f"l.{column}" for column in columns.split(", "))
                told[own] = asked(
                    f"SELECT table_name, output, comment = 'eventlog:' || l.table_uuid, {of_own} FROM {own} l "
                    "LEFT JOIN _eventlog_output USING (table_uuid) LEFT JOIN duckdb_tables() USING (table_name)"
                )
    return json.loads(json.dumps(told, default=str))  # type: ignore[no-any-return]
