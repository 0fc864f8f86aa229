"""When the oldest offset that is not landed yet expires, as far as anybody can say.

Kafka lets go of whole segments, oldest first: one goes once its greatest timestamp is older than retention.ms. So an
offset stays at least until `retention.ms` after the greatest timestamp that stands at or before it. Kafka has no
look-up of a timestamp by offset, but its look-up of an offset by timestamp answers just this question: the first
record dated at or after T stands at or before an offset exactly if that offset stays until T + retention.ms. One such
look-up asks for all partitions, and bisecting T finds when the first of them may go. What goes by size cannot be
told in time; how near the log start has come can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_provider_eventlog.core.errors import EventLogError, ReadCancelledError, SourceAuthorizationError
from airflow_provider_eventlog.core.offsets import Looked, OffsetRange, below, people, subtract
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import Ledger, LogSource, Retention

# A forecast warns when less than one part in so many of the retention remains.
_PARTS = 4
# The bisection stops at this part of the retention: each halving is one more request.
_FINE = 256


class Expiry(StrEnum):
    """What can be said of when unlanded offsets expire."""

    NOTHING = "nothing_unlanded"
    NEVER = "never"
    AGE = "by_age"
    SIZE = "by_size"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What happens to a stream's unlanded offsets.

    expiry     what is known; `text` says it for people, and for UNKNOWN why nothing is
    unlanded   offsets that Kafka still has and that are not landed, None where unknown
    lost       unlanded offsets that lie below the log start already
    oldest     (partition, offset) of the unlanded offset that goes first
    goes_from  milliseconds since 1970 UTC before which its age does not make it go; None where age does not
    warning    what should be done something about, or None
    """

    expiry: Expiry
    text: str
    unlanded: int | None = None
    lost: tuple[OffsetRange, ...] = ()
    oldest: tuple[int, int] | None = None
    goes_from: int | None = None
    retention: Retention | None = None
    warning: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The forecast as JSON values."""
        kept = self.retention
        return {
            "expiry": self.expiry.value,
            "text": self.text,
            "unlanded": self.unlanded,
            "lost": [str(r) for r in self.lost],
            "oldest": None if self.oldest is None else {"partition": self.oldest[0], "offset": self.oldest[1]},
            "goes_from": None if self.goes_from is None else when(self.goes_from),
            "retention": None
            if kept is None
            else {"cleanup": list(kept.cleanup), "ms": kept.ms, "bytes": kept.bytes, "timestamps": kept.timestamps},
            "warning": self.warning,
        }


def forecast(
    ledger: Ledger, source: LogSource, stream: str, now: int, *, exact: bool = True, looked: Looked | None = None
) -> Forecast:
    """What happens to the stream's unlanded offsets; reads only, in about ten requests to Kafka.

    now     milliseconds since 1970 UTC
    exact   False asks only whether there is something to warn of, in few requests: `goes_from` may then be earlier
            than it could be told
    looked  what a plan has just seen of the topic; without it three more requests ask for it

    Of the source's errors only ReadCancelledError is raised: the others make the forecast UNKNOWN, with their text.
    """
    try:
        return _forecast(ledger, source, stream, now, exact, looked)
    except ReadCancelledError:
        raise
    except EventLogError as error:
        return unknown(str(error))


def unknown(why: str) -> Forecast:
    """A forecast that says why there is none."""
    return Forecast(Expiry.UNKNOWN, f"unknown: {why}")


def _forecast(ledger: Ledger, source: LogSource, stream: str, now: int, exact: bool, looked: Looked | None) -> Forecast:
    epochs = ledger.epochs(stream)
    if not epochs:
        return unknown("nothing of the stream was planned yet")
    if looked is None:
        # The ends before the starts: what is appended meanwhile is then not taken for expired.
        looked = Looked(identity=source.describe().identity, ends=source.log_ends(), starts=source.log_starts())
    pinned, ends, starts = epochs[-1], looked.ends, looked.starts
    if pinned.identity != looked.identity:
        return unknown(f"the topic is {looked.identity} now, the stream is pinned to {pinned.identity}")
    waiting = ledger.unlanded(stream, pinned.epoch, ends)
    lost = below(waiting, starts)
    live = subtract(waiting, lost)
    firsts: dict[int, int] = {}
    for r in live:
        firsts[r.partition] = min(r.start, firsts.get(r.partition, r.start))
    kept: Retention | None
    try:
        kept = source.retention()
    except SourceAuthorizationError:
        kept = None
    made = _expiry(source, now, firsts, kept, exact=exact)
    warnings = [_lost_text(lost)] if lost else []
    if made.warning is not None:
        warnings.append(made.warning)
    elif near := _near_start(firsts, starts, ends, kept):
        warnings.append(near)
    return Forecast(
        made.expiry,
        made.text,
        sum(map(len, live)),
        lost,
        made.oldest,
        made.goes_from,
        kept,
        " ".join(warnings) or None,
    )


def _expiry(source: LogSource, now: int, firsts: Mapping[int, int], kept: Retention | None, *, exact: bool) -> Forecast:
    if not firsts:
        return Forecast(Expiry.NOTHING, "nothing that Kafka still has is unlanded")
    if kept is None:
        return unknown("DESCRIBE_CONFIGS is denied")
    limited = "delete" in kept.cleanup
    size = kept.bytes is not None and limited
    if not limited or kept.ms is None:
        if size:
            return Forecast(Expiry.SIZE, f"by size (retention.bytes={kept.bytes}), so that the time cannot be forecast")
        policy = ",".join(kept.cleanup) or "none"
        return Forecast(Expiry.NEVER, f"never by age or size (cleanup.policy={policy})")
    oldest, goes = _by_age(source, now, firsts, kept.ms, exact=exact)
    place = f"partition {oldest[0]}, offset {oldest[1]}"
    what = f"the oldest unlanded offset ({place}) may expire"
    text = f"{what} {_moment(goes, now)} (retention.ms={kept.ms})" + (
        f", or earlier by size (retention.bytes={kept.bytes})" if size else ""
    )
    warning = None
    if (goes - now) * _PARTS < kept.ms:
        warning = (
            f"Retention comes near: {text}. Land it before, or raise the topic's retention.ms; offsets that expire "
            f"unlanded are lost."
        )
    return Forecast(Expiry.AGE, text, oldest=oldest, goes_from=goes, warning=warning)


def _by_age(
    source: LogSource, now: int, firsts: Mapping[int, int], kept_ms: int, *, exact: bool
) -> tuple[tuple[int, int], int]:
    """The unlanded offset that goes first, and the instant before which it does not."""
    oldest = min(firsts.items())

    def stay(instant: int) -> bool:
        """Whether all stay until `instant` + retention; else `oldest` is one that may not."""
        nonlocal oldest
        found = source.offsets_at(instant, sorted(firsts))
        for partition, first in sorted(firsts.items()):
            offset = found[partition].offset
            if offset is None or offset > first:
                oldest = (partition, first)
                return False
        return True

    low, high = max(now - kept_ms, 0), now
    # Rounded up, so that what stays so long is not warned of.
    middle = max(now - kept_ms - (-kept_ms // _PARTS), 0)
    if stay(middle):
        low = middle
        if not exact:
            return oldest, low + kept_ms
    else:
        high = middle
        if not stay(low):
            return oldest, low + kept_ms
    while high - low > max(kept_ms // _FINE, 1):
        middle = (low + high) // 2
        if stay(middle):
            low = middle
        else:
            high = middle
    return oldest, low + kept_ms


def _near_start(
    firsts: Mapping[int, int], starts: Mapping[int, int], ends: Mapping[int, int], kept: Retention | None
) -> str | None:
    """A warning where the log start has come near an unlanded offset of a topic that is kept by size."""
    if kept is None or kept.bytes is None or "delete" not in kept.cleanup:
        return None
    for partition, first in sorted(firsts.items()):
        start, end = starts[partition], ends[partition]
        # A log start of 0 means that nothing was ever removed, however little stands in front.
        if start > 0 and (first - start) * _PARTS < end - start:
            return (
                f"Retention comes near: partition {partition} holds offsets {start} to {end - 1} by size "
                f"(retention.bytes={kept.bytes}), and all from {first} on are unlanded. Land them, or raise the "
                f"topic's retention.bytes; offsets that expire unlanded are lost."
            )
    return None


def _lost_text(lost: tuple[OffsetRange, ...]) -> str:
    return f"Retention has removed {sum(map(len, lost)):,} offsets that were never landed: {people(lost)}."


def _moment(instant: int, now: int) -> str:
    if instant <= now:
        return "at any moment"
    return f"from {when(instant)} on, in {_span(instant - now)}"


def _span(ms: int) -> str:
    """A span of time for people, in its two greatest units."""
    parts: list[str] = []
    rest = ms // 1000
    for name, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, seconds)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])
