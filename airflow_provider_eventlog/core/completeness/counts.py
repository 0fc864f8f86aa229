"""Counts: of each producer and interval, what was published, what was landed, and what follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_provider_eventlog.core.completeness import chain, control, tally
from airflow_provider_eventlog.core.completeness.control import Published
from airflow_provider_eventlog.core.completeness.plan import CompletenessPlan
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RawExpiredError
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.declare.completeness import ProducerCounts
from airflow_provider_eventlog.declare.pipeline import Pipeline

COMPLETE, SHORT, SURPLUS, DIFFERS, MISSING, UNPROVED = (
    "complete",
    "short",
    "surplus",
    "differs",
    "missing",
    "unproved",
)
VERDICTS = (COMPLETE, SURPLUS, SHORT, DIFFERS, MISSING, UNPROVED)
FIRST = 20
# (producer, start of the interval in ms); the producer is None where a rule knows none.
Key = tuple[str | None, int]
Found = dict[Key, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One producer's interval [start, end), ms since 1970; what is not known is None. Checksums are modulo 2**64."""

    producer: str | None
    start: int
    end: int
    expected: int | None
    found: int
    expected_sum: int | None
    found_sum: int | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values; the producer is foreign text made visible."""
        return {
            "producer": control.shown(self.producer),
            "start": when(self.start),
            "end": when(self.end),
            "expected": self.expected,
            "found": self.found,
            "share": share(self.expected, self.found),
            "expected_checksum": self.expected_sum,
            "found_checksum": self.found_sum,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """What a rule says of a batch: entries by interval and producer, and what is kept with the accounting."""

    entries: tuple[Entry, ...]
    figures: dict[str, Any]


def share(expected: int | None, found: int) -> float | None:
    """What part of the published count was landed; None where none was published."""
    if expected is None:
        return None
    return found / expected if expected else 1.0


def judge(
    engine: Engine, pipeline: Pipeline, batch: BatchPlan, plan: CompletenessPlan, rule: ProducerCounts, own: pa.Table
) -> Judged:
    """Judge a chain batch by a rule: the intervals that end within it, and those before that are not past the deadline.

    own  the batch's tally. Raises what `control.published` raises, and the staging errors.
    """
    assert batch.from_instant is not None
    assert batch.to_instant is not None
    since, until = batch.from_instant, batch.to_instant
    low: int | None = since - rule.deadline_ms
    lowest = since - rule.deadline_ms - rule.every_ms
    reach = chain.before(engine, pipeline, batch, lambda one: one.to_instant is not None and one.to_instant <= lowest)
    if reach.since is None and not reach.batches:
        # The first batch of all: what came before its interval is in it, too.
        low = None
    whole = reach.since
    found: Found = {}
    for one in reach.batches:
        try:
            earlier = tally.batch_tally(engine, pipeline.name, one, engine.ledger.slices(one.batch_id), plan)
        except RawExpiredError:
            found, whole = {}, one.to_instant
            continue
        _add(found, rule, earlier)
    _add(found, rule, own)
    published = control.published(engine, rule, low, until)
    expected = _expected(rule, published)
    keys = {
        k for k in {*found, *expected} if (low is None or k[1] + rule.every_ms > low) and k[1] + rule.every_ms <= until
    }
    # The first batch begins with the log: what producers must publish is known from the first that any did or sent.
    first = since if low is not None else min((k[1] for k in keys), default=until)
    keys |= _declared(rule, first, until)
    ordered = sorted(keys, key=lambda k: (k[1], k[0] or ""))
    entries = tuple(_entry(rule, key, expected, found, whole) for key in ordered)
    return Judged(entries, _figures(rule, entries, published, own, since, until, low))


def _add(found: Found, rule: ProducerCounts, counted: pa.Table) -> None:
    mine = tally.chosen(counted, tally.COUNT, rule.name)
    columns = (mine.column(name).to_pylist() for name in ("key", "low", "rows", "total"))
    for key, low, rows, total in zip(*columns, strict=True):
        before = found.get((key, low), (0, 0))
        found[key, low] = (before[0] + rows, tally.signed(before[1] + total))


def _expected(rule: ProducerCounts, published: Published) -> dict[Key, tuple[int, int | None]]:
    """The published counts by what the rule can tell apart."""
    if rule.producer is not None:
        return {(producer, start): value for (producer, start), value in published.counts.items()}
    found: dict[Key, tuple[int, int | None]] = {}
    for (_, start), (count, checksum) in sorted(published.counts.items()):
        before = found.get((None, start), (0, 0))
        known = None if checksum is None or before[1] is None else tally.signed(before[1] + checksum)
        found[None, start] = (before[0] + count, known)
    return found


def _declared(rule: ProducerCounts, since: int, until: int) -> set[Key]:
    """The intervals that end in (since, until], of each producer that must publish."""
    first = tally.epoch_floor(since, rule.every_ms)
    starts = range(first, tally.epoch_floor(until, rule.every_ms), rule.every_ms) if rule.producers else ()
    return {(producer, start) for start in starts for producer in rule.producers}


def _entry(
    rule: ProducerCounts,
    key: Key,
    expected: Mapping[Key, tuple[int, int | None]],
    found: Found,
    whole: int | None,
) -> Entry:
    rows, total = found.get(key, (0, 0))
    count, checksum = expected.get(key, (None, None))
    compared = rule.checksum is not None and checksum is not None
    if whole is not None and key[1] < whole:
        verdict = UNPROVED
    elif count is None:
        verdict = MISSING
    elif rows > count:
        verdict = SURPLUS
    elif rows < count:
        verdict = SHORT if rows < rule.threshold * count else COMPLETE
    else:
        verdict = DIFFERS if compared and checksum != total else COMPLETE
    theirs, ours = (tally.unsigned(checksum or 0), tally.unsigned(total)) if compared else (None, None)
    return Entry(key[0], key[1], key[1] + rule.every_ms, count, rows, theirs, ours, verdict)


def policy(rule: ProducerCounts, verdict: str) -> str:
    """What a verdict does; nothing where it is none of a rule's business."""
    if verdict in (SHORT, DIFFERS):
        return rule.on_fail
    return rule.on_missing if verdict == MISSING else ""


