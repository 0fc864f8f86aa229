"""Durations as people write them: `"10 minutes"`, `"1 hour"`, a timedelta, or seconds."""

from __future__ import annotations

import re
from datetime import timedelta

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import printable

_UNITS = {
    "ms": 1,
    "millisecond": 1,
    "s": 1000,
    "second": 1000,
    "min": 60_000,
    "minute": 60_000,
    "h": 3_600_000,
    "hour": 3_600_000,
    "d": 86_400_000,
    "day": 86_400_000,
    "week": 604_800_000,
}
_TEXT = re.compile(r"([0-9]{1,12})\s*([a-z]+)")


def milliseconds(knob: str, value: str | timedelta | float) -> int:
    """`value` in whole milliseconds, at least 0; a bare number is seconds. Raises DeclarationError naming `knob`."""
    result: float | None = None
    if isinstance(value, timedelta):
        result = value.total_seconds() * 1000
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = value * 1000
    elif isinstance(value, str) and (match := _TEXT.fullmatch(value.strip().lower())):
        unit = _UNITS.get(match[2]) or _UNITS.get(match[2].removesuffix("s"))
        result = int(match[1]) * unit if unit else None
    if result is None or not 0 <= result < 2**53:
        raise DeclarationError(
            f"{knob}={printable(value)} is not a duration; write for example '10 minutes', '1 hour' or a timedelta."
        )
    return int(result)
