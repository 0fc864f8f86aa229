"""The equations that every stage must satisfy, and the records they are kept in.

In offsets, per slice:  length = landed + invisible + lost;  landed = typed + tombstones + undecodable.
In rows, per output:    typed = kept + filtered;  passed + rejected = kept + exploded.
`kept` are typed rows with at least one output row, `exploded` the further copies that the transform made of them.
What is undecodable (records) and rejected (rows that break a check, or have no event time) stands in the quarantine.
A difference of one is an AccountingError that names the slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import PartRecord, SliceRecord

LANDING = ("length", "landed", "invisible", "aborted", "lost", "bytes")
TRANSFORM = ("landed", "tombstones", "undecodable", "typed", "filtered", "exploded", "rejected", "passed")


def landing_counts(record: SliceRecord) -> dict[str, int]:
    """A slice's landing in numbers; raises AccountingError if they do not balance."""
    counts = {
        "length": len(record.range),
        "landed": record.rows,
        "invisible": record.invisible,
        "aborted": record.aborted,
        "lost": record.lost,
        "bytes": record.payload_bytes,
    }
    if counts["length"] != record.rows + record.invisible + record.lost:
        raise AccountingError(
            f"Landing of {record.range.people} does not balance: {counts['length']} offsets, but {record.rows} landed "
            f"+ {record.invisible} invisible + {record.lost} lost. Nothing of it is used; this is a defect, report it."
        )
    if sum(map(len, record.gaps)) != record.invisible + record.lost:
        raise AccountingError(
            f"Landing of {record.range.people} does not balance: its gaps hold {sum(map(len, record.gaps))} offsets, "
            f"but {record.invisible} are invisible and {record.lost} lost."
        )
    if sum(map(len, record.losses)) != record.lost:
        raise AccountingError(
            f"Landing of {record.range.people} does not balance: {record.lost} offsets are lost, its losses name "
            f"{sum(map(len, record.losses))}."
        )
    return counts


def transform_counts(part: PartRecord, landed: SliceRecord) -> dict[str, int]:
    """A slice's transform in numbers, checked against its landing; raises AccountingError."""
    counts = {name: int(part.counts[name]) for name in TRANSFORM}
    sums = {
        "landed": (counts["landed"], landed.rows),
        "typed + tombstones + undecodable": (
            counts["typed"] + counts["tombstones"] + counts["undecodable"],
            counts["landed"],
        ),
        "passed + rejected": (
            counts["passed"] + counts["rejected"],
            counts["typed"] - counts["filtered"] + counts["exploded"],
        ),
    }
    for name, (left, right) in sums.items():
        if left != right or min(counts.values()) < 0:
            raise AccountingError(
                f"Transform of {part.range.people} does not balance: {name} is {left}, expected {right} ({counts})."
            )
    return counts


def stopped(part: PartRecord) -> int:
    """How many rows of a slice's quarantine part its typed part tells of."""
    return int(part.counts["undecodable"]) + int(part.counts["rejected"])


def quarantined(typed: PartRecord, found: PartRecord | None) -> dict[str, int]:
    """A slice's quarantine by code, checked against its transform; raises AccountingError."""
    counts = {code: int(number) for code, number in found.counts.items()} if found is not None else {}
    if sum(counts.values()) != stopped(typed):
        raise AccountingError(
            f"Transform of {typed.range.people} does not balance: it stopped {stopped(typed)} rows, the quarantine has "
            f"{sum(counts.values())}."
        )
    return counts


def tiled(ranges: Iterable[OffsetRange], pieces: Iterable[OffsetRange]) -> None:
    """Raise AccountingError unless the pieces cover the ranges exactly once."""
    left, right = _merged(ranges), _merged(pieces)
    if left != right:
        missing = ", ".join(str(r) for r in left if r not in right) or "none"
        extra = ", ".join(str(r) for r in right if r not in left) or "none"
        raise AccountingError(f"Slices do not tile their batch: planned but not covered {missing}; covered {extra}.")


def _merged(ranges: Iterable[OffsetRange]) -> list[OffsetRange]:
    merged: list[OffsetRange] = []
    for r in sorted(r for r in ranges if len(r)):
        last = merged[-1] if merged else None
        if last is not None and last.partition == r.partition and last.end == r.start:
            merged[-1] = OffsetRange(r.partition, last.start, r.end)
        else:
            merged.append(r)
    return merged


def total(counts: Iterable[Mapping[str, int]], names: Iterable[str]) -> dict[str, int]:
    """Sums over slices; every name is there, 0 for no slices."""
    items = list(counts)
    return {name: sum(c[name] for c in items) for name in names}
