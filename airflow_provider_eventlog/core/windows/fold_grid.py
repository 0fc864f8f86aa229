# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Folding into fixed and sliding windows: parts of panes go into every window that shares the pane."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core.windows import filling, frames, lookups
from airflow_provider_eventlog.core.windows.assign import Placing
from airflow_provider_eventlog.core.windows.fold import LATE, Job
from airflow_provider_eventlog.core.windows.frames import Micros, listed, same
from airflow_provider_eventlog.core.windows.partials import (
    PARTITIONS,
    computed,
    kept,
    merged_pieces,
    results_again,
)
from airflow_provider_eventlog.core.windows.plan import engine_type
from airflow_provider_eventlog.core.windows.state import OPEN
from airflow_provider_eventlog.declare.windows_sizes import Grid


def run(job: Job, grid: Grid) -> None:
    """Fold `job.arrival` into windows of the grid."""
    plan, connection = job.plan, job.connection
    placing = Placing(connection, grid)
    incoming = _numbered(job)
    frames.show(connection, "_incoming", incoming)
    touching = incoming
    if job.arrival.touched is not None:
        touching = frames.concat(job.arrival.touched, plan.partial)
        frames.show(connection, "_touching", touching)
    # A touched window is made again from all of its panes, touched or not.
    panes = np.union1d(frames.number(touching, "_pane"), frames.number(incoming, "_pane"))
    on_time = _map(job, placing, panes)
    _keys_and_prior(job)
    _merge(job)
    _recompute(job, placing)
    changed = frames.fetch(
        connection, f"SELECT * EXCLUDE (_k) FROM _merged ORDER BY {listed(plan.by)} _start", plan.state
    )
    job.changed.append(changed)
    if job.arrival.touched is None:
        _late(job, placing, incoming, on_time)
    else:
        _vanished(job)
    if plan.windows.fill is not None:
        filling.fill(job, placing)
    _close(job)


def _numbered(job: Job) -> pa.Table:
    partials = job.arrival.partials
    seq = np.repeat(np.arange(len(partials)), [table.num_rows for table in partials])
    return frames.with_numbers(frames.concat(partials, job.plan.partial), _seq=seq)


def _map(job: Job, placing: Placing, panes: Micros) -> Micros:
    """Show which windows hold each pane, on time and late; which of the panes have a window on time."""
    index, windows = placing.windows(panes)
    start, end = placing.bounds(windows)
    final_at = end + job.plan.lateness_us
    there = start < end
    on_time = there if job.amend else there & (final_at > job.before_us)
    for view, chosen in (("_map", on_time), ("_late_map", there & ~on_time)):
        columns = {
            "_pane": panes[index], "_k": windows, "_start": start, "_end": end, "_final_at": final_at
        }  # fmt: skip
        frames.show(job.connection, view, frames.numbers_table(**{n: v[chosen] for n, v in columns.items()}))
    return np.unique(panes[index][on_time])


def _keys_and_prior(job: Job) -> None:
    """Keep the touched windows as `_keys`, and what is known of them as `_prior`."""
    plan, connection = job.plan, job.connection
    source = "_incoming" if job.arrival.touched is None else "_touching"
    keys = listed(plan.by, "i.")
    frames.keep(
        connection,
        "_keys",
        f"SELECT DISTINCT {keys} m._k, m._start, m._end, m._final_at FROM {source} i JOIN _map m USING (_pane)",
    )
    known = f"{same(plan.by, 's', 'k')} AND s._start = k._start"
    frames.keep(
        connection,
        "_prior",
        f"SELECT s.* FROM _state s SEMI JOIN _keys k ON {known} WHERE s._kind = {OPEN}",
    )
    if not job.amend:
        return
    finals = f"SELECT {listed(plan.by)} _start AS _from, _end AS _until FROM _keys WHERE _final_at <= {job.before_us}"
    wanted = lookups.ranges(connection, plan, finals)
    if wanted.num_rows:
        frames.show(connection, "_closed", frames.fit(job.past.closed(wanted), plan.state))
        touched = f"SELECT s.* FROM _closed s SEMI JOIN _keys k ON {known} AND k._final_at <= {job.before_us}"
        connection.execute(f"INSERT INTO _prior {touched}").fetchall()


