"""What must come out, in plain Python: rows of ranges under a recipe, and windows by brute force."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_eventlog.core.offsets import OffsetRange
from tests.property.world.declared import HELD, LEFT_OUT, RECIPES
from tests.property.world.log import Record, Topic

Row = tuple[int, int, str | None, int, datetime]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def landed(topic: Topic, wanted: OffsetRange, losses: Iterable[OffsetRange]) -> dict[int, Record]:
    """The records that a landed range holds: the committed ones that are not lost."""
    lost = {o for r in losses if r.partition == wanted.partition for o in range(r.start, r.end)}
    return {o: r for o, r in topic.committed(wanted).items() if o not in lost}


def rows(topic: Topic, ranges: Iterable[OffsetRange], losses: Iterable[OffsetRange], recipe: int) -> list[Row]:
    """(partition, offset, k, v, ts) of the rows that a recipe makes of landed ranges, in order."""
    factor, gone, found = RECIPES[recipe][1], tuple(losses), []
    for wanted in ranges:
        for offset, record in landed(topic, wanted, gone).items():
            if record.value is None:
                continue
            told = json.loads(record.value)
            if told["v"] != LEFT_OUT:
                at = _EPOCH + timedelta(milliseconds=told["ms"])
                found.append((wanted.partition, offset, told["k"], told["v"] * factor, at))
    return sorted(found, key=lambda row: row[:2])


def held(of: Iterable[Row], recipe: int) -> bool:
    """Whether the gate holds such rows."""
    _, factor, checks = RECIPES[recipe]
    return bool(checks) and any(row[3] == HELD * factor for row in of)


def windows(of: Iterable[Row]) -> Mapping[tuple[str | None, datetime], tuple[int, int]]:
    """{(key, start of its minute): (rows, sum)}."""
    found: dict[tuple[str | None, datetime], tuple[int, int]] = {}
    for _, _, key, value, at in of:
        start = at.replace(second=0, microsecond=0)
        count, total = found.get((key, start), (0, 0))
        found[key, start] = (count + 1, total + value)
    return found


def of_table(found: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A table's rows in the same form."""
    made = [(r["_partition"], r["_offset"], r["k"], r["v"], r["ts"].astimezone(UTC)) for r in found]
    return sorted(made, key=lambda row: row[:2])
