# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Windows without rows: between a key's first and last window, on request."""

from __future__ import annotations

import numpy as np

from airflow_provider_eventlog.core.errors import WindowLimitError
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.assign import Placing
from airflow_provider_eventlog.core.windows.fold import Job
from airflow_provider_eventlog.core.windows.frames import listed, same
from airflow_provider_eventlog.core.windows.partials import NO_PARTITIONS, computed, empty_pieces, results_again
from airflow_provider_eventlog.core.windows.state import EXTENT, NEVER, OPEN

# More than three years of minutes, for one key; a batch that wants more holds a wrong time.
LIMIT = 2_000_000


def fill(job: Job, placing: Placing) -> None:
    """Add the empty windows that the touched windows of `_merged` have made necessary, and keep the keys' extents.

    A key's extent never shrinks. Raises WindowLimitError for more than LIMIT windows.
    """
    plan, connection = job.plan, job.connection
    keys = listed(plan.by)
    grouped = f"GROUP BY {keys}".removesuffix(", ") if keys else "HAVING count(*) > 0"
    touched = f"SELECT {keys} min(_k) AS _lo, max(_k) AS _hi FROM _merged WHERE _k IS NOT NULL {grouped}"
    known = f"{same(plan.by, 't', 's')} AND s._kind = {EXTENT}"
    query = f"""
        SELECT {listed(plan.by, "t.")} t._lo, t._hi, coalesce(s._first, t._lo) AS _old_lo,
               coalesce(s._last, t._lo) AS _old_hi
        FROM ({touched}) t LEFT JOIN _state s ON {known} ORDER BY {keys} _lo
    """
    extents = frames.fetch(connection, query)
    if not extents.num_rows:
        return
    low, high, old_low, old_high = (frames.number(extents, name) for name in ("_lo", "_hi", "_old_lo", "_old_hi"))
    low, high = np.minimum(low, old_low), np.maximum(high, old_high)
    left, right = old_low - low, high - old_high
    wanted = int(left.sum() + right.sum())
    if wanted > LIMIT:
        raise WindowLimitError(
            f"Windows {plan.windows.name!r}: fill={plan.windows.fill!r} would make {wanted} empty windows "
            f"in one batch, more than {LIMIT}. A row's time is far from its key's other rows; keep it out by a "
            f"check, take longer windows, or leave fill out. Nothing was folded."
        )
    owner = np.concatenate([np.repeat(np.arange(len(low)), left), np.repeat(np.arange(len(low)), right)])
    windows = np.concatenate([_counted(low, left), _counted(old_high + 1, right)])
    start, end = placing.bounds(windows)
    there = start < end
    frames.show(
        connection, "_extents", frames.with_numbers(extents, _owner=np.arange(len(low)), _new_lo=low, _new_hi=high)
    )
    frames.show(
        connection,
        "_between",
        frames.numbers_table(_owner=owner[there], _start=start[there], _end=end[there]),
    )
    between = "_start, _end, CAST(0 AS BIGINT) AS _before FROM _between JOIN _extents USING (_owner)"
    _add(job, f"SELECT {keys} {between}")
    zero = "CAST(0 AS BIGINT)"
    entered = f"""
        SELECT {keys} CAST({EXTENT} AS TINYINT) AS _kind, {zero} AS _start, {zero} AS _end, _new_lo AS _first,
               _new_hi AS _last, CAST({NEVER} AS BIGINT) AS _final_at, {zero} AS _rows,
               {NO_PARTITIONS}, {zero} AS _revision{empty_pieces(plan)}{_no_results(job)}
        FROM _extents
    """
    job.entered.append(frames.fetch(connection, entered, plan.state))


def empty_again(job: Job, gone: str) -> None:
    """Windows that have lost their rows stay, empty."""
    _add(job, f"SELECT {listed(job.plan.by)} _start, _end, _revision AS _before FROM ({gone})")


def _add(job: Job, query: str) -> None:
    """Add the windows of a query, without rows, to what has changed; not those that have rows."""
    plan = job.plan
    keys = listed(plan.by)
    on = f"{same(plan.by, 'n', 't')} AND n._start = t._start"
    select = f"""
        SELECT {keys} CAST({OPEN} AS TINYINT) AS _kind, _start, _end, _start AS _first, _end AS _last,
               _end + {plan.lateness_us} AS _final_at, CAST(0 AS BIGINT) AS _rows, {NO_PARTITIONS},
               _before + 1 AS _revision{empty_pieces(plan)}{_no_results(job)}
        FROM ({query}) n ANTI JOIN _merged t ON {on} ORDER BY {keys} _start
    """
    job.changed.append(computed(job.connection, plan, select, plan.state))


def _no_results(job: Job) -> str:
    """The end of a select list: what aggregates without pieces are over no rows."""
    plan = job.plan
    if not plan.again:
        return ""
    fields = [plan.state.field(f"_r{i}") for i in range(len(plan.again))]
    frames.show(job.connection, "_none", frames.concat([], plan.rows), dict(plan.columns))
    select = results_again(plan).removeprefix(", ")
    frames.keep(job.connection, "_no_results", f"SELECT {select} FROM _none")
    return "".join(f", (SELECT {field.name} FROM _no_results) AS {field.name}" for field in fields)


def _counted(first: frames.Micros, count: frames.Micros) -> frames.Micros:
    """first, first + 1, ... for each pair, one after another."""
    before = np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + np.arange(int(count.sum())) - before
