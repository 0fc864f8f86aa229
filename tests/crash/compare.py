"""What must hold after faults: the world is the one of the undisturbed run, and nothing is left to clean."""

from __future__ import annotations

from typing import Any


def difference(told: dict[str, Any], calm: dict[str, Any]) -> str | None:
    """Why an attempt did not end in the undisturbed run's world; None if it did."""
    if "world" not in told:
        return f"no world: {told.get('crash') or told.get('error') or told}"
    found, wanted = told["world"], calm["world"]
    lines = []
    kinds = sorted({*found, *wanted} - {"ledger"})
    lines += [_told(kind, found.get(kind), wanted.get(kind)) for kind in kinds if found.get(kind) != wanted.get(kind)]
    for table, rows in wanted["ledger"].items():
        if found["ledger"].get(table) != rows:
            lines.append(f"ledger table {table}: {found['ledger'].get(table)} instead of {rows}")
    return "; ".join(lines) or None


def _told(kind: str, found: Any, wanted: Any) -> str:
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return f"{kind}: {found} instead of {wanted}"
    return f"{kind}: {_without(found, wanted)} instead of {_without(wanted, found)}"


def _without(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in other or other[name] != value}
