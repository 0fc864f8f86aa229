"""Which windows a time lies in: panes, the windows that share them, and where windows begin and end.

A pane is as long as the greatest common divisor of a window's size and step, so that a window is a whole number of
panes (Li et al., "No pane, no gain", 2005). Panes and windows have numbers; those of exact grids count from the anchor
in time, those of calendar grids in days or months of the declared time zone. Beginnings are instants: where the clock
of the zone goes forward over a window's beginning, it begins when the clock does; where the clock shows it twice, it
begins the first time. All instants are microseconds since 1970 UTC.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from airflow_provider_eventlog.core.errors import WindowDefinitionError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.sqltree import EngineError
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.frames import Micros
from airflow_provider_eventlog.declare.windows_sizes import UTC, Grid

if TYPE_CHECKING:
    import duckdb

_DAY = 86_400_000_000
# The local time as an instant in the later of two readings, which is the engine's, and, where the offset of the day
# before gives an earlier one that the clock shows too, in that.
_RESOLVE = """
    WITH w AS (SELECT _w, make_timestamp(_w) AS wall FROM _walls),
    l AS (SELECT _w, wall, epoch_us(timezone($zone, wall)) AS late FROM w),
    c AS (SELECT _w, wall, late,
                 _w - (epoch_us(timezone($zone, make_timestamptz(late - 86400000000))) - (late - 86400000000)) AS early
          FROM l)
    SELECT CASE WHEN early < late AND timezone($zone, make_timestamptz(early)) = wall THEN early ELSE late END AS i
    FROM c ORDER BY _w
"""


class Placing:
    """A grid's panes and windows, in the time zone data of the session."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, grid: Grid) -> None:
        """Raises WindowDefinitionError for a time zone that the engine does not know."""
        self._connection = connection
        self.grid = grid
        self.pane = gcd(grid.size, grid.every)
        self._offset = grid.offset_ms * 1000
        epoch = self._instants(np.zeros(1, np.int64))
        self._origin = int(epoch[0]) + grid.anchor * 1000 + self._offset if grid.unit == "ms" else 0

    def panes(self, times: Micros) -> Micros:
        """The number of each time's pane."""
        if self.grid.unit == "ms":
            return np.floor_divide(times - self._origin, self.pane * 1000)
        if not len(times):
            return times
        # No clock is more than a day away from UTC, so that one of the panes around a UTC day holds its times.
        days = np.unique(_distinct(np.floor_divide(times - self._offset, _DAY))[:, None] + np.arange(-2, 3))
        units = days if self.grid.unit == "day" else _months(days)
        panes = np.unique(np.floor_divide(units - self.grid.anchor, self.pane))
        starts = self._starts(self.grid.anchor + panes * self.pane)
        return panes[np.searchsorted(starts, times, "right") - 1]

    def windows(self, panes: Micros) -> tuple[Micros, Micros]:
        """For each pane the windows that hold it, as parallel (index into `panes`, window number)."""
        start = panes * self.pane
        first = -np.floor_divide(self.grid.size - self.pane - start, self.grid.every)
        count = np.floor_divide(start, self.grid.every) - first + 1
        index = np.repeat(np.arange(len(panes)), count)
        before = np.repeat(np.cumsum(count) - count, count)
        return index, first[index] + np.arange(len(index)) - before

    def bounds(self, windows: Micros) -> tuple[Micros, Micros]:
        """Where each window begins and ends. A day that the zone has left out begins where it ends."""
        start = windows * self.grid.every
        if self.grid.unit == "ms":
            return self._origin + start * 1000, self._origin + (start + self.grid.size) * 1000
        start = start + self.grid.anchor
        return self._starts(start), self._starts(start + self.grid.size)

    def spans(self, panes: Micros) -> tuple[Micros, Micros]:
        """Where each pane begins and ends."""
        start = panes * self.pane
        if self.grid.unit == "ms":
            return self._origin + start * 1000, self._origin + (start + self.pane) * 1000
        start = start + self.grid.anchor
        return self._starts(start), self._starts(start + self.pane)

    def _starts(self, units: Micros) -> Micros:
        if self.grid.unit == "day":
            walls = units * _DAY
        else:
            walls = units.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
        return self._instants(walls + self._offset)

    def _instants(self, walls: Micros) -> Micros:
        """Local times of the zone as instants."""
        if self.grid.timezone == UTC:
            return walls
        return _zone(self.grid.timezone).instants(self._connection, walls)


class _Zone:
    """Instants of a time zone's local times, each asked of the engine once in a process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._known: tuple[Micros, Micros] = np.empty(0, np.int64), np.empty(0, np.int64)

    def instants(self, connection: duckdb.DuckDBPyConnection, walls: Micros) -> Micros:
        """The instant of each local time; raises WindowDefinitionError."""
        known, found = self._known
        missing = np.setdiff1d(walls, known)
        if len(missing):
            frames.show(connection, "_walls", frames.numbers_table(_w=missing))
            try:
                table = connection.sql(_RESOLVE, params={"zone": self._name}).to_arrow_table()
            except EngineError() as error:
                raise WindowDefinitionError(
                    f"The time zone {printable(self._name)} cannot be used: {printable(str(error), 200)}."
                ) from error
            both = np.concatenate([known, missing])
            order = np.argsort(both)
            known, found = both[order], np.concatenate([found, frames.number(table, "i")])[order]
            # Replaced as one, so that another thread sees either.
            self._known = known, found
        return found[np.searchsorted(known, walls)]


@lru_cache(maxsize=64)
def _zone(name: str) -> _Zone:
    return _Zone(name)


def _distinct(days: Micros) -> Micros:
    low, high = int(days.min()), int(days.max())
    if high - low > 4 * len(days) + 100_000:
        return np.unique(days)
    # Marking is ten times faster than sorting.
    seen = np.zeros(high - low + 1, np.bool_)
    seen[days - low] = True
    return np.flatnonzero(seen) + low


def _months(days: Micros) -> Micros:
    return np.unique(days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64))