def _merge(job: Job) -> None:
    """Keep the touched windows with their new contents as `_merged`."""
    plan = job.plan
    keys = listed(plan.by)
    pieces = "".join(f", {piece.name}" for piece in plan.pieces)
    prior = ""
    if job.arrival.touched is None:
        prior = f"""
            SELECT {keys} _start, _end, _final_at, NULL AS _k, -1 AS _seq, 0 AS _pane, _rows, _partitions, _further,
                   _revision{pieces}
            FROM _prior UNION ALL BY NAME
        """
    wanted = ""
    if job.arrival.touched is not None:
        wanted = f"SEMI JOIN _keys k ON {same(plan.by, 'i', 'k')} AND m._start = k._start"
    again = "".join(f", CAST(NULL AS {engine_type(plan.state.field(name))}) AS {name}" for name in _again(job))
    query = f"""
        SELECT {keys} CAST({OPEN} AS TINYINT) AS _kind, _start, _end, _start AS _first, _end AS _last, _final_at,
               CAST(sum(_rows) AS BIGINT) AS _rows, {PARTITIONS}, max(_revision) + 1 AS _revision
               {merged_pieces(plan, "_seq, _pane")}{again}, max(_k) AS _k
        FROM ({prior}
            SELECT {listed(plan.by, "i.")} m._start, m._end, m._final_at, m._k, i._seq, i._pane, i._rows,
                   i._partitions, i._further,
                   CAST(0 AS BIGINT) AS _revision{pieces}
            FROM _incoming i JOIN _map m USING (_pane) {wanted})
        GROUP BY {keys} _start, _end, _final_at
    """
    kept(job.connection, plan, "_merged", query)
    if job.arrival.touched is not None:
        on = f"{same(plan.by, 't', 'p')} AND t._start = p._start"
        job.connection.execute(f"UPDATE _merged t SET _revision = p._revision + 1 FROM _prior p WHERE {on}").fetchall()


def _again(job: Job) -> list[str]:
    return [f"_r{i}" for i in range(len(job.plan.again))]


def _recompute(job: Job, placing: Placing) -> None:
    """Give `_merged` the results of aggregates without pieces, from the rows of its windows."""
    plan, connection = job.plan, job.connection
    if not plan.again:
        return
    wanted = lookups.ranges(
        connection,
        plan,
        f"SELECT {listed(plan.by)} _start AS _from, _end AS _until FROM _merged",
    )
    if not wanted.num_rows:
        return
    earlier = job.past.rows(wanted) if job.arrival.touched is None else None
    _placed_rows(job, placing, job.arrival.rows(wanted), earlier)
    _windows_of_rows(job, placing)
    keys = listed(plan.by)
    order = "_t, _partition, _offset, _row"
    select = f"""
        SELECT {keys} _start{results_again(plan)} FROM (
            SELECT r.*, m._start FROM _rows_at r JOIN _row_map m USING (_pane)
            SEMI JOIN _merged k ON {same(plan.by, "r", "k")} AND m._start = k._start
            ORDER BY {listed(plan.by, "r.")} m._start, {order})
        GROUP BY {keys} _start
    """
    kept(connection, plan, "_results", select)
    again = _again(job)
    columns = ", ".join(f"{name} = x.{name}" for name in again)
    on = f"{same(plan.by, 't', 'x')} AND t._start = x._start"
    connection.execute(f"UPDATE _merged t SET {columns} FROM _results x WHERE {on}").fetchall()


