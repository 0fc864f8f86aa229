"""Sizes of windows as people write them: exact such as `"10 minutes"`, or by the calendar such as `"1 month"`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare.duration import milliseconds

UTC = "UTC"
DAY_MS = 86_400_000
_CALENDAR = {"d": ("day", 1), "day": ("day", 1), "week": ("week", 1), "month": ("month", 1), "quarter": ("month", 3)}
_CALENDAR["year"] = ("month", 12)
_TEXT = re.compile(r"([0-9]{1,6})\s*([a-z]+)")
# The first Monday after the epoch, which was a Thursday: weeks start on Mondays.
_MONDAY = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """Window k covers `size` units from `anchor + k * every` units after the epoch, shifted by `offset_ms`.

    unit      "ms", exact time; "day" or "month", by the calendar of `timezone`
    timezone  where the epoch (1970-01-01 00:00), days and months are local; "UTC" for exact ones unless declared
    """

    unit: str
    size: int
    every: int
    anchor: int
    offset_ms: int
    timezone: str

    @property
    def longest_ms(self) -> int:
        """No window is longer, whatever the clock of its zone does."""
        if self.unit == "ms":
            return self.size
        return (self.size * (1 if self.unit == "day" else 31) + 1) * DAY_MS

    def canonical(self) -> dict[str, Any]:
        """The grid as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def grid(where: str, size: object, every: object, timezone: str, offset: object) -> Grid:
    """The grid of declared sizes; raises DeclarationError that names the field.

    Days and weeks of UTC are exact: each has 24 hours.
    """
    check_timezone(where, timezone)
    unit, length, week = _size(f"{where}: size", size, timezone)
    step_unit, step, weekly = _size(f"{where}: every", every, timezone)
    if unit != step_unit:
        raise DeclarationError(
            f"{where}: size={printable(size)} and every={printable(every)} must be of one kind: both exact, both in "
            f"days or weeks, or both in months or years."
        )
    if step > length:
        raise DeclarationError(
            f"{where}: every={printable(every)} is longer than size={printable(size)}: rows would fall between windows."
        )
    shift = milliseconds(f"{where}: offset", offset)  # type: ignore[arg-type]
    shortest = {"ms": 1, "day": DAY_MS, "month": 28 * DAY_MS}[unit] * step
    if shift >= shortest:
        raise DeclarationError(f"{where}: offset={printable(offset)} must be shorter than the windows' step.")
    monday = _MONDAY * (DAY_MS if unit == "ms" else 1)
    return Grid(unit, length, step, monday if week and weekly else 0, shift, timezone)


def check_timezone(where: str, name: object) -> None:
    """Raise DeclarationError unless `name` is a time zone of the IANA database."""
    if name == UTC:
        return
    import zoneinfo

    try:
        if isinstance(name, str):
            zoneinfo.ZoneInfo(name)
            return
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise DeclarationError(
        f"{where}: timezone={printable(name)} is not known; name one of the IANA database, such as 'Europe/Berlin'."
    )


def positive(knob: str, value: object) -> int:
    """`value` in whole milliseconds, at least 1; raises DeclarationError naming `knob`."""
    result = milliseconds(knob, value)  # type: ignore[arg-type]
    if result < 1:
        raise DeclarationError(f"{knob}={printable(value)} must be at least a millisecond.")
    return result


def _size(knob: str, value: object, timezone: str) -> tuple[str, int, bool]:
    """Unit, how many, and whether it was written in weeks."""
    if isinstance(value, str) and (match := _TEXT.fullmatch(value.strip().lower())):
        found = _CALENDAR.get(match[2]) or _CALENDAR.get(match[2].removesuffix("s"))
        if found is not None:
            unit, count = found[0], int(match[1]) * found[1]
            if count < 1:
                raise DeclarationError(f"{knob}={printable(value)} must be at least one {unit}.")
            if unit == "month":
                return "month", count, False
            days = count * (7 if unit == "week" else 1)
            return ("ms", days * DAY_MS, unit == "week") if timezone == UTC else ("day", days, unit == "week")
    if isinstance(value, (str, timedelta, int, float)) and not isinstance(value, bool):
        return "ms", positive(knob, value), False
    raise DeclarationError(
        f"{knob}={printable(value)} is not a size; write for example '10 minutes', '1 day', '1 month'."
    )
