"""What producers published: counts of a control topic, read in an exact range, whatever stands in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_provider_eventlog.core.completeness.tally import epoch_floor, signed
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CompletenessDefinitionError, TopicNotFoundError
from airflow_provider_eventlog.core.naming import printable, visible
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.declare.completeness import ControlTopic, CountsTable, ProducerCounts
from airflow_provider_eventlog.declare.stream import Stream

# A count is larger than this only by mistake, or on purpose.
_LARGEST = 2**53
_VALUE_BYTES, _PRODUCER, _NAMED = 65_536, 300, 10
# A producer's clock may be ahead of the control topic's; its record then is dated before the interval.
_AHEAD_MS = 3_600_000
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999


class MalformedError(ValueError):
    """A published record that says nothing; its text is the reason code."""


@dataclass
class Published:
    """What was found: (producer, start ms) with (count, checksum or None), and where it was looked for.

    ranges     of the control topic, each half open
    records    how many were looked at; `malformed` of them by reason, `first` names some
    corrected  how many were replaced by a later record about the same interval that says otherwise
    """

    counts: dict[tuple[str, int], tuple[int, int | None]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    records: int = 0
    corrected: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    _ranks: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)

    def take(self, where: str, value: Mapping[str, Any], rule: ProducerCounts, rank: tuple[int, ...]) -> None:
        """Take one published value; of several about the same interval the one of the highest rank stands."""
        try:
            key, found = _understood(value, rule.source, rule.every_ms)
        except MalformedError as error:
            self.refuse(where, str(error))
            return
        if key in self.counts:
            self.corrected += self.counts[key] != found
            if rank < self._ranks[key]:
                return
        self.counts[key], self._ranks[key] = found, rank

    def refuse(self, where: str, reason: str) -> None:
        """Count a value that says nothing."""
        self.malformed[reason] += 1
        if len(self.first) < _NAMED:
            self.first.append(f"{where} {reason}")

    def to_json(self) -> dict[str, Any]:
        """What is kept of the reading itself."""
        return {
            **self.source,
            "records": self.records,
            "corrected": self.corrected,
            "malformed": dict(sorted(self.malformed.items())),
            "first_malformed": list(self.first),
        }


def published(engine: Engine, rule: ProducerCounts, low: int | None, high: int) -> Published:
    """The counts of intervals that end behind `low` (None: all) and at `high` at the latest; ms since 1970.

    Raises the source errors, TopicNotFoundError that names the rule, CompletenessDefinitionError for more records than
    the rule allows, CountsUnavailableError.
    """
    if isinstance(rule.source, CountsTable):
        from airflow_provider_eventlog.core.completeness.table import read_table

        found = read_table(engine, rule, rule.source, low)
    else:
        found = _read_topic(engine, rule, rule.source, low)
    ends = {key: key[1] + rule.every_ms for key in found.counts}
    found.counts = {k: v for k, v in found.counts.items() if (low is None or ends[k] > low) and ends[k] <= high}
    return found


def control_ranges(engine: Engine, rule: ProducerCounts, control: ControlTopic, low: int | None) -> dict[str, Any]:
    """The control topic's identity, and the ranges in which counts from `low` on are looked for: ends are asked first.

    Raises the source errors and TopicNotFoundError.
    """
    try:
        source = engine.source(Stream(control.topic))
        identity = source.describe().identity
    except TopicNotFoundError as error:
        raise TopicNotFoundError(
            f"ProducerCounts {rule.name!r}: the control topic {control.topic!r} does not exist on the stream's "
            f"cluster. Create it, or correct ControlTopic(...)."
        ) from error
    ends, starts = source.log_ends(), source.log_starts()
    if low is not None:
        for partition, at in source.offsets_at(low - rule.every_ms - _AHEAD_MS).items():
            first = ends.get(partition, 0) if at.offset is None else at.offset
            starts[partition] = max(starts.get(partition, 0), min(first, ends.get(partition, 0)))
    ranges = [OffsetRange(p, min(starts.get(p, 0), end), end) for p, end in sorted(ends.items())]
    return {"topic": identity.to_json(), "ranges": [str(r) for r in ranges]}


def _read_topic(engine: Engine, rule: ProducerCounts, control: ControlTopic, low: int | None) -> Published:
    found = Published(source=control_ranges(engine, rule, control, low))
    ranges = [OffsetRange.parse(text) for text in found.source["ranges"]]
    total = sum(map(len, ranges))
    if total > control.max_records:
        raise CompletenessDefinitionError(
            f"ProducerCounts {rule.name!r}: {total} offsets of the control topic {control.topic!r} may hold the counts "
            f"of this batch; ControlTopic(max_records={control.max_records}) allows less. Raise it, or let producers "
            f"publish longer intervals."
        )
    source = engine.source(Stream(control.topic))
    for wanted in (r for r in ranges if len(r)):
        for batch in source.read(wanted, record_loss=True):
            engine.check_cancelled()
            stamps = batch.column("timestamp").cast("int64").to_pylist()
            offsets = batch.column("offset").to_pylist()
            for offset, stamp, value in zip(offsets, stamps, batch.column("value").to_pylist(), strict=True):
                _take_record(found, rule, wanted.partition, offset, stamp or 0, value)
    return found


def _take_record(
    found: Published, rule: ProducerCounts, partition: int, offset: int, stamp: int, value: bytes | None
) -> None:
    found.records += 1
    where = f"{partition}:{offset}"
    try:
        document = _parsed(value)
    except MalformedError as error:
        found.refuse(where, str(error))
        return
    found.take(where, document, rule, (stamp, partition, offset))


def _parsed(value: bytes | None) -> dict[str, Any]:
    if not value:
        raise MalformedError("empty")
    if len(value) > _VALUE_BYTES:
        raise MalformedError("too_large")
    try:
        document = json.loads(value.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedError("not_json") from None
    if not isinstance(document, dict):
        raise MalformedError("not_object")
    return document


def _understood(
    value: Mapping[str, Any], names: ControlTopic | CountsTable, every: int
) -> tuple[tuple[str, int], tuple[int, int | None]]:
    producer, count = value.get(names.producer), value.get(names.count)
    if not isinstance(producer, str) or not 0 < len(producer) <= _PRODUCER or not _is_text(producer):
        raise MalformedError("no_producer")
    start, end = instant(value.get(names.start)), instant(value.get(names.end))
    if end - start != every or start != epoch_floor(start, every):
        raise MalformedError("not_an_interval")
    if type(count) is not int or not 0 <= count <= _LARGEST:
        raise MalformedError("no_count")
    checksum = value.get(names.checksum) if names.checksum else None
    if checksum is not None and (type(checksum) is not int or abs(checksum) >= 2**127):
        raise MalformedError("no_checksum")
    return (producer, start), (count, None if checksum is None else signed(checksum))


def instant(value: object) -> int:
    """Milliseconds since 1970 of a published time; raises MalformedError."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise MalformedError("no_time") from None
        if value.tzinfo is None:
            raise MalformedError("no_time_zone")
    if isinstance(value, datetime):
        try:
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            whole = (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
        except OverflowError:
            raise MalformedError("no_time") from None
        value = round(whole) if whole == round(whole) else None
    if type(value) is not int or not _FIRST_MS <= value <= _LAST_MS:
        raise MalformedError("no_time")
    return value


def _is_text(value: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in value)


def shown(producer: str | None) -> str | None:
    """A producer's name for people; its text is foreign."""
    return None if producer is None else visible(producer, 200)


def told(published_json: Mapping[str, Any]) -> str:
    """What could not be read of the published records, in words; empty if nothing."""
    malformed: Mapping[str, int] = published_json.get("malformed", {})
    if not malformed:
        return ""
    reasons = ", ".join(f"{count} {printable(reason)[1:-1]}" for reason, count in malformed.items())
    return f"{sum(malformed.values())} published records could not be read ({reasons})"
