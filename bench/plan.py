"""`python -m bench.plan`: a plan over 1,000 partitions of a real broker, and plans over a chain of 10,000 batches x 16.

Of the long chain every way to plan is timed as a whole, and each statement that it sends to its ledger by itself.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine, open_engine
from airflow_provider_eventlog.core.forecast import forecast
from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.reporting import batches, status
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging.local import LocalStaging
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from airflow_provider_eventlog.sensors.offsets import baseline
from tests.support import longchain
from tests.support.longchain import RECORDS, EvenLog, instant

WIDE, WIDE_BOUND_S = 1_000, 2.0
BATCHES, PARTITIONS, QUERY_BOUND_S = 10_000, 16, 0.050


def main() -> int:
    """Print the figures; 1 if one of them misses its bound."""
    kept = [wide()]
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        kept.append(long("SQLite", f"{folder}/ledger.sqlite", Path(folder) / "a"))
        from tests.support.postgres import running

        with running() as server:
            kept.append(long("PostgreSQL", server.new_database(), Path(folder) / "b"))
    return 0 if all(kept) else 1


def wide() -> bool:
    """Plans over a topic of 1,000 partitions on an embedded broker."""
    from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
    from airflow_provider_eventlog.core.kafka.producer import Record, produce
    from airflow_provider_eventlog.devkafka import cluster

    begun = int(time.time() * 1000) - 3_600_000
    pipeline = Pipeline(
        "wide", stream=Stream("wide", start="interval"), decode=Raw(), outputs=[Rows(DuckDB("x.duckdb", table="t"))]
    )
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        with cluster.start(1, data_dir=Path(folder) / "kafka") as kafka:
            settings = {"bootstrap.servers": kafka.bootstrap_servers}
            TopicAdmin(settings).create("wide", WIDE)
            records = [Record(b"v", None, p, begun + 60_000 * n) for p in range(WIDE) for n in range(10)]
            produce("wide", records, settings)
            print(f"{WIDE} partitions on one broker, seconds of wall time (bound {WIDE_BOUND_S:g}):")
            slowest = 0.0
            with open_engine(pipeline.stream, client=settings, home=Path(folder) / "home") as engine:
                stages.check(pipeline)
                engine.source(pipeline.stream).describe()
                for name, request in (
                    ("first interval", _interval(begun, begun + 120_000)),
                    ("next interval", _interval(begun + 120_000, begun + 240_000)),
                    ("since last", RunRequest("since_last")),
                    ("the same run again", RunRequest("since_last")),
                ):
                    key = "again" if "again" in name or name == "since last" else name
                    took, made = _timed(partial(stages.plan, engine, pipeline, request, key))
                    offsets = sum(p.batch.length for p in made.batches)
                    print(f"  {name:32} {took:7.3f}   {offsets:,} offsets in {len(made.groups)} groups")
                    slowest = max(slowest, took)
    return slowest < WIDE_BOUND_S


def long(kind: str, address: str, folder: Path) -> bool:
    """Plans and questions over a ledger with a long chain."""
    ledger = open_ledger(address)
    took, _ = _timed(lambda: longchain.fill(ledger, BATCHES, PARTITIONS))
    print(f"\n{BATCHES:,} batches x {PARTITIONS} partitions in {kind} (filled in {took:.1f} s), milliseconds:")
    log = EvenLog(PARTITIONS, (BATCHES + 10) * RECORDS)

    def no_target(_: object) -> Any:
        raise AssertionError("planning opens no target")

    now = instant(BATCHES + 10)
    engine = Engine(ledger, LocalStaging(folder), lambda _: log, no_target, clock=lambda: now)
    stages.check(longchain.pipeline())
    slowest = 0.0
    print(f"  {'plan or command':32} {'whole':>8} {'statements':>11} {'slowest':>8}")
    for name, plan in _ways(engine, ledger, log):
        with _statements(ledger) as times:
            took, _ = _timed(plan)
        print(f"  {name:32} {1000 * took:8.1f} {len(times):11} {1000 * max(times):8.2f}")
        slowest = max(slowest, *times)
    print(f"  {'question':32} {'whole':>8}")
    for name, ask in _questions(ledger):
        took = min(_timed(ask)[0] for _ in range(3))
        print(f"  {name:32} {1000 * took:8.1f}")
        slowest = max(slowest, took)
    print(
        f"  slowest {1000 * slowest:.1f}, bound {1000 * QUERY_BOUND_S:g}; what reads the whole chain, without a bound:"
    )
    for name, ask in (
        ("batches", lambda: ledger.batches("long")),
        ("cuts", lambda: ledger.cuts("long", 1)),
        ("coverage", lambda: ledger.coverage("long", 1)),
    ):
        print(f"  {name:32} {1000 * _timed(ask)[0]:8.1f}")
    ledger.close()
    return slowest < QUERY_BOUND_S


def _ways(engine: Engine, ledger: SqlLedger, log: EvenLog) -> Iterator[tuple[str, Callable[[], object]]]:
    half = BATCHES // 2
    asked: list[tuple[str, RunRequest, str]] = [
        ("next interval", _interval(instant(BATCHES), instant(BATCHES + 1)), "p"),
        ("next interval, cleared", _interval(instant(BATCHES), instant(BATCHES + 1)), "p"),
        ("old interval", _interval(instant(half), instant(half + 1)), "p"),
        ("old offsets", _offsets(half * RECORDS + 7, half * RECORDS + 9), "p"),
        ("since last", RunRequest("since_last"), "p"),
        ("since last, a late pipeline", RunRequest("since_last", max_batches=1), "late"),
    ]
    for name, request, of in asked:
        key = name.removesuffix(", cleared")
        yield name, partial(stages.plan, engine, longchain.pipeline(of), request, key)

    def no_source() -> Any:
        raise AssertionError("the ledger knows enough")

    yield "sensor", lambda: baseline(ledger, no_source, longchain.pipeline().stream, longchain.pipeline())
    yield "status", lambda: status(ledger)
    yield "batches --batch", lambda: batches(ledger, "p", longchain.batch(half, PARTITIONS).batch_id)
    yield "forecast behind a plan", lambda: forecast(ledger, log, "long", instant(BATCHES + 10), exact=False)


def _questions(ledger: SqlLedger) -> Iterator[tuple[str, Callable[[], object]]]:
    one, last = longchain.batch(BATCHES // 2, PARTITIONS), BATCHES - 1

    def planning(ask: Callable[[Any], object]) -> Callable[[], object]:
        def asked() -> None:
            with ledger.planning("long", None) as tx:
                ask(tx)

        return asked

    yield "batch", lambda: ledger.batch(one.batch_id)
    yield "bounds", lambda: ledger.bounds(one.batch_id)
    yield "slices of a batch", lambda: ledger.slices(one.batch_id)
    yield "generations of a batch", lambda: ledger.generations("p", one.batch_id)
    yield "run plan", lambda: ledger.run_plan("r7", "p")
    yield "newest 20 runs", lambda: ledger.runs("p", 20)
    yield "unwritten decisions", lambda: ledger.unwritten("long")
    yield "unlanded", lambda: ledger.unlanded("long", 1, dict.fromkeys(range(PARTITIONS), BATCHES * RECORDS))
    yield "newest cut", planning(lambda tx: tx.newest_cut(1))
    yield "neighbouring cuts", planning(lambda tx: tx.neighbours(1, instant(last) + 1))
    yield "segments of an interval", planning(lambda tx: tx.segments(1, instant(last - 2), instant(last)))
    yield "owners of offsets", planning(lambda tx: tx.owners(1, one.ranges))
    yield "covered of offsets", planning(lambda tx: tx.covered(1, one.ranges))
    yield "waiting", planning(lambda tx: tx.waiting("p", 1, 10))
    yield "waiting, all is new, counted", planning(lambda tx: tx.waiting("new", 1, 10))


@contextmanager
def _statements(ledger: SqlLedger) -> Iterator[list[float]]:
    """Seconds of each statement until the database has answered."""
    begun: list[float] = []
    times: list[float] = []

    def before(*_: object) -> None:
        begun.append(time.perf_counter())

    def after(*_: object) -> None:
        times.append(time.perf_counter() - begun.pop())

    event.listen(ledger.engine, "before_cursor_execute", before)
    event.listen(ledger.engine, "after_cursor_execute", after)
    yield times
    event.remove(ledger.engine, "before_cursor_execute", before)
    event.remove(ledger.engine, "after_cursor_execute", after)


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = do()
    return time.perf_counter() - began, result


def _interval(start: int, end: int) -> RunRequest:
    return RunRequest("interval", interval=(start, end))


def _offsets(start: int, end: int) -> RunRequest:
    return RunRequest("offsets", ranges=tuple(OffsetRange(p, start, end) for p in range(PARTITIONS)))


if __name__ == "__main__":
    sys.exit(main())
