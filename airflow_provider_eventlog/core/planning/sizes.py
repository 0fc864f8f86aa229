"""Cutting what is too long for one batch, and packing slices into groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from airflow_provider_eventlog.core.offsets import Cut, OffsetRange, SliceRef
from airflow_provider_eventlog.core.planning.observe import Observations

# A bisection stops when both halves hold at least this share of the offsets: nearer costs requests for nothing.
_FAIR = 0.4
# Opening a slice costs about as much as reading so many messages (client, assignment, file, publish).
_SLICE_COST = 2_000


def split_by_time(observed: Observations, low: Cut, high: Cut, limit: int) -> Iterator[Cut]:
    """Cuts between `low` and `high`, in order, by bisecting the instant, so that partitions stay aligned in time.

    Where timestamps do not part the offsets (one instant holds too many), the cut is proportional and its
    offsets are `found_by` share. Two cuts less than 2 ms apart cannot be parted at all and stay one batch.
    """
    total = _length(low, high)
    if total <= limit or high.instant - low.instant < 2:
        return
    middle = _bisect(observed, low, high, total) or _proportional(low, high)
    yield from split_by_time(observed, low, middle, limit)
    yield middle
    yield from split_by_time(observed, middle, high, limit)


def _length(low: Cut, high: Cut) -> int:
    return sum(end - low.offsets.get(p, 0) for p, end in high.offsets.items())


def _bisect(observed: Observations, low: Cut, high: Cut, total: int) -> Cut | None:
    left, right, best, best_share = low.instant, high.instant, None, 0.0
    while right - left >= 2 and best_share < _FAIR:
        instant = (left + right) // 2
        cut = clamp(instant, "size", {p: (f.offset, f.by) for p, f in observed.find(instant).items()}, low, high)
        before = _length(low, cut)
        share = min(before, total - before) / total
        if share > best_share:
            best, best_share = cut, share
        if before * 2 < total:
            left = instant
        else:
            right = instant
    return best


def _proportional(low: Cut, high: Cut) -> Cut:
    offsets = {p: (low.offsets.get(p, 0) + end + 1) // 2 for p, end in high.offsets.items()}
    return Cut((low.instant + high.instant) // 2, "size", offsets, dict.fromkeys(offsets, "share"))


def clamp(instant: int, kind: str, found: dict[int, tuple[int, str]], low: Cut | None, high: Cut | None) -> Cut:
    """A cut kept between its neighbours, so that offsets never run backwards over the instants.

    A partition that `high` does not know appeared after it and is left out.
    """
    offsets: dict[int, int] = {}
    by: dict[int, str] = {}
    for partition, (offset, how) in sorted(found.items()):
        if high is not None and partition not in high.offsets:
            continue
        least = low.offsets.get(partition, 0) if low else 0
        most = high.offsets[partition] if high else offset
        kept = max(least, min(offset, max(most, least)))
        offsets[partition] = kept
        by[partition] = how if kept == offset else "clamp"
    return Cut(instant, kind, offsets, by)


def slices(ranges: Iterable[OffsetRange], limit: int) -> tuple[OffsetRange, ...]:
    """Ranges cut into pieces of at most `limit` offsets, counted from each range's start."""
    return tuple(
        OffsetRange(r.partition, start, min(start + limit, r.end))
        for r in sorted(ranges)
        for start in range(r.start, r.end, limit)
    )


def portions(ranges: Sequence[OffsetRange], limit: int) -> Iterator[tuple[OffsetRange, ...]]:
    """Sorted ranges dealt into portions of at most `limit` offsets each, in order."""
    portion: list[OffsetRange] = []
    room = limit
    for r in sorted(ranges):
        start = r.start
        while start < r.end:
            end = min(r.end, start + room)
            portion.append(OffsetRange(r.partition, start, end))
            room -= end - start
            start = end
            if not room:
                yield tuple(portion)
                portion, room = [], limit
    if portion:
        yield tuple(portion)


def pack(refs: Sequence[SliceRef], parallelism: int) -> tuple[tuple[SliceRef, ...], ...]:
    """Slices dealt into at most `parallelism` groups, longest first to the lightest group; at least one group.

    Greedy longest-processing-time packing (Graham 1969): at most 4/3 of the best makespan. The order within a
    group is the run's order. Groups change no byte of any file.
    """
    loads = [0] * max(1, min(parallelism, len(refs)))
    groups: list[list[int]] = [[] for _ in loads]
    for index in sorted(range(len(refs)), key=lambda i: (-len(refs[i].range), i)):
        lightest = loads.index(min(loads))
        groups[lightest].append(index)
        loads[lightest] += len(refs[index].range) + _SLICE_COST
    return tuple(tuple(refs[i] for i in sorted(group)) for group in groups)
