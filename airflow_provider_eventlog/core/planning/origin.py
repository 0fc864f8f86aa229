"""Where a chain begins: a start as declared, as one offset for every partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from airflow_provider_eventlog.core.errors import (
    FutureIntervalError,
    IntervalExpiredError,
    OffsetRangeError,
    OffsetsLostError,
)
from airflow_provider_eventlog.core.planning.observe import Found, Observations
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.declare.stream import FromGroup, Stream


def find(observed: Observations, stream: Stream, expired: Callable[[int, Mapping[int, int]], None]) -> dict[int, Found]:
    """The offsets at which `stream.start` begins; `interval` has no offsets of its own and is not asked for here.

    expired  called with an instant, and with the log starts of the partitions that cannot be proved whole from it

    Raises FutureIntervalError, OffsetRangeError and OffsetsLostError for offsets that the topic does not have,
    LookupNeeded, and what `expired` raises.
    """
    start = stream.start
    if start == "earliest":
        return {p: Found(o, "log_start") for p, o in observed.starts.items()}
    if start == "latest":
        return {p: Found(o, "log_end") for p, o in observed.ends.items()}
    if isinstance(start, datetime):
        instant = int(start.timestamp() * 1000)
        if instant > observed.now:
            raise FutureIntervalError(f"Stream {stream.name!r} starts in the future, at {when(instant)}.")
        found = dict(observed.at(instant))
        if hidden := unproved(observed, found):
            expired(instant, hidden)
        return found
    given = observed.group(start.group) if isinstance(start, FromGroup) else start
    assert not isinstance(given, str)
    _refuse_unknown(observed, stream, given)
    return {p: Found(given.get(p, o), "given" if p in given else "log_start") for p, o in observed.starts.items()}


def unproved(
    observed: Observations, found: Mapping[int, Found], known: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Expired intervals are not empty: log starts above 0 that are bounds, and may hide records that were removed.

    known  offsets of the cut before, if there is one: nothing that lies before it is wanted
    """
    hidden = {}
    for partition, f in sorted(found.items()):
        start = observed.starts.get(partition, 0)
        if 0 < start == f.offset and (known is None or known.get(partition, 0) < start):
            hidden[partition] = start
    return hidden


def refuse(topic: str, instant: int, hidden: Mapping[int, int]) -> None:
    """Raise the IntervalExpiredError of what `unproved` found."""
    partition, start = next(iter(hidden.items()))
    more = f" (and {len(hidden) - 1} more partitions)" if len(hidden) > 1 else ""
    raise IntervalExpiredError(
        f"The interval from {when(instant)} of topic {topic!r} cannot be proved whole: partition {partition}{more} now "
        f"starts at offset {start}, and what stood before it has expired. Begin at a later interval, declare the "
        f"stream with start='earliest' to take what is left, or with on_data_loss='record' to go on "
        f"and write the loss down."
    )


def _refuse_unknown(observed: Observations, stream: Stream, given: Mapping[int, int]) -> None:
    for partition, offset in sorted(given.items()):
        if partition not in observed.ends:
            raise OffsetRangeError(
                f"Stream {stream.name!r}: its start names partition {partition}, but topic {stream.topic!r} has "
                f"{len(observed.ends)} (0 to {len(observed.ends) - 1})."
            )
        low, high = observed.starts[partition], observed.ends[partition]
        if offset < low:
            raise OffsetsLostError(
                f"Stream {stream.name!r}: its start is offset {offset} of partition {partition}, but the log starts "
                f"at {low}: offsets {offset} to {low - 1} are gone. Start at {low} or later."
            )
        if offset > high:
            raise OffsetRangeError(
                f"Stream {stream.name!r}: its start is offset {offset} of partition {partition}, but the log ends at "
                f"{high}."
            )
