"""Windows over the rows of a pipeline: fixed, sliding and session, and the output that aggregates by them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_column, check_name, printable
from airflow_provider_eventlog.declare.duration import milliseconds
from airflow_provider_eventlog.declare.outputs import DuckDB
from airflow_provider_eventlog.declare.windows_sizes import UTC, Grid, grid, positive

Duration = str | timedelta | float
TIMES = ("event", "ingest", "processing")
ON_LATE = ("late", "amend")
FILLS = ("null", "zero")
# The columns of a windows table that are not keys or aggregates.
BOUNDS = ("window_start", "window_end")


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Fixed windows, one after another: every row lies in exactly one.

    size      exact ("10 minutes", "1 hour"), or by the calendar ("1 day", "1 week", "1 month", "1 year")
    timezone  an IANA name: where days, months and years begin. A day may have 23 or 25 hours there, an hour never
    offset    shifts all windows, for example size="1 day", offset="6 hours"

    Windows are aligned to 1970-01-01 00:00 of `timezone`; weeks begin on Mondays.
    """

    size: Duration
    _: KW_ONLY
    timezone: str = UTC
    offset: Duration = 0
    grid: Grid = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", grid("Tumbling", self.size, self.size, self.timezone, self.offset))

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {"tumbling": self.grid.canonical()}


@dataclass(frozen=True, slots=True)
class Hopping:
    """Sliding windows of `size` that begin `every` so often; they overlap where `every` is shorter than `size`.

    `size` and `every` are both exact, both in days or weeks, or both in months or years; `timezone` and `offset` are
    those of `Tumbling`.
    """

    size: Duration
    every: Duration
    _: KW_ONLY
    timezone: str = UTC
    offset: Duration = 0
    grid: Grid = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", grid("Hopping", self.size, self.every, self.timezone, self.offset))

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {"hopping": self.grid.canonical()}


@dataclass(frozen=True, slots=True)
class Session:
    """Windows that the rows of each key make themselves, by inactivity or between two events.

    gap           a row joins the session before it if they are at most this far apart
    max_duration  no session is longer: a row that far after the session's first begins another one. Needed with `gap`,
                  since a key that never rests would keep its session open for ever
    start, end    instead of `gap`: SQL conditions over the row's columns. A row for which `start` holds begins a
                  session and ends the one before; one for which `end` holds is its session's last. Rows outside are in
                  no window. A session without an end stays open until `max_duration`, if there is one
    """

    gap: Duration | None = None
    max_duration: Duration | None = None
    _: KW_ONLY
    start: str | None = None
    end: str | None = None

    def __post_init__(self) -> None:
        by_events = self.start is not None or self.end is not None
        if by_events:
            for knob, text in (("start", self.start), ("end", self.end)):
                if not isinstance(text, str) or not text.strip():
                    raise DeclarationError(
                        f"Session: {knob}={printable(text)} must be an SQL condition, such as kind = 'login'; start "
                        f"and end belong together."
                    )
            if self.gap is not None:
                raise DeclarationError("Session: gap has no meaning beside start and end; choose one of the two kinds.")
        elif self.gap is None:
            raise DeclarationError("Session: gap is missing; give gap and max_duration, or start and end.")
        else:
            positive("Session: gap", self.gap)
            if self.max_duration is None:
                raise DeclarationError(
                    "Session: max_duration is missing; a key that never rests would keep its session open for ever."
                )
        if self.max_duration is not None:
            longest = positive("Session: max_duration", self.max_duration)
            if self.gap_ms is not None and longest < self.gap_ms:
                raise DeclarationError("Session: max_duration must not be shorter than gap.")

    @property
    def gap_ms(self) -> int | None:
        """The gap in milliseconds; None for a session between events."""
        return None if self.gap is None else milliseconds("Session: gap", self.gap)

    @property
    def max_duration_ms(self) -> int | None:
        """The longest duration in milliseconds; None for no bound."""
        return None if self.max_duration is None else milliseconds("Session: max_duration", self.max_duration)

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {
            "session": {
                "gap_ms": self.gap_ms,
                "max_duration_ms": self.max_duration_ms,
                "start": self.start,
                "end": self.end,
            }
        }


