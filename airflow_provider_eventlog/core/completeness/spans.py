"""What folding takes from a batch's verdict: how far the watermark may go, and which windows are not whole.

Both are functions of the accounting that the generation was committed with, so that the windows stay a function of the
fold log: no clock and no control topic is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_eventlog.core.completeness.judging import FIGURES

Span = tuple[int, int]


def limit(accounting: Mapping[str, Any] | None, disorder_ms: int) -> int | None:
    """The event time (ms) at which the watermark stops behind this batch; None for no limit.

    Nothing is final that lies in an interval for which a rule waits, or in one that was not judged yet.
    """
    found = [
        at
        for rule in _rules(accounting)
        if rule.get("limit") is not None
        for at in (_moved(rule, rule["limit"], disorder_ms), *(_moved(rule, s[0], disorder_ms) for s in rule["waits"]))
    ]
    return min(found, default=None)


def holes(accounting: Mapping[str, Any] | None, disorder_ms: int) -> tuple[Span, ...]:
    """The spans of event time (ms) in which windows will never be whole, by this batch's verdict."""
    return tuple(
        (_moved(rule, since, disorder_ms), until)
        for rule in _rules(accounting)
        for since, until in rule.get("short", ())
    )


def _moved(rule: Mapping[str, Any], at: int, disorder_ms: int) -> int:
    # By Kafka's timestamp: the events of an interval may be older than their records.
    return at - disorder_ms if rule["time"] == "timestamp" else at


def _rules(accounting: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    yield from (accounting or {}).get(FIGURES, {}).get("counts", {}).values()
