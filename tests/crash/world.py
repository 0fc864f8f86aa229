"""The world of the crash suite: two runs from plan to load over a log that is a function of a seed.

A child process does here what a worker does; what it leaves behind is compared to a run that nothing disturbed.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import sqlite3
import time
import traceback
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from tests.support.effects import (
    Counted,
    CountedLedger,
    CountedSource,
    CountedStaging,
    Disk,
    Effects,
    patch,
    tear_log,
)
from tests.support.seededlog import SeededLog


def not_fives(table: Any) -> Any:
    """A transform that filters, cheaper to set up than SQL: it is not what is tested here."""
    wanted = [offset % 5 != 0 for offset in table["_offset"].to_pylist()]
    texts = table.select(["value", "_partition", "_offset"]).filter(pa.array(wanted, pa.bool_()))
    return texts.set_column(0, "value", texts["value"].cast(pa.string()))


ORDERS = Stream("orders", start="earliest", decode=Raw(), max_slice_offsets=7)
PIPELINE = Pipeline(
    "p",
    stream=ORDERS,
    transform=not_fives,
    schema={"value": "VARCHAR"},
    outputs=[Rows(DuckDB("out.duckdb", table="t"))],
)
START, SECOND = 1_356_998_400_000, 1000
MIDDLE, END = START + 10 * SECOND, START + 12 * SECOND
RUNS = {
    "r1": RunRequest("interval", interval=(START, MIDDLE), first=True, parallelism=2),
    "r2": RunRequest("interval", interval=(MIDDLE, END), parallelism=2),
}
LENGTHS = (24, 9)
STAGING, LEDGER, TARGET = "eventlog/staging", "eventlog/ledger.sqlite", "out.duckdb"
# How long an attempt waits for what another one holds; a paused one holds it for ever.
PATIENCE_S = 0.3


def open_world(home: Path, attempt: int, effects: Effects | None = None, patience: float = PATIENCE_S) -> Engine:
    """The engine of one attempt; a later attempt has a later clock, and its log has grown."""
    from airflow_provider_eventlog.core.ledger import open_ledger
    from airflow_provider_eventlog.core.staging.local import LocalStaging
    from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget

    staging: Any = LocalStaging(home / STAGING)
    ledger: Any = open_ledger(home / LEDGER, timeout_s=patience)
    source: Any = SeededLog(7, [n + 3 * attempt for n in LENGTHS], first=START, chunk=3 + attempt)
    target: Any = DuckDBTarget(PIPELINE.outputs[0].target, home, busy_timeout_s=patience)
    if effects is not None:
        log = home / f"{LEDGER}-wal"
        staging, source = CountedStaging(staging, effects), CountedSource(source, effects)
        ledger = CountedLedger(ledger, effects, lambda do: tear_log(log, do))
        target = Counted(target, effects)
    ledger.check_staging(str(staging.root), staging.root_id())
    return Engine(
        ledger, staging, lambda _: source, lambda _: target, clock=lambda: END + (100 + attempt) * 1000 * SECOND
    )


def drive(case: dict[str, Any], effects: Effects) -> None:
    """Run what is not done yet; a run that ended is not asked for again, as in Airflow."""
    home = Path(case["home"])
    done = home.parent / case.get("done", "done")
    for key in case.get("runs", RUNS):
        if key not in finished(done):
            with open_world(home, case["attempt"], effects, case.get("patience", PATIENCE_S)) as engine:
                stages.run(engine, PIPELINE, RUNS[key], key)
            with done.open("a") as handle:
                handle.write(f"{key}\n")


def finished(done: Path) -> list[str]:
    """The runs that ended with success."""
    return done.read_text().split() if done.exists() else []


def act(case: dict[str, Any]) -> None:
    """What a forked child does: an attempt, with a fault or without, and then an account of the world."""
    home, result = Path(case["home"]), Path(case["result"])
    side = home.parent
    told: dict[str, Any] = {"killed": None}

    def last_words(name: str) -> None:
        result.write_text(json.dumps({"killed": name}))
        (side / "disk.json").write_text(json.dumps(disk.kept()))

    state = side / "disk.json"
    disk = Disk(home, json.loads(state.read_text()) if state.exists() else None)
    effects = Effects(case.get("at", 0), case.get("mode", ""), last_words=last_words)
    effects.lose = disk.lose
    if case.get("jitter"):
        chance = random.Random(case["jitter"])
        effects.yields = lambda: time.sleep(chance.random() * 0.004)
    try:
        patch(effects, disk, home)
        if case.get("gate"):
            pass_gate(Path(case["gate"]))
        # What is driven besides runs stands in modules of its own.
        work = import_module(case["work"]) if "work" in case else None
        (work.drive if work else drive)(case, effects)
        told["effects"] = {"names": effects.names, "torn": effects.torn, "coarse": effects.coarse}
        if case.get("lose_at_end"):
            disk.lose()
        if case.get("look", True):
            told["world"] = getattr(work, "look", look)(home)
    except EventLogError as error:
        told["error"] = {"class": type(error).__name__, "retriable": error.retriable, "text": str(error)}
    except BaseException:
        told["crash"] = traceback.format_exc()
    state.write_text(json.dumps(disk.kept()))
    result.write_text(json.dumps(told))


def pass_gate(gate: Path) -> None:
    """Say that this attempt has arrived, and wait until the gate's lock is given up."""
    gate.with_name(f"{gate.name}-{os.getpid()}").touch()
    with gate.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)