@dataclass(frozen=True, slots=True)
class Windows:
    """Aggregates of the pipeline's rows by window and key, one row each in the target.

    window      Tumbling, Hopping or Session
    by          columns that make the key; NULL is a key of its own
    aggregates  {column: SQL aggregate}. count, count_null, count_if, sum, min, max, avg, stddev, variance (sample and
                population), first and last, with FILTER, and expressions of them, are merged from partial results;
                anything else is computed again from the rows of every window that changed
    time        "event": the pipeline's event time, or the record's timestamp where there is none. "ingest": the
                broker's timestamp, or the batch's end where the topic has none. "processing": the batch's end
    disorder    how far the watermark stays behind the greatest time seen
    allowed_lateness  how long after its end a window still takes rows
    on_late     what becomes of a row for a window that is final: "late" puts it into the late output, "amend" publishes
                a new revision of the window
    fill        also give a key's windows without rows between its first and its last one: "null" with what the
                aggregates are over no rows, "zero" with 0 for numbers
    target      the table. Its key is `by` and `window_start`
    late        a table to which late rows are loaded as well, each with its window; None keeps them in staging only

    Raises DeclarationError; the aggregates' SQL is checked when a run is planned.
    """

    window: Tumbling | Hopping | Session
    _: KW_ONLY
    aggregates: Mapping[str, str]
    target: DuckDB
    by: Sequence[str] = ()
    time: str = "event"
    disorder: Duration = 0
    allowed_lateness: Duration = 0
    on_late: str = "late"
    fill: str | None = None
    late: DuckDB | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.target, DuckDB):
            raise DeclarationError(f"Windows: target={printable(self.target)} must be a target such as DuckDB(...).")
        if self.late is not None and not isinstance(self.late, DuckDB):
            raise DeclarationError(f"Windows: late={printable(self.late)} must be a target such as DuckDB(...).")
        object.__setattr__(self, "name", check_name("output", self.name or self.target.table))
        where = f"Windows {self.name!r}"
        if not isinstance(self.window, (Tumbling, Hopping, Session)):
            raise DeclarationError(
                f"{where}: window={printable(self.window)} must be Tumbling(...), Hopping(...) or Session(...)."
            )
        self._check_columns(where)
        for knob, words in (("time", TIMES), ("on_late", ON_LATE)):
            if getattr(self, knob) not in words:
                raise DeclarationError(
                    f"{where}: {knob}={printable(getattr(self, knob))} is not one of {', '.join(words)}."
                )
        milliseconds(f"{where}: disorder", self.disorder)
        milliseconds(f"{where}: allowed_lateness", self.allowed_lateness)
        if self.fill is not None and self.fill not in FILLS:
            raise DeclarationError(f"{where}: fill={printable(self.fill)} is not None, 'null' or 'zero'.")
        if self.fill is not None and isinstance(self.window, Session):
            raise DeclarationError(f"{where}: fill has no meaning for sessions: there is none without rows.")

    def _check_columns(self, where: str) -> None:
        if not isinstance(self.by, (list, tuple)) or not all(isinstance(name, str) for name in self.by):
            raise DeclarationError(f"{where}: by={printable(self.by)} must be a list of column names.")
        object.__setattr__(self, "by", tuple(self.by))
        if not isinstance(self.aggregates, Mapping) or not self.aggregates:
            raise DeclarationError(f"{where}: aggregates must be {{column: SQL aggregate}} with at least one of them.")
        object.__setattr__(self, "aggregates", dict(self.aggregates))
        taken = set(BOUNDS)
        for name in (*self.by, *self.aggregates):
            check_column(name)
            if name.startswith("_"):
                raise DeclarationError(f"{where}: the column {printable(name)} starts with '_', which is kept.")
            if name.casefold() in taken:
                raise DeclarationError(
                    f"{where}: the column {printable(name)} is there twice; keys, aggregates, {' and '.join(BOUNDS)} "
                    f"must differ (case does not count)."
                )
            taken.add(name.casefold())
        for name, text in self.aggregates.items():
            if not isinstance(text, str) or not text.strip():
                raise DeclarationError(f"{where}: aggregates[{printable(name)}] must be SQL, such as count(*).")

    @property
    def disorder_ms(self) -> int:
        """The disorder in milliseconds."""
        return milliseconds("disorder", self.disorder)

    @property
    def allowed_lateness_ms(self) -> int:
        """The allowed lateness in milliseconds."""
        return milliseconds("allowed_lateness", self.allowed_lateness)

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values; the order of keys and aggregates, which is the table's, is part of it."""
        return {
            "windows": {
                "name": self.name,
                "window": self.window.canonical(),
                "by": list(self.by),
                "aggregates": [[name, text] for name, text in self.aggregates.items()],
                "time": self.time,
                "disorder_ms": self.disorder_ms,
                "allowed_lateness_ms": self.allowed_lateness_ms,
                "on_late": self.on_late,
                "fill": self.fill,
                "target": self.target.canonical(),
                "late": None if self.late is None else self.late.canonical(),
            }
        }

    def __hash__(self) -> int:
        return hash(json.dumps(self.canonical(), sort_keys=True))
