"""Rows of each key in the order of time, cut into sessions: by inactivity, or between events.

All functions work on columns of rows sorted by group and time (and position, where times are equal). A group is a key,
or a part of its time that nothing outside can touch. `final` sessions are those that had become final before the rows
came and that rows can still touch: of each group at most one, the last, given by its first and last time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Micros = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# The session of rows that are in none.
NONE = -1


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions in row order.

    of        for each row its session, NONE for a row that is late or in no session
    late      which rows are late; `since` and `until` bound the windows that they are late for (0, 0 for none)
    first, last, end, final_at  of each session: its first time; the last time at which a row is still its own; its end;
              the watermark from which it is final
    """

    of: Micros
    late: Flags
    since: Micros
    until: Micros
    first: Micros
    last: Micros
    end: Micros
    final_at: Micros


@dataclass(frozen=True, slots=True)
class Rows:
    """Sorted rows: their group, time, and whether they come with this fold.

    final_first, final_last, final_end  the final session of each row's group; `final_last` before all times for none
    """

    group: Micros
    time: Micros
    new: Flags
    final_first: Micros
    final_last: Micros
    final_end: Micros


def by_gap(rows: Rows, gap: int, longest: int, lateness: int, watermark: int, *, amend: bool) -> Sessions:
    """Sessions by inactivity.

    A row joins the session before it if it is at most `gap` after its last row and less than `longest` after its first.
    It is late if it would join a session that is final, or if all rows of its session are new and the session was final
    (by `watermark`) before they came; unless final sessions are amended. Rows of the final session drop out.
    """
    t = rows.time
    count = len(t)
    late, since, until = np.zeros(count, np.bool_), t.copy(), np.minimum(t + gap, t + longest)
    touching = (t - rows.final_last <= gap) & (t < rows.final_first + longest)
    frozen = (t <= rows.final_last) | touching
    late[frozen & rows.new] = True
    inside = frozen & (t >= rows.final_first)
    since[inside], until[inside] = rows.final_first[inside], rows.final_end[inside]
    left = np.flatnonzero(~frozen)
    begins = _begins(rows.group[left], t[left], gap, longest)
    of_left = np.cumsum(begins) - 1
    starts = np.flatnonzero(begins)
    first = t[left][starts]
    last = t[left][np.append(starts[1:], len(left))[: len(starts)] - 1] if len(starts) else first
    end = np.minimum(last + gap, first + longest)
    final_at = np.minimum(last + gap + 1, first + longest) + lateness
    old = np.zeros(len(starts), np.bool_)
    old[of_left[~rows.new[left]]] = True
    too_late = np.zeros(len(starts), np.bool_) if amend else ~old & (final_at <= watermark)
    of = np.full(count, NONE, np.int64)
    number = np.where(too_late, NONE, np.cumsum(~too_late) - 1)
    of[left] = number[of_left] if len(starts) else NONE
    gone = left[too_late[of_left]] if len(starts) else left[:0]
    late[gone] = True
    mine = of_left[too_late[of_left]] if len(starts) else of_left[:0]
    since[gone], until[gone] = first[mine], end[mine]
    stay = ~too_late
    return Sessions(of, late, since, until, first[stay], last[stay], end[stay], final_at[stay])


def _begins(group: Micros, t: Micros, gap: int, longest: int) -> Flags:
    """Which rows begin a session."""
    count = len(t)
    begins = np.ones(count, np.bool_)
    if not count:
        return begins
    begins[1:] = (group[1:] != group[:-1]) | (t[1:] - t[:-1] > gap)
    chain = np.cumsum(begins) - 1
    starts = np.flatnonzero(begins)
    spans = t[np.append(starts[1:], count) - 1] - t[starts]
    long = (spans >= longest)[chain]
    if long.any():
        begins[long] = _cut(t[long], begins[long], longest)
    return begins


def _cut(t: Micros, begins: Flags, longest: int) -> Flags:
    """Which rows begin a session once no session may be longer, in chains of which the first rows are given."""
    count = len(t)
    chain, starts = np.cumsum(begins) - 1, np.flatnonzero(begins)
    spans = t[np.append(starts[1:], count) - 1] - t[starts]
    # All chains on one line, each further than `longest` from the next, so that one search finds for every row the row
    # that would begin the next session if it began one.
    base = np.cumsum(spans + longest + 1) - (spans + longest + 1)
    line = t - t[starts][chain] + base[chain]
    jump = np.append(np.searchsorted(line, line + longest, "left"), count)
    # From the chains' starts along the jumps, twice as far each time.
    reached = np.append(begins, False)
    while (jump < count).any():
        reached[jump[reached]] = True
        reached[count] = False
        jump = jump[jump]
    return reached[:count]


