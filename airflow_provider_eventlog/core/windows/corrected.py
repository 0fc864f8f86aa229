# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and constants
"""Late rows of a batch whose generation was corrected: final windows stay, and what they do not hold is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.windows import frames, lookups
from airflow_provider_eventlog.core.windows.assign import Placing
from airflow_provider_eventlog.core.windows.fold import LATE
from airflow_provider_eventlog.core.windows.frames import listed
from airflow_provider_eventlog.core.windows.partials import NO_PARTITIONS, computed, empty_pieces
from airflow_provider_eventlog.core.windows.plan import WindowPlan, engine_type
from airflow_provider_eventlog.core.windows.state import CLOSED, NEVER
from airflow_provider_eventlog.declare.windows_sizes import Grid

if TYPE_CHECKING:
    import duckdb

KEY = (*lookups.POSITIONS, "_window_start")


@dataclass(frozen=True, slots=True)
class LateAgain:
    """What a correction does to the late output.

    late    rows with their windows (`plan.late`) that are late now and were not, or have other values
    gone    keys (`KEY`) of what is late no more: the corrected generation does not have it
    counts  corrected_late: rows that are late now, were not, and are in no open window; late_pairs: by how many pairs
            of row and window the late output grows; late_gone: `gone`
    """

    late: pa.Table
    gone: pa.Table
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """Rows by which an earlier generation stands in windows that became final before the next one entered.

    rows      typed rows, stamped if the plan has no time column; for sessions without those that were late then
    since_us, until_us   the watermark when the generation and when the next one entered (since None: before all times)
    sessions  of sessions: keys, `window_start` and `window_end` of those that became final between the two
    """

    rows: pa.Table
    since_us: int | None
    until_us: int
    sessions: pa.Table | None = None


def late_again(
    connection: duckdb.DuckDBPyConnection,
    plan: WindowPlan,
    *,
    made: pa.Table,
    held: Sequence[Held],
    known: pa.Table,
    left: pa.Table | None,
    before_us: int,
) -> LateAgain:
    """Compare what a corrected generation should have in final windows with what these hold.

    made       typed rows of the corrected generation, stamped if the plan has no time column
    held       what final windows hold of the batch, by the generations that entered before
    known      what of the replaced generation is in the late output (`plan.late`)
    left       for sessions: positions of rows that the fold found no session for; None for fixed and sliding windows
    before_us  the watermark of the fold

    A row that a final window holds, told by its position, is not late, whatever became of its values, and whichever
    generation brought it.
    """
    frames.show(connection, "_known_late", known, dict(plan.columns))
    lookups.gather(connection, plan, "_made", made, None)
    if plan.grid is not None:
        _show_held(connection, plan, [_held_pairs(connection, plan, plan.grid, one) for one in held])
        _final_pairs(connection, plan, plan.grid, made, "_made", None, before_us)
        pairs = f"SELECT m.* FROM _made_pairs m WHERE NOT EXISTS (SELECT 1 FROM _held h WHERE {_same('h', 'm')})"
    else:
        _show_held(connection, plan, [_held_rows(connection, plan, one) for one in held])
        pairs = _sessions(connection, made, left)
    query = f"""
        SELECT {listed(plan.rows.names, "r.")} p._window_start, p._window_end,
               make_timestamptz({before_us}) AS _watermark, '{LATE}' AS _reason
        FROM _made r JOIN ({pairs}) p ON {_position("r", "p")}
    """
    now = computed(connection, plan, query, plan.late)
    return _compared(connection, plan, now, before_us)


def last_final(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, published: pa.Table) -> pa.Table:
    """The last final session of each key that was ever published, as rows of a state.

    published  keys, `window_start`, `window_end` and `_final` of all published sessions

    A state keeps them in sight only as long as rows in time can touch them; a correction may bring any row.
    """
    frames.show(connection, "_published", published)
    keys = listed(plan.by)
    zero = "CAST(0 AS BIGINT)"
    gap = plan.session.gap_ms
    # Sessions that were cut at their longest may have had later rows; none of them is later than their end.
    last = f"_end - {gap * 1000}" if gap is not None else "_end - 1"
    nulls = "".join(
        f", CAST(NULL AS {engine_type(plan.state.field(f'_r{i}'))}) AS _r{i}" for i in range(len(plan.again))
    )
    query = f"""
        SELECT {keys} CAST({CLOSED} AS TINYINT) AS _kind, {zero} AS _start, _end, _first, {last} AS _last,
               CAST({NEVER} AS BIGINT) AS _final_at, {zero} AS _rows, {NO_PARTITIONS}, {zero} AS _revision
               {empty_pieces(plan)}{nulls}
        FROM (SELECT {keys} epoch_us(window_start) AS _first, epoch_us(window_end) AS _end FROM _published WHERE _final
              QUALIFY row_number() OVER (PARTITION BY {keys} 1 ORDER BY window_start DESC) = 1)
        ORDER BY {keys} _first
    """
    return computed(connection, plan, query, plan.state)


def _show_held(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, found: Sequence[pa.Table]) -> None:
    """Show what final windows hold as `_held`, by `KEY`."""
    frames.show(connection, "_held", frames.concat(found, _keys(plan)))


def _held_pairs(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, grid: Grid, held: Held) -> pa.Table:
    _final_pairs(connection, plan, grid, held.rows, "_had", held.since_us, held.until_us)
    return frames.fetch(connection, "SELECT * FROM _had_pairs", _keys(plan))


def _held_rows(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, held: Held) -> pa.Table:
    assert held.sessions is not None
    lookups.gather(connection, plan, "_had", held.rows, None)
    frames.show(connection, "_ended", held.sessions)
    inside = "h._t >= epoch_us(s.window_start) AND h._t < epoch_us(s.window_end)"
    query = f"""
        SELECT DISTINCT {listed(lookups.POSITIONS, "h.")} s.window_start AS _window_start
        FROM _had h JOIN _ended s ON {frames.same(plan.by, "h", "s")} AND {inside}
    """
    return frames.fetch(connection, query, _keys(plan))


def _keys(plan: WindowPlan) -> pa.Schema:
    return pa.schema([plan.late.field(name) for name in KEY])


def _final_pairs(
    connection: duckdb.DuckDBPyConnection,
    plan: WindowPlan,
    grid: Grid,
    rows: pa.Table,
    view: str,
    since_us: int | None,
    before_us: int,
) -> None:
    """Keep the windows of rows that became final after `since_us`, until `before_us`, as `<view>_pairs`.

    The rows that have an open one are kept as `<view>_open`.
    """
    placing = Placing(connection, grid)
    panes = placing.panes(frames.times(rows, plan.time))
    distinct = np.unique(panes)
    index, windows = placing.windows(distinct)
    start, end = placing.bounds(windows)
    final_at = end + plan.lateness_us
    is_open = final_at > before_us
    final = ~is_open if since_us is None else ~is_open & (final_at > since_us)
    there = start < end
    table = frames.numbers_table(_pane=distinct[index][there], _start=start[there], _end=end[there])
    for name, flags in (("_final", final), ("_open", is_open)):
        table = table.append_column(name, arrow.flags(flags[there]))
    frames.show(connection, "_final_map", table)
    frames.show(connection, "_final_rows", frames.with_numbers(rows.select(lookups.POSITIONS), _pane=panes))
    positions = listed(lookups.POSITIONS)
    bounds = "make_timestamptz(_start) AS _window_start, make_timestamptz(_end) AS _window_end"
    joined = "FROM _final_rows JOIN _final_map USING (_pane)"
    frames.keep(connection, f"{view}_pairs", f"SELECT {positions} {bounds} {joined} WHERE _final")
    frames.keep(connection, f"{view}_open", f"SELECT DISTINCT {positions} true AS _open {joined} WHERE _open")


def _sessions(connection: duckdb.DuckDBPyConnection, made: pa.Table, left: pa.Table | None) -> str:
    """SQL of the positions that are late for a session: known ones that are there, and new ones that were left."""
    empty = made.select(lookups.POSITIONS).slice(0, 0)
    frames.show(connection, "_left_rows", empty if left is None else left.select(lookups.POSITIONS))
    frames.keep(connection, "_made_open", "SELECT *, true AS _open FROM _left_rows WHERE false")
    positions = listed(lookups.POSITIONS)
    none = "CAST(NULL AS TIMESTAMPTZ)"
    return f"""
        SELECT {positions} _window_start, _window_end FROM _known_late UNION ALL
        SELECT DISTINCT {positions} {none}, {none} FROM _left_rows l
        WHERE NOT EXISTS (SELECT 1 FROM _held h WHERE {_position("h", "l")})
          AND NOT EXISTS (SELECT 1 FROM _known_late k WHERE {_position("k", "l")})
    """


def _compared(connection: duckdb.DuckDBPyConnection, plan: WindowPlan, now: pa.Table, before_us: int) -> LateAgain:
    frames.show(connection, "_late_now", now, dict(plan.columns))
    order = "ORDER BY _partition, _offset, _row, _window_start"
    known = f"EXISTS (SELECT 1 FROM _known_late k WHERE {_same('k', 'n')}"
    values = " AND ".join([f"({_equal(name)})" for name in plan.rows.names])
    late = computed(connection, plan, f"SELECT n.* FROM _late_now n WHERE NOT {known} AND {values}) {order}", plan.late)
    gone_query = f"""
        SELECT {listed(KEY, "k.").removesuffix(", ")} FROM _known_late k
        WHERE NOT EXISTS (SELECT 1 FROM _late_now n WHERE {_same("k", "n")}) {order}
    """
    gone = frames.fetch(connection, gone_query, _keys(plan))
    fresh = f"SELECT DISTINCT {listed(lookups.POSITIONS)} true AS _fresh FROM _late_now n WHERE NOT {known})"
    count = (
        f"SELECT count(*) FROM ({fresh}) f WHERE NOT EXISTS (SELECT 1 FROM _made_open o WHERE {_position('o', 'f')})"
    )
    pairs = f"SELECT count(*) FROM _late_now n WHERE NOT {known})"
    rows, with_windows = (int(connection.execute(query).fetchall()[0][0]) for query in (count, pairs))
    counts = {"corrected_late": rows, "late_pairs": with_windows - gone.num_rows, "late_gone": gone.num_rows}
    return LateAgain(late, gone, counts)


def unchanged(plan: WindowPlan) -> LateAgain:
    """Nothing is late, as long as no window is final or outputs amend them."""
    return LateAgain(arrow.empty_table(plan.late), arrow.empty_table(_keys(plan)), {})


def _position(one: str, other: str) -> str:
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in lookups.POSITIONS)


def _same(one: str, other: str) -> str:
    """SQL that is true for the same row and window; a session that nobody can name is NULL."""
    return f"{_position(one, other)} AND {one}._window_start IS NOT DISTINCT FROM {other}._window_start"


def _equal(name: str) -> str:
    return frames.same([name], "k", "n")
