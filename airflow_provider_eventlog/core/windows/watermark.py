"""The watermark: the event time before which input is believed complete.

    watermark(n) = max(watermark(n-1), min over non-empty partitions of (greatest believed event time - disorder))

What the formula leaves open: a partition whose records have no row in the output (all filtered, or tombstones) says
nothing of time and does not count; one whose rows are all dated beyond belief holds the watermark. Only a batch without
a single record is empty. All instants are milliseconds since 1970 UTC; None is before all times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from airflow_provider_eventlog.core.windows import frames


@dataclass(frozen=True, slots=True)
class Seen:
    """What one slice of a partition shows of time.

    records   landed records
    rows      typed rows that enter the windows
    greatest  greatest believed time of these rows, rounded down; None if there is none
    """

    partition: int
    records: int
    rows: int
    greatest: int | None


def look(rows: pa.Table, time: str | None, partition: int, records: int, believed_until: int) -> Seen:
    """What a slice shows: of its typed rows, those dated up to `believed_until` (plan's instant plus skew) count.

    Raises EventTimeError as `frames.times` does.
    """
    times = frames.times(rows, time)
    believed = times[times <= believed_until * 1000]
    greatest = int(believed.max()) // 1000 if len(believed) else None
    return Seen(partition, records, rows.num_rows, greatest)


def advance(before: int | None, seen: Iterable[Seen], disorder: int, *, instant: int | None, chain: bool) -> int | None:
    """The watermark after a batch.

    instant  of the batch's end if that is a scheduled cut; an empty batch advances to it, less `disorder`
    chain    whether it is a chain batch; others never move the watermark
    """
    if not chain:
        return before
    slices = list(seen)
    believed: dict[int, list[int]] = {one.partition: [] for one in slices if one.rows}
    for one in slices:
        if one.greatest is not None:
            believed[one.partition].append(one.greatest)
    reached: int | None = None
    if believed:
        held = any(not times for times in believed.values())
        reached = None if held else min(max(times) for times in believed.values()) - disorder
    elif instant is not None and not any(one.records for one in slices):
        reached = instant - disorder
    return later(before, reached)


def processed(before: int | None, end: int | None, *, chain: bool) -> int | None:
    """The watermark after a batch whose rows are all dated just before the batch's end (`at_end`)."""
    return later(before, end) if chain else before


def at_end(end: int) -> int:
    """The instant that rows have by the time of processing: the last one of their batch."""
    return end - 1


def later(one: int | None, other: int | None) -> int | None:
    """The later of two watermarks."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def micros(watermark: int | None) -> int:
    """The watermark in microseconds; far before all times for None."""
    return -(2**62) if watermark is None else watermark * 1000
