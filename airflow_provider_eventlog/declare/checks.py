"""Row checks: expressions that must be true for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_name, printable


@dataclass(frozen=True, slots=True)
class Check:
    """`expression` is SQL over the transform's columns; a row for which it is false or NULL breaks the check.

    on_fail="fail" holds the whole batch before anything is loaded, and names the first offsets.
    """

    name: str
    expression: str
    on_fail: str = "fail"

    def __post_init__(self) -> None:
        check_name("check", self.name)
        if not isinstance(self.expression, str) or not self.expression.strip():
            raise DeclarationError(f"Check {self.name!r} needs an SQL expression.")
        if self.on_fail != "fail":
            raise DeclarationError(
                f"Check {self.name!r}: on_fail={printable(self.on_fail)} is not supported; use 'fail'."
            )

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {"name": self.name, "expression": self.expression, "on_fail": self.on_fail}
