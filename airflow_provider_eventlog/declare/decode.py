"""How a record's bytes become typed columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_column, printable

_SCALARS = {
    "BOOLEAN": "BOOLEAN", "BOOL": "BOOLEAN",
    "TINYINT": "TINYINT", "SMALLINT": "SMALLINT", "INTEGER": "INTEGER", "INT": "INTEGER", "BIGINT": "BIGINT",
    "UTINYINT": "UTINYINT", "USMALLINT": "USMALLINT", "UINTEGER": "UINTEGER", "UBIGINT": "UBIGINT",
    "FLOAT": "FLOAT", "REAL": "FLOAT", "DOUBLE": "DOUBLE",
    "VARCHAR": "VARCHAR", "TEXT": "VARCHAR", "STRING": "VARCHAR",
    "DATE": "DATE", "TIME": "TIME", "TIMESTAMP": "TIMESTAMP",
    "TIMESTAMPTZ": "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
    "UUID": "UUID", "JSON": "JSON",
}  # fmt: skip
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC)\s*\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
# The columns that the decoder adds beside the declared ones.
META_COLUMNS = ("_key", "_timestamp", "_headers", "_partition", "_offset")


def canonical_type(text: object) -> str:
    """The canonical spelling of a column type, lists as `T[]`; raises DeclarationError for an unknown one."""
    if isinstance(text, str):
        name = " ".join(text.upper().split())
        depth = 0
        while name.endswith("[]"):
            name, depth = name[:-2].rstrip(), depth + 1
        if depth <= 8:
            if name in _SCALARS:
                return _SCALARS[name] + "[]" * depth
            match = _DECIMAL.fullmatch(name)
            if match and 1 <= int(match[1]) <= 38 and int(match[2]) <= int(match[1]):
                return f"DECIMAL({int(match[1])},{int(match[2])})" + "[]" * depth
    raise DeclarationError(
        f"The column type {printable(text)} is not known; use one of {', '.join(sorted(set(_SCALARS.values())))}, "
        f"DECIMAL(precision,scale), or a list of one of them such as BIGINT[]."
    )


def columns(where: str, declared: Mapping[str, str]) -> dict[str, str]:
    """Check declared columns: printable, none taken by the package (a leading `_`), none equal but for case."""
    if not isinstance(declared, Mapping) or not declared:
        raise DeclarationError(f"{where} needs at least one column, as {{name: type}}.")
    result: dict[str, str] = {}
    folded: set[str] = set()
    for name, kind in declared.items():
        check_column(name)
        if name.startswith("_"):
            raise DeclarationError(f"{where}: the column {printable(name)} starts with '_', which this package keeps.")
        if name.casefold() in folded:
            raise DeclarationError(f"{where}: the column {printable(name)} is declared twice (case does not count).")
        folded.add(name.casefold())
        result[name] = canonical_type(kind)
    return result


@dataclass(frozen=True, slots=True)
class Json:
    """Values are JSON objects; `fields` gives the columns to take, as {name: DuckDB type}.

    A field that is absent or null becomes NULL. A value that is not UTF-8, not a JSON object, or holds a field
    that does not fit its type does not decode. Fields that are not declared are left alone.
    """

    fields: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", columns("Json", self.fields))

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values; the order of the columns is part of it."""
        return {"json": [[name, kind] for name, kind in self.fields.items()]}

    def __hash__(self) -> int:
        return hash(tuple(self.fields.items()))


@dataclass(frozen=True, slots=True)
class Raw:
    """Values stay bytes: the one column is `value`, a BLOB."""

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {"raw": True}
