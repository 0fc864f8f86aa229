# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Folding into sessions: open sessions, the last final one of each key, and new rows, joined where they touch.

Sessions by inactivity are told from fragments wherever that can be done: a component of touching sessions and fragments
that is no longer than a session may be, touches none that is final, and has all aggregates in pieces. Every other
component, and every session between events, is told from its rows.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.windows import frames, lookups, session_rows
from airflow_provider_eventlog.core.windows.fold import LATE, Job, is_final
from airflow_provider_eventlog.core.windows.frames import listed, same
from airflow_provider_eventlog.core.windows.partials import (
    NO_PARTITIONS,
    PARTITIONS,
    computed,
    empty_pieces,
    merged_pieces,
)
from airflow_provider_eventlog.core.windows.plan import WindowPlan, engine_type
from airflow_provider_eventlog.core.windows.state import CLOSED, NEVER, OPEN

# Where a part comes from: sessions of state or archive, the final session of a key, fragments.
_SESSION, _FINAL, _FRAGMENT = 0, 1, 2


def run(job: Job) -> None:
    """Fold `job.arrival` into sessions."""
    plan, connection = job.plan, job.connection
    partials = job.arrival.partials if job.arrival.touched is None else job.arrival.touched
    seq = np.repeat(np.arange(len(partials)), [table.num_rows for table in partials])
    incoming = frames.with_numbers(frames.concat(partials, plan.partial), _seq=seq)
    rows = 0 if job.arrival.touched is not None else int(frames.number(incoming, "_rows").sum())
    job.counts |= {"rows": rows, "late": 0, "outside": 0, "late_pairs": 0, "kept": 0}
    frames.show(connection, "_incoming", incoming)
    _known(job)
    if plan.session.gap_ms is None:
        session_rows.between_events(job)
    else:
        _by_gap(job, plan.session.gap_ms * 1000)
    _retire(job)
    _close(job)
    job.counts["placed"] = rows - job.counts["late"] - job.counts["outside"]


def _known(job: Job) -> None:
    """Keep the sessions of touched keys as `_known`, with `_src` and `_was_final`."""
    plan = job.plan
    keys = listed(plan.by).removesuffix(", ") or "1"
    final = "" if job.amend else f" OR s._kind = {CLOSED}"
    query = f"""
        SELECT s.*, CAST(s._kind AS INTEGER) AS _src, false AS _was_final FROM _state s
        SEMI JOIN (SELECT DISTINCT {keys} FROM _incoming) i ON {same(plan.by, "s", "i")}
        WHERE s._kind = {OPEN}{final}
    """
    frames.keep(job.connection, "_known", query)
    if job.amend:
        _amend(job)


def _amend(job: Job) -> None:
    """Add the final sessions that new rows touch, and those that these touch in turn, to `_known`."""
    plan, connection = job.plan, job.connection
    found = -1
    while True:
        wanted = lookups.ranges(connection, plan, session_rows.reach(job))
        if not wanted.num_rows:
            return
        frames.show(connection, "_wanted", wanted)
        frames.show(connection, "_archive", frames.fit(job.past.closed(wanted), plan.state))
        inside = f"{same(plan.by, 's', 'w')} AND s._first < w._until AND s._last >= w._from"
        query = f"""
            SELECT * FROM _known WHERE NOT _was_final UNION ALL BY NAME
            SELECT s.*, {_SESSION} AS _src, true AS _was_final FROM _archive s SEMI JOIN _wanted w ON {inside}
        """
        frames.keep(connection, "_known", query)
        now = int(connection.execute("SELECT count(*) FROM _known").fetchall()[0][0])
        if now == found:
            return
        found = now


def _by_gap(job: Job, gap: int) -> None:
    plan, connection = job.plan, job.connection
    longest = (plan.session.max_duration_ms or 0) * 1000
    session_rows.components(job, gap)
    by_rows = f"_final > 0 OR _hi - _lo >= {longest}"
    if plan.again or job.arrival.touched is not None:
        by_rows = "true"
    final_at = f"least(_hi + {gap} + 1, _lo + {longest}) + {plan.lateness_us}"
    all_late = "false" if job.amend else f"_old = 0 AND {final_at} <= {job.before_us}"
    frames.keep(
        connection,
        "_judged",
        f"SELECT *, {final_at} AS _final_at, ({by_rows}) AS _by_rows, ({all_late}) AS _all_late FROM _summary",
    )
    _join_fragments(job, gap, longest)
    late = f"SELECT {listed(plan.by)} _lo AS _from, _hi + 1 AS _until FROM _judged WHERE NOT _by_rows AND _all_late"
    wanted = lookups.ranges(connection, plan, late)
    if wanted.num_rows:
        _late(job, wanted, gap, longest)
    session_rows.told_by_gap(job, gap, longest)


def _join_fragments(job: Job, gap: int, longest: int) -> None:
    """Sessions of the components that fragments suffice for."""
    plan = job.plan
    query = f"""
        SELECT {listed(plan.by, "p.")} CAST({OPEN} AS TINYINT) AS _kind, j._lo AS _start,
               least(j._hi + {gap}, j._lo + {longest}) AS _end, j._lo AS _first, j._hi AS _last, j._final_at,
               CAST(sum(p._rows) AS BIGINT) AS _rows, {PARTITIONS}, max(p._revision) + 1 AS _revision
               {merged_pieces(plan, "_src, _seq, p._first")}
        FROM _components p JOIN _judged j USING (_component)
        WHERE NOT j._by_rows AND NOT j._all_late
        GROUP BY {listed(plan.by, "p.")} j._component, j._lo, j._hi, j._final_at
        ORDER BY {listed(plan.by, "p.")} j._lo
    """
    job.changed.append(_with_results(job, query))