def _placed_rows(job: Job, placing: Placing, arrived: pa.Table, earlier: pa.Table | None) -> None:
    """Show rows with their panes as `_rows_at`."""
    table = lookups.gather(job.connection, job.plan, "_rows_at", arrived, earlier)
    panes = placing.panes(frames.number(table, "_t"))
    frames.show(job.connection, "_rows_at", frames.with_numbers(table, _pane=panes), dict(job.plan.columns))


def _windows_of_rows(job: Job, placing: Placing) -> None:
    """Show the windows of all panes that rows of `_rows_at` lie in, as `_row_map`."""
    found = frames.fetch(job.connection, "SELECT DISTINCT _pane FROM _rows_at ORDER BY _pane")
    panes = frames.number(found, "_pane")
    index, windows = placing.windows(panes)
    start, _ = placing.bounds(windows)
    frames.show(job.connection, "_row_map", frames.numbers_table(_pane=panes[index], _start=start))


def _late(job: Job, placing: Placing, incoming: pa.Table, on_time: Micros) -> None:
    """Fetch the rows that came too late for a window, one for each of these windows, and count all rows."""
    plan, connection = job.plan, job.connection
    panes, rows = frames.number(incoming, "_pane"), frames.number(incoming, "_rows")
    placed = int(rows[np.isin(panes, on_time)].sum())
    total = int(rows.sum())
    job.counts |= {"rows": total, "placed": placed, "late": total - placed, "outside": 0, "late_pairs": 0, "kept": 0}
    keys = listed(plan.by, "i.")
    late = f"SELECT {keys} m._start AS _from, m._end AS _until FROM _incoming i JOIN _late_map m USING (_pane)"
    wanted = lookups.ranges(connection, plan, late)
    if not wanted.num_rows:
        return
    _placed_rows(job, placing, job.arrival.rows(wanted), None)
    query = f"""
        SELECT r.* EXCLUDE (_t, _new, _pane), make_timestamptz(m._start) AS _window_start,
               make_timestamptz(m._end) AS _window_end, make_timestamptz({job.before_us}) AS _watermark,
               '{LATE}' AS _reason
        FROM _rows_at r JOIN _late_map m USING (_pane)
        SEMI JOIN _incoming i ON {same(plan.by, "r", "i")} AND r._pane = i._pane
    """
    found = computed(connection, plan, query, plan.late)
    job.counts["late_pairs"] = found.num_rows
    job.late.append(found)


def _vanished(job: Job) -> None:
    """Windows that a corrected generation has left without rows leave state and target."""
    plan, connection = job.plan, job.connection
    job.counts |= {"rows": 0, "placed": 0, "late": 0, "outside": 0, "late_pairs": 0}
    kept_windows = f"SELECT DISTINCT {listed(plan.by, 'i.')} m._start FROM _touching i JOIN _late_map m USING (_pane)"
    job.counts["kept"] = int(connection.execute(f"SELECT count(*) FROM ({kept_windows})").fetchall()[0][0])
    on = f"{same(plan.by, 'p', 't')} AND p._start = t._start"
    gone = f"SELECT p.* FROM _prior p ANTI JOIN _merged t ON {on}"
    if plan.windows.fill is not None:
        filling.empty_again(job, gone)
        return
    found = frames.fetch(connection, gone, plan.state)
    job.gone.append(found)
    job.retired.append(found)
    frames.show(connection, "_vanished", found)
    job.deletes.append(
        frames.fetch(
            connection, f"SELECT {listed(plan.by)} make_timestamptz(_start) AS window_start FROM _vanished", plan.keys
        )
    )


def _close(job: Job) -> None:
    """Open windows that nothing touched become final once the watermark passes them."""
    plan = job.plan
    on = f"{same(plan.by, 's', 'k')} AND s._start = k._start"
    query = f"""
        SELECT s.* FROM _state s ANTI JOIN _keys k ON {on}
        WHERE s._kind = {OPEN} AND s._final_at <= {job.after_us} ORDER BY {listed(plan.by)} _start
    """
    job.closing.append(frames.fetch(job.connection, query, plan.state))
