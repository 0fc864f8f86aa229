"""A small fold log over typed rows, for tests that look at one thing at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.core.windows import frames, lookups, state
from airflow_provider_eventlog.core.windows.fold import Arrival, Folded, Past, fold
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.core.windows.plan import WindowPlan, analyze_windows
from airflow_provider_eventlog.declare.outputs import DuckDB
from airflow_provider_eventlog.declare.windows import Hopping, Session, Tumbling, Windows

START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = {
    "k": ("VARCHAR", pa.string()),
    "v": ("BIGINT", pa.int64()),
    "d": ("DECIMAL(12,2)", pa.decimal128(12, 2)),
    "f": ("DOUBLE", pa.float64()),
    "kind": ("VARCHAR", pa.string()),
    "id": ("UUID", pa.string()),
    "ts": ("TIMESTAMPTZ", pa.timestamp("us", "UTC")),
    "_partition": ("INTEGER", pa.int32()),
    "_offset": ("BIGINT", pa.int64()),
    "_row": ("INTEGER", pa.int32()),
}
SCHEMA = pa.schema([pa.field(n, kind, metadata={TYPE_KEY: e.encode()}) for n, (e, kind) in COLUMNS.items()])
Row = Mapping[str, Any]


def at(seconds: float) -> datetime:
    """An instant so many seconds after the tests' beginning."""
    return START + timedelta(seconds=seconds)


def ms(seconds: float) -> int:
    """The same in milliseconds since 1970 UTC."""
    return (at(seconds) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def table(rows: Sequence[Row], first: int = 0, partition: int = 0) -> pa.Table:
    """Typed rows; `t` is the time in seconds after the beginning, offsets count from `first`."""
    full = [
        {
            **dict.fromkeys(COLUMNS),
            **row,
            "ts": row.get("ts", at(row.get("t", 0))),
            "d": None if row.get("d") is None else Decimal(row["d"]),
            "_partition": row.get("_partition", partition),
            "_offset": row.get("_offset", first + number),
            "_row": row.get("_row", 0),
        }
        for number, row in enumerate(rows)
    ]
    arrays = [pa.array([row[f.name] for row in full], f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


class Log:
    """An output's windows in memory: state, target, archive, and the rows that were folded."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, plan: WindowPlan) -> None:
        self.connection, self.plan = connection, plan
        self.state = state.empty_state(plan)
        self.target: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.late: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}
        self.asked: list[str] = []
        self.batches: list[pa.Table] = []
        self.partials: list[pa.Table] = []
        self._lost: list[pa.Table] = []
        self._closed: list[pa.Table] = []
        self._mark: int | None = None

    def add(self, rows: Sequence[Row] | pa.Table, until: float | None = None, **more: Any) -> Folded:
        """Fold rows, and let the watermark pass `until` (seconds after the beginning)."""
        arrived = rows if isinstance(rows, pa.Table) else table(rows, first=100 * len(self.batches))
        part = partial(self.connection, self.plan, arrived)
        result = self._fold(Arrival([part], lambda wanted: self._ask("arrival", arrived)), until, **more)
        self.batches.append(arrived)
        self.partials.append(part)
        return result

    def correct(self, number: int, rows: Sequence[Row], **more: Any) -> Folded:
        """Replace the rows of an earlier batch."""
        corrected = table(rows, first=100 * number)
        part = partial(self.connection, self.plan, corrected)
        touched = [self.partials[number], part]
        self.batches[number], self.partials[number] = corrected, part
        every = pa.concat_tables(self.batches)
        arrival = Arrival(self.partials, lambda wanted: self._ask("arrival", every), touched)
        return self._fold(arrival, None, **more)

    def _fold(self, arrival: Arrival, until: float | None, **more: Any) -> Folded:
        after = self._mark if until is None else ms(until)
        past = Past(lambda wanted: self._ask("rows", self._rows()), lambda wanted: self._ask("closed", self._archive()))
        result = fold(
            self.connection, self.plan, self.state, arrival, before=self._mark, after=after, past=past, **more
        )
        self.state = state.apply(self.connection, self.plan, self.state, [result.delta])
        self._mark = after
        self.counts = result.counts
        self._closed.append(result.closed)
        self._lost.append(result.late)
        self.late += result.late.to_pylist()
        for row in result.deletes.to_pylist():
            del self.target[tuple(row[name] for name in self.plan.key)]
        for row in result.upserts.to_pylist():
            self.target[tuple(row[name] for name in self.plan.key)] = row
        return result

    def _rows(self) -> pa.Table:
        rows = pa.concat_tables([table([]), *self.batches])
        return lookups.without_late(
            self.connection,
            rows,
            pa.concat_tables([table([]).select(lookups.POSITIONS), *(t.select(lookups.POSITIONS) for t in self._lost)]),
        )

    def _archive(self) -> pa.Table:
        return state.newest_closed(self.connection, self.plan, self._closed)

    def _ask(self, what: str, answer: pa.Table) -> pa.Table:
        self.asked.append(what)
        return answer

    def column(self, name: str) -> list[Any]:
        """A column of the target, by key and time."""
        order = sorted(self.target, key=lambda key: [(part is not None, part) for part in key])
        return [self.target[key][name] for key in order]


@contextmanager
def log(window: Tumbling | Hopping | Session, **more: Any) -> Iterator[Log]:
    """An empty log of an output that counts and sums, unless told otherwise."""
    with session(threads=1) as connection:
        yield Log(connection, plan_of(connection, window, **more))


def plan_of(connection: duckdb.DuckDBPyConnection, window: Tumbling | Hopping | Session, **more: Any) -> WindowPlan:
    """The plan of an output over `SCHEMA`."""
    options = {"by": ["k"], "aggregates": {"n": "count(*)", "s": "sum(v)"}, "target": DuckDB("w.db", table="w"), **more}
    return analyze_windows(connection, Windows(window, **options), SCHEMA, "ts")


def result_of(aggregates: Mapping[str, str], rows: Sequence[Row]) -> dict[str, Any]:
    """The aggregates of rows of one key and one window."""
    with log(Tumbling("1 day"), aggregates=aggregates) as made:
        made.add(rows)
        (row,) = made.target.values()
        return row


__all__ = ["COLUMNS", "SCHEMA", "Log", "at", "frames", "log", "ms", "plan_of", "result_of", "table"]
