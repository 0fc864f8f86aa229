# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""One fold: state n-1 and what a generation brings become state n and a change-set. Pure, and the same every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.arrow import empty_table
from airflow_provider_eventlog.core.windows import frames, state
from airflow_provider_eventlog.core.windows.finishing import finish
from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.core.windows.watermark import micros

if TYPE_CHECKING:
    import duckdb

# Rows, or closed windows, of the keys and times of a table with the plan's keys and `_from`, `_until` (microseconds,
# half open). More than was asked for may come; it is left out.
Lookup = Callable[[pa.Table], pa.Table]
LATE = "final before the row came"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What enters with a fold.

    partials  partial results (`partials.partial`) in slice order: those of one generation; with `touched`, those of all
              generations that the fold reads, in fold order
    rows      typed rows of the same generation or generations, ordered, and stamped if the plan has no time column. It
              is asked for late rows, for aggregates without pieces, and for sessions that cannot be told from fragments
    touched   None for rows that come for the first time. Otherwise the partial results of the batch's earlier and its
              corrected generation: open windows that they touch are made again from `partials`, which hold everything;
              so that nothing counts twice. Final windows stay as they are, unless amended
    """

    partials: Sequence[pa.Table]
    rows: Lookup
    touched: Sequence[pa.Table] | None = None


def nothing(wanted: pa.Table) -> pa.Table:
    """Stands for a past that holds nothing; it is an error to need it."""
    raise LookupError("The fold needs rows or windows of earlier folds, and was given no way to read them.")


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier folds of the log have left; asked only where state and partial results do not suffice.

    rows    typed rows that were folded. For sessions without those that went to the late output
            (`lookups.without_late`); for fixed and sliding windows all: a row that is late for one window counts in
            another, and a window that is still open has had no late row
    closed  final windows as `Folded.closed` tables left them (`state.newest_closed`); asked by amending folds only
    """

    rows: Lookup = nothing
    closed: Lookup = nothing


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold comes to. All tables are ordered and free of clock, host and attempt.

    delta    of the state (`state.delta_schema`)
    upserts  rows of the target (`plan.result`)
    deletes  keys that leave the target (`plan.keys`)
    late     late rows with their windows (`plan.late`)
    closed   windows that are final now or were amended, with contents, as a delta (`state.delta_schema`); empty unless
             the output amends
    counts   rows = placed + late + outside (of rows that came for the first time); late_pairs counts (row, window)
             pairs; kept: final windows that a replacement left as they were; windows, final, amended: upserts, those
             that are final, those that were final before; deleted
    left     of a replacement in sessions by inactivity: positions of rows that no session took
    """

    delta: pa.Table
    upserts: pa.Table
    deletes: pa.Table
    late: pa.Table
    closed: pa.Table
    counts: dict[str, int]
    left: pa.Table | None = None


@dataclass(slots=True)
class Job:
    """A fold while it is made: its inputs, and the tables that its parts add to.

    changed  windows whose contents changed, in `plan.state` with their new revision
    closing  open windows that become final without having changed
    gone     rows that leave the state; `entered`: rows of other kinds that enter it
    retired  final windows that are no more
    """

    connection: duckdb.DuckDBPyConnection
    plan: WindowPlan
    before_us: int
    after_us: int
    arrival: Arrival
    past: Past
    amend: bool
    changed: list[pa.Table] = field(default_factory=list)
    closing: list[pa.Table] = field(default_factory=list)
    gone: list[pa.Table] = field(default_factory=list)
    entered: list[pa.Table] = field(default_factory=list)
    deletes: list[pa.Table] = field(default_factory=list)
    retired: list[pa.Table] = field(default_factory=list)
    late: list[pa.Table] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    left: pa.Table | None = None


def fold(
    connection: duckdb.DuckDBPyConnection,
    plan: WindowPlan,
    before_state: pa.Table,
    arrival: Arrival,
    *,
    before: int | None,
    after: int | None,
    past: Past | None = None,
    amend: bool | None = None,
    holes: Sequence[tuple[int | None, int | None]] = (),
) -> Folded:
    """Fold a generation into the windows.

    before_state  state n-1 (`state.apply`); rows of keys that are neither touched nor becoming final may be left out
    before, after the watermark before and after the generation (ms, None before all times). A row is late for a window
                  that `before` had passed; windows that `after` has passed become final
    amend         whether final windows get new revisions; default: what the output declares
    holes         spans of event time (ms, half open, None for no bound) that uncovered offsets may touch: windows in
                  them are not `_complete`

    Raises WindowDefinitionError (an aggregate fails on a value), WindowLimitError, EventTimeError, and what `arrival`
    and `past` raise. The inputs are left as they are.
    """
    from airflow_provider_eventlog.core.windows import fold_grid, fold_sessions

    job = Job(
        connection,
        plan,
        micros(before),
        micros(after),
        arrival,
        past or Past(),
        plan.amends if amend is None else amend,
    )
    frames.show(connection, "_state", before_state)
    if plan.grid is not None:
        fold_grid.run(job, plan.grid)
    else:
        fold_sessions.run(job)
    return _result(job, holes)


def _result(job: Job, holes: Sequence[tuple[int | None, int | None]]) -> Folded:
    connection, plan = job.connection, job.plan
    changed, closing = frames.concat(job.changed, plan.state), frames.concat(job.closing, plan.state)
    finals = is_final(changed, job.after_us)
    published = frames.concat([changed, closing], plan.state)
    final = np.concatenate([finals, np.ones(closing.num_rows, np.bool_)])
    upserts = finish(connection, plan, published, final, _complete(published, holes))
    opened, ended = changed.filter(arrow.flags(~finals)), changed.filter(arrow.flags(finals))
    gone = _known(job, frames.concat([*job.gone, ended], plan.state))
    delta = state.make_delta(connection, plan, [*job.entered, opened], [gone, closing])
    closed = empty_table(state.delta_schema(plan))
    if job.plan.amends:
        closed = state.make_delta(connection, plan, [ended, closing], job.retired)
    job.counts |= {
        "windows": upserts.num_rows,
        "final": int(final.sum()),
        "deleted": sum(table.num_rows for table in job.deletes),
        "amended": int(is_final(changed, job.before_us).sum()) if job.amend else 0,
    }
    return Folded(
        delta,
        upserts,
        _ordered(job, frames.concat(job.deletes, plan.keys), [*plan.by, "window_start"]),
        _ordered(job, frames.concat(job.late, plan.late), ["_partition", "_offset", "_row", "_window_start"]),
        closed,
        job.counts,
        job.left,
    )


def is_final(windows: pa.Table, watermark_us: int) -> npt.NDArray[np.bool_]:
    """Which windows of a state the watermark has passed."""
    return np.asarray(frames.number(windows, "_final_at") <= watermark_us)


def _known(job: Job, windows: pa.Table) -> pa.Table:
    """Those of the windows that the state before the fold has."""
    if not windows.num_rows:
        return windows
    frames.show(job.connection, "_leaving", windows)
    on = f"{frames.same(job.plan.by, 'l', 's')} AND l._kind = s._kind AND l._start = s._start"
    return frames.fetch(job.connection, f"SELECT l.* FROM _leaving l SEMI JOIN _state s ON {on}", windows.schema)


def _complete(windows: pa.Table, holes: Sequence[tuple[int | None, int | None]]) -> npt.NDArray[np.bool_]:
    start, end = frames.number(windows, "_start"), frames.number(windows, "_end")
    whole = np.ones(len(start), np.bool_)
    for since, until in holes:
        after = -state.NEVER if since is None else since * 1000
        before = state.NEVER if until is None else until * 1000
        whole &= ~((start < before) & (end > after))
    return whole


def _ordered(job: Job, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    if table.num_rows < 2:
        return table
    frames.show(job.connection, "_unordered", table)
    order = frames.listed(columns).removesuffix(", ")
    return frames.fetch(job.connection, f"SELECT * FROM _unordered ORDER BY {order}", table.schema)
