"""`python -m bench.windows`: folding 3,000,000 typed rows, decoding as many, and one more batch after a long history.

Each way runs several times in turns with what a careful user would write instead; the median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.arrow import fixed
from airflow_provider_eventlog.core.decoding import Decoder
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import state
from airflow_provider_eventlog.core.windows.fold import Arrival, fold, nothing
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.core.windows.plan import analyze_windows
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Stream, Tumbling, Windows
from tests.support.listlog import FIRST_MS, ListLog, engine_over

ROWS, SLICES, KEYS = 3_000_000, 6, 8
AGGREGATES = {"n": "count(*)", "s": "sum(v)", "low": "min(v)", "high": "max(v)", "mean": "avg(v)"}
FOLD_S, DECODED_PER_S, FACTOR = 1.0, 1_200_000, 1.5
HISTORY = (10, 100, 1000)


def main() -> None:
    """Measure and print; exits 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.windows", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--history", type=int, nargs="*", default=HISTORY, help="batches before the one that is timed")
    args = parser.parse_args()
    kept = [_folding(args.rows, args.rounds), _decoding(args.rows, args.rounds)]
    if args.history:
        kept.append(_history(args.history))
    sys.exit(0 if all(kept) else 1)


def _seconds(rounds: int, *ways: Callable[[], object]) -> list[float]:
    """The median of each way; they take turns at going first."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for index in range(len(ways))[:: 1 if turn % 2 == 0 else -1]:
            began = time.perf_counter()
            ways[index]()
            times[index].append(time.perf_counter() - began)
    return [statistics.median(one) for one in times]


def _typed(rows: int) -> pa.Table:
    """A day of events of eight keys, in order of time with some disorder."""
    chance = np.random.default_rng(1)
    at = FIRST_MS * 1000 + np.sort(chance.integers(0, 86_400_000_000, rows)) + chance.integers(-(10**6), 10**6, rows)
    columns = {
        "k": pa.DictionaryArray.from_arrays(
            fixed(chance.integers(0, KEYS, rows).astype(np.int32), pa.int32()), [f"key {i}" for i in range(KEYS)]
        ).cast(pa.string()),
        "v": fixed(chance.integers(0, 1000, rows), pa.int64()),
        "ts": fixed(at, pa.timestamp("us", "UTC")),
        "_partition": fixed(np.zeros(rows, np.int32), pa.int32()),
        "_offset": fixed(np.arange(rows), pa.int64()),
        "_row": fixed(np.zeros(rows, np.int32), pa.int32()),
    }
    return pa.table(columns)


def _folding(rows: int, rounds: int) -> bool:
    typed = _typed(rows)
    size = -(-rows // SLICES)
    pieces = [typed.slice(start, size) for start in range(0, rows, size)]
    declared = Windows(Tumbling("1 minute"), by=["k"], aggregates=AGGREGATES, target=DuckDB("x.duckdb", table="x"))
    sql = ", ".join(f"{text} AS {name}" for name, text in AGGREGATES.items())

    def ours() -> None:
        with session(threads=1) as connection:
            plan = analyze_windows(connection, declared, typed.schema, "ts")
            parts = [partial(connection, plan, piece) for piece in pieces]
            arrival = Arrival(parts, nothing)
            fold(connection, plan, state.empty_state(plan), arrival, before=None, after=FIRST_MS + 80_000_000)

    def bare() -> None:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 2")
            connection.register("typed", typed)
            connection.sql(
                f"SELECT k, time_bucket(INTERVAL 1 minute, ts) AS w, {sql} FROM typed GROUP BY ALL"
            ).to_arrow_table()

    took, alone = _seconds(rounds, ours, bare)
    print(
        f"fold {rows:,} typed rows by key and minute: {took:.2f} s, the bare aggregate {alone:.2f} s; bound {FOLD_S} s"
    )
    return took < FOLD_S


def _decoding(rows: int, rounds: int) -> bool:
    texts: list[bytes | None] = [
        json.dumps({"k": f"key {i % KEYS}", "v": i % 1000, "ts": "2024-01-01T00:00:00Z"}).encode()
        for i in range(10_000)
    ]
    with tempfile.TemporaryDirectory(prefix="bench-windows-"):
        log = ListLog(texts * (rows // len(texts)))
        raw = pa.Table.from_batches(_raw(log))

    def ours() -> None:
        with session() as connection:
            decoder = Decoder(Json({"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"}), connection)
            for start in range(0, raw.num_rows, 131_072):
                decoder.decode(raw.slice(start, 131_072))

    (took,) = _seconds(rounds, ours)
    print(f"decode {raw.num_rows:,} rows of JSON: {raw.num_rows / took:,.0f} a second; at least {DECODED_PER_S:,}")
    return bool(raw.num_rows / took >= DECODED_PER_S)


def _raw(log: ListLog) -> list[pa.RecordBatch]:
    from airflow_provider_eventlog.core.offsets import OffsetRange

    return list(log.read(OffsetRange(0, 0, len(log.values[0]))))


def _history(history: list[int]) -> bool:
    """A batch of 100,000 rows into the open window of a year, after so many batches before it."""
    added = 100_000
    stream = Stream("orders", name="s", start="earliest", event_time="ts",
                    decode=Json({"k": "BIGINT", "v": "BIGINT", "ts": "TIMESTAMPTZ"}))  # fmt: skip
    year = Windows(Tumbling("1 year"), by=["k"], aggregates=AGGREGATES, target=DuckDB("x.duckdb", table="x"))
    pipeline = Pipeline("p", stream=stream, outputs=[year])
    took = []
    with tempfile.TemporaryDirectory(prefix="bench-windows-") as folder:
        log, ticks = ListLog([]), iter(range(10**9))
        with engine_over(log, Path(folder), lambda: FIRST_MS + 10**10 + next(ticks)) as engine:
            done = 0
            for before in history:
                while done < before:
                    _send(log, 100)
                    stages.run(engine, pipeline, RunRequest("since_last"), f"r{done}")
                    done += 1
                _send(log, added)
                key = f"timed {before}"
                made = stages.plan(engine, pipeline, RunRequest("since_last"), key)
                for group in range(len(made.groups)):
                    stages.land(engine, pipeline, key, group)
                    stages.transform(engine, pipeline, key, group)
                stages.validate(engine, pipeline, key)
                began = time.perf_counter()
                stages.load(engine, pipeline, key)
                took.append(time.perf_counter() - began)
                done += 1
                began = time.perf_counter()
                _recompute(engine, Path(folder))
                again = time.perf_counter() - began
                print(f"add {added:,} rows after {before:,} batches: {took[-1]:.3f} s, a full recompute {again:.3f} s")
    ratio = max(took) / min(took)
    print(f"the dearest is {ratio:.2f} times the cheapest; at most {FACTOR}")
    return ratio <= FACTOR


def _send(log: ListLog, count: int) -> None:
    log.values[0] += [json.dumps({"k": i % KEYS, "v": i, "ts": "2023-06-01T00:00:00Z"}).encode() for i in range(count)]


def _recompute(engine: object, folder: Path) -> None:
    sql = ", ".join(f"{text} AS {name}" for name, text in AGGREGATES.items())
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        files = [str(f) for f in folder.rglob("typed/*/*.parquet")]
        relation = connection.read_parquet(files)
        connection.register("typed", relation.to_arrow_table())
        connection.sql(f"SELECT k, time_bucket(INTERVAL 1 year, ts) AS w, {sql} FROM typed GROUP BY ALL").fetchall()


if __name__ == "__main__":
    main()
