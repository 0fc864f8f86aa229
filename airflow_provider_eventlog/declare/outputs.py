"""Where results go: outputs, and the target tables behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_column, check_name, printable


@dataclass(frozen=True, slots=True)
class DuckDB:
    """A table of a DuckDB file. A relative path resolves below AIRFLOW_HOME; the schema is `main` unless given."""

    path: str
    table: str
    schema: str = "main"

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path.strip() or "\0" in self.path:
            raise DeclarationError(f"DuckDB: path={printable(self.path)} is not the path of a file.")
        if self.path.startswith(":memory:") or "://" in self.path or self.path.startswith("md:"):
            raise DeclarationError(f"DuckDB: path={printable(self.path)} must be a local file.")
        for part in (self.table, self.schema):
            check_column(part)
            if part.casefold().startswith("_eventlog"):
                raise DeclarationError(f"DuckDB: the name {printable(part)} is kept for this package's own tables.")

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {"duckdb": {"path": self.path, "schema": self.schema, "table": self.table}}


@dataclass(frozen=True, slots=True)
class Rows:
    """The transform's rows as they are, each with its `_batch_id`, `_partition`, `_offset` and `_row`."""

    target: DuckDB
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.target, DuckDB):
            raise DeclarationError(f"Rows: target={printable(self.target)} must be a target such as DuckDB(...).")
        object.__setattr__(self, "name", check_name("output", self.name or self.target.table))

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {"rows": {"name": self.name, "target": self.target.canonical()}}
