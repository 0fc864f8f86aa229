# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Sessions told from rows: what fragments cannot tell, and all sessions between events."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.windows import frames, lookups, scanning
from airflow_provider_eventlog.core.windows.fold import LATE, Job
from airflow_provider_eventlog.core.windows.frames import listed, same
from airflow_provider_eventlog.core.windows.partials import (
    POSITION,
    computed,
    kept,
    partitions_of,
    pieces_of,
    results_again,
)
from airflow_provider_eventlog.core.windows.scanning import NONE, Events, Rows, Sessions
from airflow_provider_eventlog.core.windows.state import NEVER, OPEN

# Before all times.
_BEFORE = -(2**62)
_FINAL = ("_final_first", "_final_last", "_final_end")


def reach(job: Job) -> str:
    """SQL of the keys and times in which sessions that are final may be touched by what has come."""
    plan = job.plan
    gap = plan.session.gap_ms
    if gap is None:
        ranges = (
            f"SELECT {listed(plan.by)} _first - 1 AS _from, CAST({NEVER} AS BIGINT) AS _until, _first FROM _incoming"
        )
        return f"SELECT * EXCLUDE (_first) FROM ({ranges}) WHERE _first < {job.before_us}"
    components(job, gap * 1000)
    bounds = f"_lo - {gap * 1000} AS _from, _hi + {gap * 1000} + 1 AS _until"
    return f"SELECT {listed(plan.by)} {bounds} FROM _summary WHERE _new_lo < {job.before_us}"


