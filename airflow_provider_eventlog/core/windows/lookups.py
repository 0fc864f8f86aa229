# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Rows of earlier and present generations, where state and partial results do not suffice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.plan import WindowPlan

if TYPE_CHECKING:
    import duckdb

POSITIONS = ("_partition", "_offset", "_row")


def ranges(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, query: str) -> pa.Table:
    """The keys and times of a query with the columns `_from` and `_until`, one range a key."""
    keys = frames.listed(plan.by)
    grouped = f"GROUP BY {keys}".removesuffix(", ") if keys else "HAVING count(*) > 0"
    order = f"ORDER BY {keys}".removesuffix(", ") if keys else ""
    select = f"SELECT {keys} min(_from) AS _from, max(_until) AS _until FROM ({query}) {grouped} {order}"
    return frames.fetch(connection, select)


def gather(
    connection: duckdb.DuckDBPyConnection, plan: WindowPlan, view: str, arrived: pa.Table, earlier: pa.Table | None
) -> pa.Table:
    """Show typed rows as `view` with `_t` and `_new`; the table comes back for columns to be added."""
    tables, times, new = [], [], []
    for found, is_new in ((earlier, False), (arrived, True)):
        if found is not None and found.num_rows:
            tables.append(frames.fit(found, plan.rows))
            times.append(frames.times(found, plan.time))
            new.append(np.full(found.num_rows, is_new))
    every: npt.NDArray[np.int64] = np.concatenate(times) if times else np.empty(0, np.int64)
    flags: npt.NDArray[np.bool_] = np.concatenate(new) if new else np.empty(0, np.bool_)
    table = frames.with_numbers(frames.concat(tables, plan.rows), _t=every).append_column("_new", arrow.flags(flags))
    frames.show(connection, view, table, dict(plan.columns))
    return table


def without_late(connection: duckdb.DuckDBPyConnection, rows: pa.Table, late: pa.Table) -> pa.Table:
    """Typed rows without those that a late output has: what `Past.rows` of sessions is to give.

    Both have `_partition, _offset, _row`; the order of the rows stays.
    """
    if not late.num_rows or not rows.num_rows:
        return rows
    order = np.arange(rows.num_rows)
    frames.show(connection, "_all_rows", frames.with_numbers(rows.select(POSITIONS), _order=order))
    frames.show(connection, "_late_rows", late.select(POSITIONS))
    on = " AND ".join(f"r.{name} = l.{name}" for name in POSITIONS)
    query = f"SELECT _order FROM _all_rows r ANTI JOIN _late_rows l ON {on} ORDER BY _order"
    stay = np.zeros(rows.num_rows, np.bool_)
    stay[frames.number(frames.fetch(connection, query), "_order")] = True
    return rows.filter(arrow.flags(stay))
