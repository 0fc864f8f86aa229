"""The exact judgement of one payload against its declared fields, for the rows on which the fast path is not sure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from airflow_provider_eventlog.core.naming import printable

_FRACTION = r"(\.\d{1,6}0*)?"
_CLOCK = rf"([01]\d|2[0-3]):\d\d(:\d\d{_FRACTION})?"
# The texts of a time that fit; the engine, which reads them, takes more.
PATTERNS = {
    "DATE": r"\d{4}-\d\d-\d\d",
    "TIME": _CLOCK,
    "TIMESTAMP": rf"\d{{4}}-\d\d-\d\d([T ]{_CLOCK}( ?(Z|[+-]00(:?00)?))?)?",
    "TIMESTAMPTZ": rf"\d{{4}}-\d\d-\d\d([T ]{_CLOCK}( ?(Z|[+-]\d\d(:?\d\d)?))?)?",
}
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
# Why a payload does not decode.
CODES = ("not_utf8", "not_json", "too_deep", "not_object", "does_not_fit")
_COMPILED = {kind: re.compile(pattern, re.ASCII) for kind, pattern in PATTERNS.items()}


def judge(payload: bytes, parsed: bool, fields: Iterable[tuple[str, str, Any]]) -> tuple[str, str] | None:
    """None if the payload decodes, else why not: a code of CODES, and words.

    parsed  whether the engine could read the payload as JSON
    fields  (name, canonical type, the engine's value); a time counts as True where the engine has a value
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8", "it is not UTF-8"
    try:
        document = _loads(text)
    except RecursionError:
        return "too_deep", "it is nested too deeply"
    except (ValueError, ArithmeticError) as error:
        return "not_json", f"it is not JSON ({printable(str(error), 80)})"
    if not isinstance(document, dict):
        return "not_object", "it is not a JSON object"
    if not parsed:
        return "not_json", "it is not JSON (an escape that stands for no character, or nesting that is too deep)"
    for name, kind, got in fields:
        value = document.get(name)
        if value is not None and not _fits(kind, value, got):
            return "does_not_fit", f"field {printable(name)} does not fit {kind}"
    return None


def _loads(text: str) -> Any:
    # Decimal for all numbers: exact, and of any length.
    return json.loads(
        text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse, object_pairs_hook=_first_wins
    )


def _refuse(literal: str) -> None:
    raise ValueError(f"{literal} is not a JSON value")


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _fits(kind: str, value: Any, got: Any) -> bool:
    """Whether `got` is what a non-null JSON `value` is in type `kind`, exactly (FLOAT and DOUBLE: rounded)."""
    if kind.endswith("[]"):
        if not isinstance(value, list) or not isinstance(got, list) or len(value) != len(got):
            return False
        member = kind[:-2]
        return all((g is None) if v is None else _fits(member, v, g) for v, g in zip(value, got, strict=True))
    if got is None:
        return False
    if kind in INTEGERS or kind.startswith("DECIMAL"):
        return isinstance(value, Decimal) and value == got
    if kind in ("FLOAT", "DOUBLE"):
        return isinstance(value, Decimal) and math.isfinite(got)
    if kind == "BOOLEAN":
        return isinstance(value, bool)
    if kind == "JSON":
        return bool(_loads(got) == value)
    if kind in PATTERNS:
        return isinstance(value, str) and got is not False and _COMPILED[kind].fullmatch(value) is not None
    return isinstance(value, str)
