"""What a generation's accounting says of each declared check, for people who compare or look at batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_eventlog.declare.batch_checks import batch_checks

TRUE, BROKEN, HOLDS, UNKNOWN = "true", "broken", "holds", "unknown"


def declared_checks(declaration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, expression and on_fail of each row check and each check of the batch, in declared order.

    declaration  what `Pipeline.canonical()` says; {} for one that nothing tells of
    """
    rules = [rule for of in batch_checks(declaration.get("batch_checks")) for rule in of.rules()]
    found = [{"name": rule.name, "expression": rule.expression, "on_fail": rule.on_fail} for rule in rules]
    return [*declaration.get("checks", ()), *found]


def verdicts(declared: Iterable[Mapping[str, Any]], figures: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One entry a check, in declared order, then those that only the accounting names.

    declared  checks as `declared_checks` gives them
    figures   a generation's accounting; None before validation, and every verdict is then "unknown"

    An entry has `check`, `expression`, `on_fail`, `verdict` (true, broken: within what is tolerated, holds: the batch,
    unknown), `rows` that break it (None for a check of the batch, which has a `result` instead),
    how many are `tolerated` (None for any number) and the `first` positions.
    """
    found: Mapping[str, Mapping[str, Any]] = {} if figures is None else figures.get("checks", {})
    names = {str(check["name"]): check for check in declared}
    entries = [_entry(name, check, found.get(name), known=figures is not None) for name, check in names.items()]
    return entries + [_entry(name, found[name], found[name], known=True) for name in sorted(set(found) - set(names))]


def _entry(name: str, check: Mapping[str, Any], broken: Mapping[str, Any] | None, *, known: bool) -> dict[str, Any]:
    verdict = TRUE if known else UNKNOWN
    if broken is not None:
        verdict = HOLDS if broken.get("holds") else BROKEN
    told: Mapping[str, Any] = broken or {}
    return {
        "check": name,
        "expression": check.get("expression"),
        "on_fail": check.get("on_fail"),
        "verdict": verdict,
        "rows": told.get("rows", 0) if known else None,
        "result": told.get("result"),
        "tolerated": told.get("tolerated"),
        "first": list(told.get("first", ())),
    }