@dataclass(frozen=True, slots=True)
class Events:
    """Which rows begin and end a session, and the time from which a group's rows are not here."""

    start: Flags
    end: Flags
    until: Micros


def by_events(
    rows: Rows, events: Events, longest: int | None, lateness: int, watermark: int, never: int, *, amend: bool
) -> Sessions:
    """Sessions between events.

    A session goes from a row that starts one to the first row that ends it, to the next start, or to `longest` after
    its start; of several starts at one instant the first counts. A row is late if it lies at or before the last time of
    its group's final session, or so far back that no open session could hold it, or if it comes with a session that
    begins with a new row and was final before; unless final sessions are amended.
    """
    t = rows.time
    count = len(t)
    late, since, until = np.zeros(count, np.bool_), np.zeros(count, np.int64), np.zeros(count, np.int64)
    frozen = t <= rows.final_last
    inside = frozen & (t >= rows.final_first)
    since[inside], until[inside] = rows.final_first[inside], rows.final_end[inside]
    if longest is not None and not amend:
        frozen |= rows.new & (t + longest + lateness <= watermark)
    late[frozen & rows.new] = True
    out = frozen.copy()
    while True:
        left = np.flatnonzero(~out)
        of_left, first_row = _segments(rows.group[left], t[left], events.start[left], events.end[left], longest)
        first, last, end, final_at = _ends(rows, events, left, of_left, first_row, longest, lateness, never)
        too_late = np.zeros(len(first), np.bool_)
        if not amend:
            too_late = rows.new[left[first_row]] & (final_at <= watermark)
        hit = (of_left != NONE) & too_late[of_left] & rows.new[left] if len(first) else np.zeros(len(left), np.bool_)
        if not hit.any():
            break
        gone, mine = left[hit], of_left[hit]
        late[gone], out[gone] = True, True
        since[gone], until[gone] = first[mine], end[mine]
    of = np.full(count, NONE, np.int64)
    of[left] = of_left
    # At the very instant at which the final session was ended by the start of the next, before that start.
    missed = rows.new & (of == NONE) & ~late & (t == rows.final_end) & (rows.final_last == t - 1)
    late[missed] = True
    since[missed], until[missed] = rows.final_first[missed], rows.final_end[missed]
    return Sessions(of, late, since, until, first, last, end, final_at)


def _segments(group: Micros, t: Micros, start: Flags, end: Flags, longest: int | None) -> tuple[Micros, Micros]:
    """The session of each row, and the first row of each session."""
    count = len(t)
    starts = np.flatnonzero(start)
    if len(starts) > 1:
        again = (group[starts[1:]] == group[starts[:-1]]) & (t[starts[1:]] == t[starts[:-1]])
        starts = starts[np.append(True, ~again)]
    if not len(starts):
        return np.full(count, NONE, np.int64), starts
    of = np.searchsorted(starts, np.arange(count), "right") - 1
    first = starts[np.maximum(of, 0)]
    ended: Micros = np.cumsum(end) - end
    out = (of < 0) | (group[first] != group) | (ended > ended[first])
    if longest is not None:
        out |= t >= t[first] + longest
    of[out] = NONE
    return of, starts


def _ends(
    rows: Rows,
    events: Events,
    left: Micros,
    of: Micros,
    first_row: Micros,
    longest: int | None,
    lateness: int,
    never: int,
) -> tuple[Micros, Micros, Micros, Micros]:
    """First and last time, end, and the watermark from which it is final, of each session."""
    t, group = rows.time[left], rows.group[left]
    first = t[first_row]
    following = np.full(len(first), never, np.int64)
    if len(first):
        following = events.until[left][first_row].copy()
        next_row = first_row[1:]
        same = group[next_row] == group[first_row[:-1]]
        following[:-1][same] = t[next_row][same]
    limit = np.full(len(first), never, np.int64) if longest is None else first + longest
    closing = np.flatnonzero(events.end[left] & (of != NONE))
    closed = np.full(len(first), never, np.int64)
    closed[of[closing]] = t[closing]
    seen = first.copy()
    inside = np.flatnonzero(of != NONE)
    np.maximum.at(seen, of[inside], t[inside])
    # Rows may still come for the instant at which another row ends it, but none for the one at which its time is up.
    by_row = np.minimum(closed, following) < limit
    over = np.minimum(closed, np.minimum(following, limit))
    ended = over < never
    last = np.where(closed < never, closed, np.where(ended, over - 1, seen))
    end = np.where(ended, over, seen)
    final_at = np.where(ended, over + by_row + lateness, never)
    return first, last, end, final_at
