"""A pipeline's completeness rules held against its declared columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from airflow_provider_eventlog.core.errors import CompletenessDefinitionError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.staging.records import digest
from airflow_provider_eventlog.declare.completeness import ProducerCounts, Sequence
from airflow_provider_eventlog.declare.decode import Json
from airflow_provider_eventlog.declare.pipeline import Pipeline

KEY = "_key"
_FORMAT = 1
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_TIMES = ("TIMESTAMP", "TIMESTAMPTZ")


@dataclass(frozen=True, slots=True)
class CompletenessPlan:
    """What is counted and compared.

    fields      the declared columns that must be decoded for it, with their types
    event_time  the column of the event time where a rule goes by it
    tally       digest of all that shapes what is counted: equal ones share their counts
    declared    digest of the rules with thresholds and policies: equal ones share their verdicts
    """

    counts: tuple[ProducerCounts, ...]
    sequences: tuple[Sequence, ...]
    fields: Mapping[str, str]
    event_time: str | None
    tally: str
    declared: str


def plan_of(pipeline: Pipeline) -> CompletenessPlan:
    """The plan of a pipeline's rules, which may be none; raises CompletenessDefinitionError."""
    counts = tuple(rule for rule in pipeline.completeness if isinstance(rule, ProducerCounts))
    sequences = tuple(rule for rule in pipeline.completeness if isinstance(rule, Sequence))
    known = dict(pipeline.decode.fields) if isinstance(pipeline.decode, Json) else {}
    fields: dict[str, str] = {}
    time = pipeline.event_time if any(rule.time == "event" for rule in counts) else None
    for rule in counts:
        where = f"ProducerCounts {rule.name!r}"
        if rule.time == "event" and pipeline.event_time is None:
            raise CompletenessDefinitionError(
                f"{where}: time='event' needs the pipeline's event_time; declare it, or count by time='timestamp'."
            )
        if rule.producer not in (None, KEY):
            _take(where, "producer", rule.producer, known, fields, None)
        if rule.time == "event":
            _take(where, "event_time", time, known, fields, _TIMES)
        if rule.checksum is not None:
            _take(where, "checksum", rule.checksum, known, fields, _INTEGERS)
    for one in sequences:
        where = f"Sequence {one.name!r}"
        for name in one.by:
            if name != KEY:
                _take(where, "by", name, known, fields, None)
        _take(where, "column", one.column, known, fields, _INTEGERS)
    return CompletenessPlan(
        counts,
        sequences,
        fields,
        time,
        tally=digest([_FORMAT, sorted(fields.items()), time, *map(_shape, counts), *map(_numbers, sequences)]),
        declared=digest([_FORMAT, time, [rule.canonical() for rule in pipeline.completeness], sorted(fields.items())]),
    )


def _shape(rule: ProducerCounts) -> list[object]:
    return ["counts", rule.name, rule.producer, rule.every_ms, rule.time, rule.checksum]


def _numbers(rule: Sequence) -> list[object]:
    return ["sequence", rule.name, list(rule.by), rule.column]


def _take(
    where: str,
    knob: str,
    name: str | None,
    known: Mapping[str, str],
    fields: dict[str, str],
    kinds: Iterable[str] | None,
) -> None:
    if name is None or name not in known:
        raise CompletenessDefinitionError(
            f"{where}: {knob}={printable(name)} is not a column that the pipeline decodes; those are "
            f"{', '.join(map(printable, known)) or 'none'}. Declare it in Json({{...}}): what was sent is counted "
            f"before the transform."
        )
    if kinds is not None and known[name] not in kinds:
        raise CompletenessDefinitionError(
            f"{where}: {knob}={printable(name)} is declared as {known[name]}; it must be one of {', '.join(kinds)}."
        )
    fields[name] = known[name]
