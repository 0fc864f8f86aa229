"""Windows by brute force: lists, loops, fractions, the standard library's time zones; nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Key = tuple[Any, ...]
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Event:
    """One typed row; `time` in microseconds since 1970 UTC."""

    key: str | None
    time: int
    i: int | None
    d: Decimal | None
    f: float | None
    kind: str
    partition: int
    offset: int

    @property
    def order(self) -> tuple[int, int, int]:
        """The total order of rows."""
        return self.time, self.partition, self.offset


def micros(at: datetime) -> int:
    """A datetime as microseconds since 1970 UTC."""
    return (at - EPOCH) // timedelta(microseconds=1)


def exact_windows(size: int, every: int, anchor: int = 0) -> Callable[[int], list[Bounds]]:
    """Windows of exact length that begin every so often; all in microseconds."""

    def of(time: int) -> list[Bounds]:
        newest = (time - anchor) // every * every + anchor
        starts = [newest - n * every for n in range(size // every + 2)]
        return sorted((s, s + size) for s in starts if s <= time < s + size)

    return of


def calendar_windows(
    unit: str, size: int, every: int, zone: str, offset: timedelta = timedelta(0)
) -> Callable[[int], list[Bounds]]:
    """Windows of days or months of a time zone."""
    tz = ZoneInfo(zone)

    def begin(number: int) -> int:
        if unit == "day":
            wall = datetime(1970, 1, 1) + timedelta(days=number)
        else:
            wall = datetime(1970 + number // 12, 1 + number % 12, 1)
        return micros((wall + offset).replace(tzinfo=tz).astimezone(UTC))

    def of(time: int) -> list[Bounds]:
        wall = (EPOCH + timedelta(microseconds=time)).astimezone(tz)
        here = (wall.date() - EPOCH.date()).days if unit == "day" else (wall.year - 1970) * 12 + wall.month - 1
        newest = here // every * every
        starts = [newest + n * every for n in range(-size // every - 3, 4)]
        found = [(begin(s), begin(s + size)) for s in starts]
        return sorted(b for b in found if b[0] <= time < b[1])

    return of


def gap_sessions(events: Iterable[Event], gap: int, longest: int) -> list[list[Event]]:
    """One key's sessions by inactivity."""
    found: list[list[Event]] = []
    for event in sorted(events, key=lambda e: e.order):
        now = found[-1] if found else None
        if now and event.time - now[-1].time <= gap and event.time < now[0].time + longest:
            now.append(event)
        else:
            found.append([event])
    return found


def gap_bounds(session: list[Event], gap: int, longest: int) -> Bounds:
    """Where a session by inactivity begins and ends."""
    return session[0].time, min(session[-1].time + gap, session[0].time + longest)


@dataclass
class Between:
    """A session between events while it is read: its rows, its end, and whether a row ended it."""

    rows: list[Event]
    end: int | None = None
    by_row: bool = False


def event_sessions(events: Iterable[Event], longest: int | None) -> tuple[list[Between], list[Event]]:
    """One key's sessions from "login" to "logout", and the rows outside of them."""
    found: list[Between] = []
    outside: list[Event] = []
    now: Between | None = None
    started: int | None = None
    for event in sorted(events, key=lambda e: e.order):
        if now is not None and longest is not None and event.time >= now.rows[0].time + longest:
            now.end = now.rows[0].time + longest
            now = None
        if event.kind == "login" and started != event.time:
            if now is not None:
                now.end, now.by_row = event.time, True
            started = event.time
            now = Between([])
            found.append(now)
        if now is None:
            outside.append(event)
            continue
        now.rows.append(event)
        if event.kind == "logout":
            now.end, now.by_row = event.time, True
            now = None
    if now is not None and longest is not None:
        now.end = now.rows[0].time + longest
    return found, outside


def between_bounds(session: Between) -> tuple[int, int]:
    """Where a session between events begins and ends; while it is open, at its last row."""
    return session.rows[0].time, session.rows[-1].time if session.end is None else session.end


def _half_up(value: Fraction, digits: int) -> Decimal:
    with localcontext() as context:
        context.prec = 80
        scaled = abs(value) * 10**digits
        whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
        return (
            (Decimal(-whole if value < 0 else whole))
            .scaleb(-digits)
            .quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
        )


def aggregate(events: list[Event]) -> dict[str, Any]:
    """What the aggregates of `world.AGGREGATES` are over events, floats apart."""
    rows = sorted(events, key=lambda e: e.order)
    ints = [e.i for e in rows if e.i is not None]
    decs = [e.d for e in rows if e.d is not None]
    spread = None
    if len(ints) > 1:
        mean = Fraction(sum(ints), len(ints))
        spread = float(sum((x - mean) ** 2 for x in ints) / (len(ints) - 1))
    return {
        "n": len(rows),
        "nulls": len(rows) - len(ints),
        "s": Decimal(sum(ints)) if ints else None,
        "m": float(Fraction(sum(ints), len(ints))) if ints else None,
        "v": spread,
        "lo": min(decs, default=None),
        "hi": max(decs, default=None),
        "md": _half_up(sum(map(Fraction, decs), Fraction(0)) / len(decs), 1) if decs else None,
        "f1": ints[0] if ints else None,
        "l1": rows[-1].kind if rows else None,
        "u": len(set(ints)),
        "ds": Decimal(sum(set(ints))) if ints else None,
        "_rows": len(rows),
        "_partitions": len({e.partition for e in rows}),
    }


def float_bounds(events: list[Event]) -> dict[str, tuple[float, float] | None]:
    """The exact value of each floating aggregate, and how far from it a result may be."""
    values = [e.f for e in events if e.f is not None]
    if not values:
        return {"sf": None, "vf": None}
    unit, count = 2.0**-53, len(values)
    total = math.fsum(values)
    size = math.fsum(abs(x) for x in values)
    squares = math.fsum(x * x for x in values)
    mean = sum(map(Fraction, values), Fraction(0)) / count
    deviation = float(sum((Fraction(x) - mean) ** 2 for x in values))
    spread = None if count < 2 else (deviation / (count - 1), 4 * count * unit * squares / (count - 1) + 1e-300)
    return {"sf": (total, (count + 1) * unit * size + 1e-300), "vf": spread}
