"""Instants for people."""

from __future__ import annotations

from datetime import UTC, datetime

# The instant of the cut at the beginning of the log: before every interval that a schedule can have.
BEGINNING = 0


def when(instant: int) -> str:
    """An instant in words: ISO text in UTC, or `the beginning`."""
    if instant == BEGINNING:
        return "the beginning"
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
