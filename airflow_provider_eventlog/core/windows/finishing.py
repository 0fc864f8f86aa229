# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""From merged pieces to the columns of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.windows import exact, frames, pieces
from airflow_provider_eventlog.core.windows.aggregates import Unit
from airflow_provider_eventlog.core.windows.frames import listed
from airflow_provider_eventlog.core.windows.partials import COUNTED, computed
from airflow_provider_eventlog.core.windows.plan import WindowPlan, engine_type

if TYPE_CHECKING:
    import duckdb

_SPREADS = {
    "var_samp": (True, False),
    "var_pop": (False, False),
    "stddev_samp": (True, True),
    "stddev_pop": (False, True),
}
_NUMBERS = ("INT", "DECIMAL", "FLOAT", "DOUBLE")


def finish(
    connection: duckdb.DuckDBPyConnection,
    plan: WindowPlan,
    windows: pa.Table,
    final: npt.NDArray[np.bool_],
    complete: npt.NDArray[np.bool_],
) -> pa.Table:
    """The target's rows for windows in `plan.state`, in `plan.result`, ordered by key and window_start.

    final, complete  one flag a window. Raises WindowDefinitionError where an expression fails on a value.
    """
    table = windows.append_column("_final", arrow.flags(final)).append_column("_complete", arrow.flags(complete))
    for unit in plan.units:
        column = _exactly(unit, table)
        if column is not None:
            table = table.append_column(unit.name, column)
    frames.show(connection, "_merged_windows", table)
    simple = "".join(f", {_simply(unit)} AS {unit.name}" for unit in plan.units if unit.name not in table.column_names)
    columns = []
    again = iter(range(len(plan.again)))
    for output in plan.outputs:
        kind = engine_type(plan.result.field(output.name))
        sql = f"_r{next(again)}" if output.again else output.sql
        sql = f"CAST({sql} AS {kind})"
        if plan.windows.fill == "zero" and any(word in kind for word in _NUMBERS) and not kind.endswith("]"):
            sql = f"CASE WHEN _rows = 0 THEN coalesce({sql}, 0) ELSE {sql} END"
        columns.append(f"{sql} AS {quote(output.name)}")
    keys = listed(plan.by)
    query = f"""
        SELECT {keys} make_timestamptz(_start) AS window_start, make_timestamptz(_end) AS window_end,
               {", ".join(columns)}, _rows, CAST({COUNTED} AS INTEGER) AS _partitions, _revision, _final,
               _complete
        FROM (SELECT *{simple} FROM _merged_windows) ORDER BY {keys} _start
    """
    return computed(connection, plan, query, plan.result)


def _simply(unit: Unit) -> str:
    """SQL of a unit over its pieces."""
    at = unit.pieces
    if unit.function == "avg":
        return f"{at['fsum']} / nullif({at['count']}, 0)"
    if unit.function in _SPREADS:
        sample, root = _SPREADS[unit.function]
        m = at["moments"]
        value = f"CASE WHEN {m}.n > {int(sample)} THEN {m}.m2 / ({m}.n - {int(sample)}) END"
        return f"sqrt({value})" if root else value
    name = next(iter(at.values()))
    if unit.function in ("first", "last"):
        name = f"{name}.v"
    return f"CAST({name} AS {unit.result})"


def _exactly(unit: Unit, table: pa.Table) -> pa.Array | None:
    """The unit's column where integers are to be divided; None where SQL does."""
    columns = {what: exact.whole(table.column(name)) for what, name in unit.pieces.items()}
    if unit.function == "avg" and "sum" in columns:
        if unit.digits is None:
            return exact.mean(columns["sum"], columns["count"])
        more = unit.digits - pieces.scale(unit.kind)
        return exact.mean_decimal(columns["sum"], columns["count"], more, unit.digits)
    if unit.function not in _SPREADS or "moments" in columns:
        return None
    if "square" in columns:
        squares = exact.unscaled(columns["square"])
    else:
        high, cross, low = (exact.unscaled(columns[what]).astype(object) for what in ("high", "cross", "low"))
        squares = (high * pieces.HALF + 2 * cross) * pieces.HALF + low
    sample, root = _SPREADS[unit.function]
    scale = pieces.scale(unit.kind)
    return exact.variance(columns["count"], columns["sum"], squares, scale, sample=sample, root=root)