def _figures(
    rule: ProducerCounts,
    entries: Sequence[Entry],
    published: Published,
    own: pa.Table,
    since: int,
    until: int,
    low: int | None,
) -> dict[str, Any]:
    """What is kept with a batch's accounting; spans are merged [start, end) of whole milliseconds.

    waits   intervals for which windows wait
    short   intervals of which windows will never be whole
    limit   where the watermark stops until later intervals were judged; None where no policy is to wait
    """
    due = [e for e in entries if e.end > since or low is None]
    broken = [(e, policy(rule, e.verdict)) for e in entries]
    past = [e for e, done in broken if done == "wait" and e.end + rule.deadline_ms <= until]
    waiting = [e for e, done in broken if done == "wait" and e.end + rule.deadline_ms > until]
    short = [*past, *(e for e, done in broken if done not in ("", "wait") and (e.end > since or low is None))]
    known = [e for e in due if e.expected is not None and e.verdict != UNPROVED]
    expected, found = sum(e.expected or 0 for e in known), sum(e.found for e in known)
    holding = [e for e in due if policy(rule, e.verdict) == "fail"]
    pending = [e for e in due if policy(rule, e.verdict) == "hold"]
    telling = [e for e, done in broken if done not in ("", "fail", "hold")]
    waits = "wait" in (rule.on_fail, rule.on_missing)
    return {
        "intervals": len(due),
        "verdicts": {v: n for v in VERDICTS if (n := Counter(e.verdict for e in due)[v])},
        "again": len(entries) - len(due),
        "expected": expected,
        "found": found,
        "share": share(expected, found),
        "threshold": rule.threshold,
        "unread": tally.unread(own, rule.name),
        "holds": len(holding),
        "pending": len(pending),
        "first": [e.to_json() for e in [*holding, *pending, *telling][:FIRST]],
        "waits": merged(waiting),
        "short": merged(short),
        "limit": tally.epoch_floor(until, rule.every_ms) if waits else None,
        "time": rule.time,
        "published": published.to_json(),
    }


def merged(entries: Iterable[Entry]) -> list[list[int]]:
    """The intervals of entries as the fewest spans [start, end), sorted."""
    spans: list[list[int]] = []
    for start, end in sorted({(e.start, e.end) for e in entries}):
        if spans and start <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    return spans
