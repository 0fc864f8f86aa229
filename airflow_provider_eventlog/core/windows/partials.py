# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Partial results: what a slice's rows come to, per key and pane or session fragment, and how parts are merged.

A slice's partial result is a function of its rows alone. Merging goes by an order that is total, so that floating sums
come out the same every time. Integers and decimals are exact in any order. For floating numbers, with n values and
u = 2^-53, a sum is off by at most n * u * sum(|x|), a mean by 2 * n * u times the mean of |x|, and a sum of squared
deviations by n * u * sum(x^2), up to terms in u^2 (Chan, Golub and LeVeque, 1983).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core.errors import WindowDefinitionError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.sqltree import EngineError
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.assign import Placing
from airflow_provider_eventlog.core.windows.frames import listed
from airflow_provider_eventlog.core.windows.plan import WindowPlan, engine_type

if TYPE_CHECKING:
    import duckdb

POSITION = "_partition, _offset, _row"
# Which partitions have contributed: a bit each as far as bits go, which is much faster, and a list of the others.
_BITS = 63
PARTITIONS = (
    "bit_or(_partitions) AS _partitions, list_sort(list_distinct(flatten(list(_further) "
    "FILTER (WHERE _further IS NOT NULL)))) AS _further"
)
NO_PARTITIONS = "CAST(0 AS BIGINT) AS _partitions, CAST(NULL AS INTEGER[]) AS _further"
COUNTED = "bit_count(_partitions) + coalesce(len(_further), 0)"


def partial(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, rows: pa.Table) -> pa.Table:
    """The partial result of one slice, in `plan.partial`, ordered by key and pane or first time.

    rows  in `plan.rows`, ordered by `_partition, _offset, _row`; stamped (`frames.stamp`) where the plan has no time
          column. Raises EventTimeError for rows without a time, WindowDefinitionError for an aggregate that fails on a
          value or whose sum has more than 38 digits.
    """
    times = frames.times(rows, plan.time)
    grid = plan.grid
    if grid is not None:
        placed = frames.with_numbers(rows, _t=times, _pane=Placing(connection, grid).panes(times))
        frames.show(connection, "_typed", placed, dict(plan.columns))
        return _grouped(connection, plan, "_typed", "_pane", "_pane", one_partition(rows))
    frames.show(connection, "_typed", frames.with_numbers(rows, _t=times), dict(plan.columns))
    if plan.session.gap_ms is None:
        return _grouped(connection, plan, "_typed", "min(_t) AS _first, max(_t) AS _last", "", one_partition(rows))
    fragments = f"({fragments_of(plan, '_typed', plan.session.gap_ms * 1000)})"
    # The fragment is not part of what is told, only of what is grouped by.
    bounds = "min(_t) AS _first, max(_t) AS _last"
    return _grouped(connection, plan, fragments, bounds, "_fragment", one_partition(rows))


def one_partition(rows: pa.Table) -> int | None:
    """The partition that all rows are of; None for several, or for none."""
    found = np.unique(frames.number(rows, "_partition"))
    return int(found[0]) if len(found) == 1 else None


def fragments_of(plan: WindowPlan, relation: str, gap_us: int) -> str:
    """SQL of the relation's rows with `_fragment`, numbered per key: rows at most a gap apart share one."""
    keys = listed(plan.by).removesuffix(", ")
    over = f"OVER ({f'PARTITION BY {keys} ' if keys else ''}ORDER BY _t, {POSITION}"
    broken = f"SELECT *, CAST(_t - lag(_t) {over}) > {gap_us} AS BIGINT) AS _broken FROM {relation}"
    return f"SELECT *, coalesce(sum(_broken) {over} ROWS UNBOUNDED PRECEDING), 0) AS _fragment FROM ({broken})"


def _grouped(
    connection: duckdb.DuckDBPyConnection, plan: WindowPlan, relation: str, places: str, group: str, only: int | None
) -> pa.Table:
    keys = listed(plan.by)
    groups = f"{keys}{group}".removesuffix(", ")
    order = f"{keys}{'_pane' if '_pane' in places else '_first'}"
    select = f"{keys}{places}, count(*) AS _rows, {partitions_of(only)}{pieces_of(plan)}"
    grouped = f"GROUP BY {groups}" if groups else "HAVING count(*) > 0"
    return computed(
        connection,
        plan,
        f"SELECT {select} FROM {relation} {grouped} ORDER BY {order}",
        plan.partial,
    )


def partitions_of(only: int | None) -> str:
    """SQL over rows of the partitions that they are of: all of one, or (None) of several."""
    if only is not None:
        bits, further = (1 << only, "NULL") if only < _BITS else (0, f"[{only}]")
        return f"CAST({bits} AS BIGINT) AS _partitions, CAST({further} AS INTEGER[]) AS _further"
    bit = f"CASE WHEN _partition < {_BITS} THEN CAST(1 AS BIGINT) << _partition ELSE 0 END"
    others = f"list(DISTINCT _partition ORDER BY _partition) FILTER (WHERE _partition >= {_BITS})"
    return f"bit_or({bit}) AS _partitions, {others} AS _further"


def pieces_of(plan: WindowPlan) -> str:
    """The end of a select list over rows: all pieces."""
    return "".join(f", {piece.partial()} AS {piece.name}" for piece in plan.pieces)


def merged_pieces(plan: WindowPlan, order: str) -> str:
    """The end of a select list over parts: all pieces, merged in `order`."""
    return "".join(f", {piece.merge(order)} AS {piece.name}" for piece in plan.pieces)


def empty_pieces(plan: WindowPlan) -> str:
    """The end of a select list: the pieces of no rows."""
    return "".join(f", {piece.empty()} AS {piece.name}" for piece in plan.pieces)


def results_again(plan: WindowPlan, alias: str = "") -> str:
    """The end of a select list over rows: the aggregates that have no pieces, as results."""
    fields = [plan.state.field(f"_r{i}") for i in range(len(plan.again))]
    kinds = [engine_type(field) for field in fields]
    return "".join(
        f", CAST({output.sql} AS {kind}) AS {alias}_r{i}"
        for i, (output, kind) in enumerate(zip(plan.again, kinds, strict=True))
    )


def computed(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, query: str, schema: pa.Schema) -> pa.Table:
    """A query's result; what aggregates do to values is the declaration's affair, and said so."""
    try:
        return frames.fetch(connection, query, schema)
    except EngineError() as error:
        raise failed(plan, error) from error


def kept(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, table: str, query: str) -> None:
    """Keep a query's result as a table of the session; raises what `computed` raises."""
    try:
        frames.keep(connection, table, query)
    except EngineError() as error:
        raise failed(plan, error) from error


def failed(plan: WindowPlan, error: Exception) -> WindowDefinitionError:
    """The error for aggregates that fail on a value."""
    return WindowDefinitionError(
        f"Windows {plan.windows.name!r}: an aggregate failed on a value ({printable(str(error), 300)}); use try_cast "
        f"or try(...) where values vary. Aggregates: {', '.join(map(printable, plan.windows.aggregates))}."
    )
