"""A fold log in memory: events cut into batches and slices, folded by the package, and the target that results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import lookups, state, watermark
from airflow_provider_eventlog.core.windows.fold import Arrival, Folded, Past, fold
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.core.windows.plan import WindowPlan, analyze_windows
from airflow_provider_eventlog.declare.outputs import DuckDB
from airflow_provider_eventlog.declare.windows import Hopping, Session, Tumbling, Windows
from tests.property.windows.reference import Event

AGGREGATES = {
    "n": "count(*)",
    "nulls": "count_null(i)",
    "s": "sum(i)",
    "m": "avg(i)",
    "v": "variance(i)",
    "lo": "min(d)",
    "hi": "max(d)",
    "md": "round(avg(d), 1)",
    "f1": "first(i)",
    "l1": "last(kind)",
    "sf": "sum(f)",
    "vf": "var_samp(f)",
}
# A few at a time, since what an example costs grows with them.
SHARES = [
    {name: AGGREGATES[name] for name in ("n", "s", "m", "sf")},
    {name: AGGREGATES[name] for name in ("nulls", "v", "md", "lo")},
    {name: AGGREGATES[name] for name in ("hi", "f1", "l1", "vf")},
]
SCHEMA = pa.schema(
    [
        ("k", pa.string()),
        ("i", pa.int64()),
        ("d", pa.decimal128(12, 2)),
        ("f", pa.float64()),
        ("kind", pa.string()),
        ("ts", pa.timestamp("us", "UTC")),
        ("_partition", pa.int32()),
        ("_offset", pa.int64()),
        ("_row", pa.int32()),
    ]
)


@contextmanager
def planned(
    window: Tumbling | Hopping | Session, **more: Any
) -> Iterator[tuple[duckdb.DuckDBPyConnection, WindowPlan]]:
    """A session with the plan of an output."""
    with session(threads=1) as connection:
        yield connection, plan_of(connection, window, **more)


def plan_of(connection: duckdb.DuckDBPyConnection, window: Tumbling | Hopping | Session, **more: Any) -> WindowPlan:
    """The plan of an output over `SCHEMA`."""
    options = {"by": ["k"], "aggregates": AGGREGATES, "target": DuckDB("w.duckdb", table="w"), **more}
    return analyze_windows(connection, Windows(window, **options), SCHEMA, "ts")


def table(events: Sequence[Event]) -> pa.Table:
    """Typed rows, in the order of their positions."""
    rows = sorted(events, key=lambda e: (e.partition, e.offset))
    columns: list[list[Any]] = [
        [e.key for e in rows],
        [e.i for e in rows],
        [e.d for e in rows],
        [e.f for e in rows],
        [e.kind for e in rows],
        [e.time for e in rows],
        [e.partition for e in rows],
        [e.offset for e in rows],
        [0 for _ in rows],
    ]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


@dataclass(frozen=True)
class Batch:
    """A chain batch: its slices in order, and the instant of its end (ms)."""

    slices: tuple[tuple[Event, ...], ...]
    instant: int | None = None


@dataclass
class World:
    """The target after each fold, and what went late."""

    plan: WindowPlan
    target: dict[tuple[Any, int], dict[str, Any]] = field(default_factory=dict)
    late: list[dict[str, Any]] = field(default_factory=list)
    digests: list[tuple[str, ...]] = field(default_factory=list)
    folds: list[Folded] = field(default_factory=list)
    watermarks: list[int | None] = field(default_factory=list)
    state: pa.Table = None
    states: list[int] = field(default_factory=list)


def start(row: dict[str, Any]) -> int:
    """The beginning of a published or late row's window in microseconds."""
    return -1 if row["at"] is None else int(row["at"])


def run(
    connection: duckdb.DuckDBPyConnection, plan: WindowPlan, batches: Sequence[Batch], *, landing: int = 0
) -> World:
    """Fold the batches one after another.

    landing  changes what must not matter: the order in which partial results are made, and how tables are chunked
    """
    world = World(plan, state=state.empty_state(plan))
    made: dict[tuple[int, int], pa.Table] = {}
    order = [(b, s) for b, batch in enumerate(batches) for s in range(len(batch.slices))]
    for b, s in reversed(order) if landing else order:
        made[b, s] = partial(connection, plan, chunked(table(batches[b].slices[s]), landing))
    mark: int | None = None
    deltas: list[pa.Table] = []
    closed: list[pa.Table] = []
    before: list[Event] = []
    lost: list[pa.Table] = []
    for b, batch in enumerate(batches):
        arrived = [event for one in batch.slices for event in one]
        after = advance(plan, mark, batch)

        def old_rows(wanted: pa.Table, events: tuple[Event, ...] = tuple(before)) -> pa.Table:
            rows = table(events)
            if plan.grid is not None or not lost:
                return rows
            return lookups.without_late(connection, rows, pa.concat_tables(lost))

        def old_windows(wanted: pa.Table) -> pa.Table:
            return state.newest_closed(connection, plan, closed)

        result = fold(
            connection,
            plan,
            world.state,
            Arrival([made[b, s] for s in range(len(batch.slices))], lambda wanted, a=arrived: table(a)),  # type: ignore[misc]
            before=mark,
            after=after,
            past=Past(old_rows, old_windows),
        )
        deltas.append(result.delta)
        if landing and b % 2:
            world.state = state.apply(connection, plan, state.empty_state(plan), deltas)
        else:
            world.state = state.apply(connection, plan, world.state, [result.delta])
        apply(world, result)
        closed.append(result.closed)
        lost.append(result.late)
        before += arrived
        mark = after
        world.watermarks.append(mark)
        world.states.append(world.state.num_rows)
        tables = (result.delta, result.upserts, result.deletes, result.late, result.closed, world.state)
        world.digests.append(tuple(table_digest(t) for t in tables))
    return world


def advance(plan: WindowPlan, mark: int | None, batch: Batch) -> int | None:
    """The watermark after a batch."""
    seen = [watermark.look(table(one), "ts", one[0].partition, len(one), 2**50) for one in batch.slices if one]
    return watermark.advance(mark, seen, plan.windows.disorder_ms, instant=batch.instant, chain=True)


def apply(world: World, result: Folded) -> None:
    """Apply a change-set to the target, as one that is keyed by window."""
    for row in result.deletes.cast(_plain(result.deletes.schema)).to_pylist():
        assert not world.target.pop((row["k"], row["window_start"]))["_final"] or world.plan.amends
    for row in result.upserts.cast(_plain(result.upserts.schema)).to_pylist():
        key = (row.pop("k"), row.pop("window_start"))
        known = world.target.get(key)
        if known is not None and known["_final"]:
            assert world.plan.amends, f"the final window {key} has changed"
            assert row["_revision"] > known["_revision"]
        world.target[key] = row
    world.late += result.late.cast(_plain(result.late.schema)).to_pylist()
    world.folds.append(result)
    counts = result.counts
    assert counts["rows"] == counts["placed"] + counts["late"] + counts["outside"]


def _plain(schema: pa.Schema) -> pa.Schema:
    """Times as microseconds."""
    return pa.schema([pa.field(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in schema])


def chunked(rows: pa.Table, size: int) -> pa.Table:
    """The rows in chunks of `size`; 0 for one chunk."""
    return pa.Table.from_batches(rows.to_batches(max_chunksize=size), rows.schema) if size else rows


def exactly(value: Any) -> Any:
    """Decimals of equal value as equal text."""
    return value.normalize() if isinstance(value, Decimal) else value