def look(home: Path) -> dict[str, Any]:
    """All that stands below `home`, but for ids that are drawn once and for what names a host."""
    return {"files": _files(home), **_ledger(home / LEDGER), **_target(home / TARGET), "left": _left(home)}


def _files(home: Path) -> dict[str, str]:
    root = home / STAGING
    files = [f for f in sorted(root.rglob("*")) if f.is_file() and f.relative_to(root).parts[0] != ".tmp"]
    return {
        str(f.relative_to(root)): sha256(f.read_bytes()).hexdigest() for f in files if f.name != ".eventlog-root.json"
    }


def _left(home: Path) -> list[str]:
    """What stands beside the three stores: nothing may, but for their own files."""
    own = {"eventlog", LEDGER, TARGET, STAGING}
    found = [p.relative_to(home) for p in home.rglob("*")]
    return sorted(str(p) for p in found if str(p) not in own and not p.is_relative_to(STAGING))


def _ledger(file: Path) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    connection = sqlite3.connect(file)
    try:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall():
            cursor = connection.execute(f'SELECT * FROM "{name}"')
            columns = [d[0] for d in cursor.description]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor]
            tables[name] = sorted((_lasting(name, row) for row in rows), key=str)
    finally:
        connection.close()
    return {"ledger": tables}


def _lasting(table: str, row: dict[str, Any]) -> dict[str, Any]:
    if table == "meta" and row["key"] not in ("schema", "release"):
        return {"key": row["key"]}
    # It counts planning transactions, of which every attempt has its own.
    return {k: v for k, v in row.items() if (table, k) != ("stream", "revision")}


def _target(file: Path) -> dict[str, Any]:
    import duckdb

    with duckdb.connect(str(file), read_only=True) as connection:
        rows = connection.execute("SELECT * FROM t ORDER BY _batch_id, _partition, _offset, _row").fetchall()
        loads = connection.execute("SELECT batch_id, gen, digest, rows FROM _eventlog_load ORDER BY ALL").fetchall()
        owners = connection.execute(
            "SELECT pipeline, output, table_name, comment = 'eventlog:' || table_uuid FROM _eventlog_output o "
            "JOIN duckdb_tables() t USING (table_name)"
        ).fetchall()
        stray = connection.execute("SELECT count(*) FROM _eventlog_load WHERE table_uuid NOT IN "
                                   "(SELECT table_uuid FROM _eventlog_output)").fetchall()  # fmt: skip
    return json.loads(json.dumps({"rows": rows, "loads": loads, "owners": owners, "stray": stray}, default=str))  # type: ignore[no-any-return]