def _with_results(job: Job, query: str) -> pa.Table:
    plan = job.plan
    fields = [plan.state.field(f"_r{i}") for i in range(len(plan.again))]
    nulls = "".join(f", CAST(NULL AS {engine_type(f)}) AS {f.name}" for f in fields)
    return computed(job.connection, plan, f"SELECT *{nulls} FROM ({query})", plan.state)


def _late(job: Job, wanted: pa.Table, gap: int, longest: int) -> None:
    """The rows of sessions that were final before their first row came."""
    plan = job.plan
    lookups.gather(job.connection, plan, "_rows_at", job.arrival.rows(wanted), None)
    query = f"""
        SELECT r.* EXCLUDE (_t, _new), make_timestamptz(j._lo) AS _window_start,
               make_timestamptz(least(j._hi + {gap}, j._lo + {longest})) AS _window_end,
               make_timestamptz({job.before_us}) AS _watermark, '{LATE}' AS _reason
        FROM _rows_at r JOIN _judged j ON {same(plan.by, "r", "j")} AND r._t BETWEEN j._lo AND j._hi
        WHERE NOT j._by_rows AND j._all_late
    """
    session_rows.count_late(job, computed(job.connection, plan, query, plan.late))


def _retire(job: Job) -> None:
    """Sessions that are no more leave state and target: their rows are in sessions that begin elsewhere."""
    plan, connection = job.plan, job.connection
    frames.show(connection, "_changed", frames.concat(job.changed, plan.state))
    keys = listed(plan.by)
    on = f"{same(plan.by, 'k', 'c')} AND k._start = c._start"
    query = f"""
        SELECT k.* EXCLUDE (_src) FROM _replaced k ANTI JOIN _changed c ON {on}
        ORDER BY {listed(plan.by, "k.")} k._start
    """
    frames.keep(connection, "_retired", query)
    job.deletes.append(
        frames.fetch(connection, f"SELECT {keys} make_timestamptz(_start) AS window_start FROM _retired", plan.keys)
    )
    gone = "SELECT * EXCLUDE (_was_final) FROM _retired WHERE NOT _was_final"
    job.gone.append(frames.fetch(connection, gone, plan.state))
    was = "SELECT * EXCLUDE (_src, _was_final) FROM _replaced WHERE _was_final"
    job.retired.append(frames.fetch(connection, was, plan.state))


def _close(job: Job) -> None:
    """Open sessions become final once the watermark passes them, and each key's last final one is kept in sight."""
    plan, connection = job.plan, job.connection
    on = f"{same(plan.by, 's', 'k')} AND s._start = k._start"
    query = f"""
        SELECT s.* FROM _state s ANTI JOIN _replaced k ON {on}
        WHERE s._kind = {OPEN} AND s._final_at <= {job.after_us} ORDER BY {listed(plan.by, "s.")} s._start
    """
    closing = frames.fetch(connection, query, plan.state)
    job.closing.append(closing)
    expired = f"SELECT * FROM _state WHERE _kind = {CLOSED} AND _final_at <= {job.after_us}"
    job.gone.append(frames.fetch(connection, expired, plan.state))
    if plan.amends:
        return
    changed = frames.concat(job.changed, plan.state)
    ended = changed.filter(arrow.flags(is_final(changed, job.after_us)))
    frames.show(connection, "_ended", frames.concat([ended, closing], plan.state))
    job.entered.append(_last_final(job))


def _last_final(job: Job) -> pa.Table:
    """Each key's last final session of `_ended`, unless a later one is known or no row on time can touch it."""
    plan = job.plan
    keys = listed(plan.by)
    zero = "CAST(0 AS BIGINT)"
    fields = [plan.state.field(f"_r{i}") for i in range(len(plan.again))]
    nulls = "".join(f", CAST(NULL AS {engine_type(f)}) AS {f.name}" for f in fields)
    query = f"""
        SELECT {keys} CAST({CLOSED} AS TINYINT) AS _kind, {zero} AS _start, _end, _first, _last,
               {_until(plan)} AS _final_at, {zero} AS _rows, {NO_PARTITIONS}, {zero} AS _revision
               {empty_pieces(plan)}{nulls}
        FROM (SELECT e.* FROM _ended e ANTI JOIN _state s
              ON {same(plan.by, "e", "s")} AND s._kind = {CLOSED} AND s._last >= e._last
              QUALIFY row_number() OVER (PARTITION BY {listed(plan.by, "e.")} 1 ORDER BY e._last DESC) = 1)
        WHERE {_until(plan)} > {job.after_us} ORDER BY {keys} _last
    """
    return computed(job.connection, plan, query, plan.state)


def _until(plan: WindowPlan) -> str:
    """SQL of the watermark from which every row that could touch a final session would be late by itself."""
    if plan.session.gap_ms is not None:
        return f"_last + {2 * plan.session.gap_ms * 1000 + plan.lateness_us + 1}"
    if plan.session.max_duration_ms is not None:
        return f"_last + {plan.session.max_duration_ms * 1000 + plan.lateness_us}"
    return f"CAST({NEVER} AS BIGINT)"
