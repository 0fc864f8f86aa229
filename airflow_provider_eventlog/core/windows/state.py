# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Fold state: open windows, as a base and deltas of the keys that folds touched.

A row is one of three kinds: an open window; a session that is final, as long as a row that is not late could still
touch it; the extent of a key's windows, where empty ones are filled. Rows are told apart by key, kind and `_start`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.frames import listed, same
from airflow_provider_eventlog.core.windows.plan import WindowPlan

if TYPE_CHECKING:
    import duckdb

OPEN, CLOSED, EXTENT = 0, 1, 2
# The `_final_at` of what never becomes final.
NEVER = 2**62


def delta_schema(plan: WindowPlan) -> pa.Schema:
    """The schema of deltas: a state's, and `_gone` for rows that leave."""
    return plan.state.append(pa.field("_gone", pa.bool_()))


def empty_state(plan: WindowPlan) -> pa.Table:
    """The state before the first fold."""
    return arrow.empty_table(plan.state)


def apply(
    connection: duckdb.DuckDBPyConnection, plan: WindowPlan, base: pa.Table, deltas: Sequence[pa.Table]
) -> pa.Table:
    """The state that a base and later deltas, oldest first, come to; ordered by key, kind and start.

    It is also what a compaction writes as the next base.
    """
    if not deltas:
        return base
    frames.show(connection, "_base", base)
    frames.show(connection, "_deltas", _numbered(deltas, delta_schema(plan)))
    keys = listed(plan.by)
    newest = f"""
        SELECT * FROM _deltas
        QUALIFY row_number() OVER (PARTITION BY {keys} _kind, _start ORDER BY _order DESC) = 1
    """
    frames.keep(connection, "_newest", newest)
    on = f"{same(plan.by, 'b', 'd')} AND b._kind = d._kind AND b._start = d._start"
    query = f"""
        SELECT b.* FROM _base b ANTI JOIN _newest d ON {on}
        UNION ALL BY NAME SELECT * EXCLUDE (_order, _gone) FROM _newest WHERE NOT _gone
        ORDER BY {keys} _kind, _start
    """
    return frames.fetch(connection, query, plan.state)


def newest_closed(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, closed: Sequence[pa.Table]) -> pa.Table:
    """What stands of the `closed` tables of several folds, oldest first: each final window as it was left last."""
    return apply(connection, plan, empty_state(plan), closed)


def restate(plan: WindowPlan, old: pa.Table) -> pa.Table:
    """A state of an older recipe as one of this plan's: windows and revisions without contents.

    It is what a fold that replaces everything open starts from, after the recipe has changed. Raises KeyError where the
    keys differ.
    """
    columns = []
    for field in plan.state:
        if field.name[:2] in ("_p", "_r") and field.name[2:].isdigit():
            columns.append(pa.chunked_array([pa.nulls(old.num_rows, field.type)]))
        else:
            columns.append(old.column(field.name))
    return pa.Table.from_arrays(columns, schema=plan.state)


def make_delta(
    connection: duckdb.DuckDBPyConnection, plan: WindowPlan, upserts: Sequence[pa.Table], gone: Sequence[pa.Table]
) -> pa.Table:
    """A delta of rows that are there now and of rows that have left, ordered; rows in both are there."""
    schema = delta_schema(plan)
    frames.show(connection, "_stay", frames.concat(upserts, plan.state))
    frames.show(connection, "_leave", frames.concat(gone, plan.state))
    keys = listed(plan.by)
    names = [f.name for f in plan.state if f.name not in (*plan.by, "_kind", "_start")]
    blank = ", ".join(f"CASE WHEN false THEN {name} END AS {name}" for name in names)
    on = f"{same(plan.by, 'l', 's')} AND l._kind = s._kind AND l._start = s._start"
    query = f"""
        SELECT *, false AS _gone FROM _stay UNION ALL BY NAME
        SELECT {keys} _kind, _start, {blank}, true AS _gone
        FROM (SELECT l.* FROM _leave l ANTI JOIN _stay s ON {on}
              QUALIFY row_number() OVER (PARTITION BY {listed(plan.by, "l.")} l._kind, l._start) = 1)
        ORDER BY {keys} _kind, _start
    """
    return frames.fetch(connection, query, schema)


def _numbered(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    order = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    return frames.with_numbers(frames.concat(tables, schema), _order=order)