def components(job: Job, gap: int) -> None:
    """Keep sessions and fragments as `_components`, what touches under one number; with anything new as `_summary`."""
    plan, connection = job.plan, job.connection
    keys = listed(plan.by)
    contents = ", ".join(["_rows", "_partitions", "_further", *(piece.name for piece in plan.pieces)])
    parts = f"""
        SELECT {keys} _start, _end, _first, _last, _src, -1 AS _seq, _revision, {contents} FROM _known
        UNION ALL BY NAME
        SELECT {keys} _first, _last, 2 AS _src, _seq, CAST(0 AS BIGINT) AS _revision, {contents} FROM _incoming
    """
    order = "_first, _last, _src, _seq"
    before = f"OVER (PARTITION BY {keys} 1 ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    query = f"""
        SELECT *, sum(_broken) OVER (ORDER BY {keys} {order} ROWS UNBOUNDED PRECEDING) AS _component
        FROM (SELECT *, CASE WHEN _first - max(_last) {before} <= {gap} THEN 0 ELSE 1 END AS _broken FROM ({parts}))
    """
    frames.keep(connection, "_components", query)
    summary = f"""
        SELECT {keys} CAST(_component AS BIGINT) AS _component, min(_first) AS _lo, max(_last) AS _hi,
               min(_first) FILTER (WHERE _src = 2) AS _new_lo, count(*) FILTER (WHERE _src = 0) AS _old,
               count(*) FILTER (WHERE _src = 1) AS _final, max(_first) FILTER (WHERE _src = 1) AS _final_first,
               max(_last) FILTER (WHERE _src = 1) AS _final_last, max(_end) FILTER (WHERE _src = 1) AS _final_end,
               max(_revision) AS _revision
        FROM _components GROUP BY {keys} _component HAVING count(*) FILTER (WHERE _src = 2) > 0
    """
    frames.keep(connection, "_summary", summary)


def told_by_gap(job: Job, gap: int, longest: int) -> None:
    """The components of `_judged` that rows have to tell; keep all sessions that are superseded as `_replaced`."""

    def scan(rows: Rows, _: pa.Table) -> Sessions:
        return scanning.by_gap(rows, gap, longest, job.plan.lateness_us, job.before_us, amend=job.amend)

    connection, plan = job.connection, job.plan
    frames.keep(connection, "_told_of", "SELECT *, _hi + 1 AS _until FROM _judged WHERE _by_rows")
    _tell(job, scan)
    here = f"{same(plan.by, 'k', 'c')} AND k._start = c._start AND c._src = 0"
    superseded = f"""
        SELECT k.* FROM _known k
        SEMI JOIN (SELECT c.* FROM _components c SEMI JOIN _judged j USING (_component)) c ON {here} WHERE k._src = 0
    """
    _replace(job, superseded)


def between_events(job: Job) -> None:
    """Sessions between events, of all touched keys.

    Rows count from the session before the first new one to the next start after the last new one: a start begins a
    session whatever went before.
    """
    plan, connection = job.plan, job.connection
    keys = listed(plan.by)
    grouped = f"GROUP BY {keys}".removesuffix(", ") if keys else "HAVING count(*) > 0"
    new = f"SELECT {keys} min(_first) AS _new_lo, max(_last) AS _new_hi FROM _incoming {grouped}"
    before = "max(k._first) FILTER (WHERE k._src = 0 AND k._first < n._new_lo)"
    after = "min(k._first) FILTER (WHERE k._src = 0 AND k._first > n._new_hi)"
    final = ", ".join(
        f"max(k.{name}) FILTER (WHERE k._src = 1) AS _final{name}" for name in ("_first", "_last", "_end")
    )
    query = f"""
        SELECT *, row_number() OVER (ORDER BY {keys} _lo) AS _component FROM (
            SELECT {listed(plan.by, "n.")} coalesce({before}, n._new_lo) AS _lo, coalesce({after}, {NEVER}) AS _until,
                   max(k._revision) FILTER (WHERE k._src = 0) AS _revision, {final}, 1 AS _old
            FROM ({new}) n LEFT JOIN _known k ON {same(plan.by, "n", "k")}
            GROUP BY {listed(plan.by, "n.")} n._new_lo, n._new_hi)
    """
    frames.keep(connection, "_told_of", query)
    longest = None if plan.session.max_duration_ms is None else plan.session.max_duration_ms * 1000

    def scan(rows: Rows, table: pa.Table) -> Sessions:
        events = Events(frames.truth(table, "_starts"), frames.truth(table, "_ends"), frames.number(table, "_until"))
        return scanning.by_events(rows, events, longest, plan.lateness_us, job.before_us, NEVER, amend=job.amend)

    _tell(job, scan)
    inside = f"{same(plan.by, 'k', 't')} AND k._first >= t._lo AND k._first < t._until"
    _replace(job, f"SELECT k.* FROM _known k SEMI JOIN _told_of t ON {inside} WHERE k._src = 0")


def _tell(job: Job, scan: Callable[[Rows, pa.Table], Sessions]) -> None:
    """Cut the rows of `_told_of` into sessions; keep those that are as they were as `_as_before`."""
    plan, connection = job.plan, job.connection
    first_time = job.arrival.touched is None
    wanted = lookups.ranges(connection, plan, f"SELECT {listed(plan.by)} _lo AS _from, _until FROM _told_of")
    if not wanted.num_rows:
        frames.keep(connection, "_as_before", "SELECT * FROM _known WHERE false")
        return
    old = int(connection.execute("SELECT count(*) FROM _told_of WHERE _old > 0").fetchall()[0][0])
    earlier = job.past.rows(wanted) if first_time and old else None
    lookups.gather(connection, plan, "_rows_at", job.arrival.rows(wanted), earlier)
    _sort(job)
    numbers = "_component, _t, _new, _old, _starts, _ends, _until, _final_first, _final_last, _final_end"
    table = frames.fetch(connection, f"SELECT {numbers} FROM _sorted ORDER BY _n")
    new = frames.truth(table, "_new")
    if not first_time:
        # Where nothing is open a corrected generation changes nothing: what is final by now was final before.
        new = frames.number(table, "_old") == 0
    rows = Rows(
        frames.number(table, "_component"),
        frames.number(table, "_t"),
        new,
        *(frames.number(table, name) for name in _FINAL),
    )
    told = scan(rows, table)
    _show_told(job, rows, told)
    _sessions(job)
    if first_time:
        job.counts["outside"] += int((new & ~told.late & (told.of == NONE)).sum())
        _late(job)
    else:
        job.counts["kept"] += int((told.of == NONE).sum())
        if plan.session.gap_ms is not None:
            positions = listed(lookups.POSITIONS, "s.").removesuffix(", ")
            left = f"SELECT {positions} FROM _sorted s JOIN _told t USING (_n) WHERE t._of = {NONE} ORDER BY s._n"
            job.left = frames.fetch(connection, left)


def _sort(job: Job) -> None:
    """Keep the rows in question as `_sorted`, by component and time."""
    plan = job.plan
    starts = f"coalesce({plan.start}, false)" if plan.start else "false"
    ends = f"coalesce({plan.end}, false)" if plan.end else "false"
    final = ", ".join(f"coalesce(j.{name}, {0 if name == '_final_first' else _BEFORE}) AS {name}" for name in _FINAL)
    marked = f"SELECT *, {starts} AS _starts, {ends} AS _ends FROM _rows_at"
    query = f"""
        SELECT r.*, j._component, j._until, j._old, {final},
               row_number() OVER (ORDER BY j._component, r._t, {POSITION}) - 1 AS _n
        FROM ({marked}) r JOIN _told_of j ON {same(plan.by, "r", "j")} AND r._t >= j._lo AND r._t < j._until
    """
    kept(job.connection, plan, "_sorted", query)


def _show_told(job: Job, rows: Rows, told: Sessions) -> None:
    connection = job.connection
    numbered = frames.numbers_table(
        _n=frames.counted(len(told.of)), _of=told.of, _since=told.since, _until_t=told.until
    )
    frames.show(connection, "_told", numbered.append_column("_late", arrow.flags(told.late)))
    component = frames.zeros(len(told.first))
    component[told.of[told.of != NONE]] = rows.group[told.of != NONE]
    columns = {"_first": told.first, "_last": told.last, "_end": told.end, "_final_at": told.final_at}
    table = frames.numbers_table(_of=frames.counted(len(told.first)), _component=component, **columns)
    frames.show(connection, "_bounds", table)


def _sessions(job: Job) -> None:
    """Add the sessions that have changed to `job.changed`."""
    plan, connection = job.plan, job.connection
    keys = listed(plan.by)
    inner = f"""
        SELECT {keys} _of, count(*) AS _rows, {partitions_of(None)},
               bool_or(_new) AS _fresh{pieces_of(plan)}{results_again(plan)}
        FROM (SELECT s.*, t._of FROM _sorted s JOIN _told t USING (_n) WHERE t._of <> {NONE} ORDER BY s._n)
        GROUP BY {keys} _of
    """
    query = f"""
        SELECT s.* EXCLUDE (_of), b.* EXCLUDE (_of), CAST({OPEN} AS TINYINT) AS _kind, b._first AS _start,
               coalesce(j._revision, 0) + 1 AS _revision
        FROM ({inner}) s JOIN _bounds b USING (_of) JOIN _told_of j ON j._component = b._component
    """
    kept(connection, plan, "_sessions", query)
    unchanged = "false"
    if job.arrival.touched is None:
        unchanged = (
            "NOT s._fresh AND k._last = s._last AND k._end = s._end AND k._rows = s._rows AND k._final_at = s._final_at"
        )
    on = f"{same(plan.by, 's', 'k')} AND k._start = s._start AND k._src = 0 AND {unchanged}"
    frames.keep(connection, "_as_before", f"SELECT k.* FROM _known k SEMI JOIN _sessions s ON {on}")
    select = f"SELECT s.* FROM _sessions s ANTI JOIN _known k ON {on} ORDER BY {listed(plan.by, 's.')} s._start"
    job.changed.append(computed(connection, plan, select, plan.state))


def _replace(job: Job, superseded: str) -> None:
    plan = job.plan
    on = f"{same(plan.by, 'o', 'b')} AND o._start = b._start"
    frames.keep(
        job.connection,
        "_replaced",
        f"SELECT o.* FROM ({superseded}) o ANTI JOIN _as_before b ON {on}",
    )


def _late(job: Job) -> None:
    plan = job.plan
    columns = listed(plan.rows.names, "s.").removesuffix(", ")
    bounds = ", ".join(
        f"CASE WHEN t._until_t <> 0 THEN make_timestamptz(t.{name}) END AS {alias}"
        for name, alias in (("_since", "_window_start"), ("_until_t", "_window_end"))
    )
    query = f"""
        SELECT {columns}, {bounds}, make_timestamptz({job.before_us}) AS _watermark, '{LATE}' AS _reason
        FROM _sorted s JOIN _told t USING (_n) WHERE t._late
    """
    count_late(job, computed(job.connection, plan, query, plan.late))


def count_late(job: Job, late: pa.Table) -> None:
    """Add late rows, each of which is late for one session, and all it could be in."""
    job.late.append(late)
    job.counts["late"] += late.num_rows
    job.counts["late_pairs"] += late.num_rows
