"""Row checks: expressions that must be true for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_name, printable

ON_FAIL = ("fail", "quarantine", "warn")


@dataclass(frozen=True, slots=True)
class Check:
    """`expression` is SQL over the transform's columns; a row for which it is false or NULL breaks the check.

    on_fail    "fail" holds the whole batch before anything is loaded, "quarantine" keeps the row out of the outputs and
               in the quarantine, "warn" only says so
    tolerance  up to how many rows may break it before the batch is held: a whole number of rows, or a share of the
               batch's rows below 1. Default: 0 with "fail", no bound with "quarantine"; has no meaning with "warn"
    """

    name: str
    expression: str
    on_fail: str = "fail"
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_name("check", self.name)
        where = f"Check {self.name!r}"
        if not isinstance(self.expression, str) or not self.expression.strip():
            raise DeclarationError(f"{where} needs an SQL expression.")
        if self.on_fail not in ON_FAIL:
            raise DeclarationError(f"{where}: on_fail={printable(self.on_fail)} is not one of {', '.join(ON_FAIL)}.")
        if self.tolerance is None:
            return
        if self.on_fail == "warn":
            raise DeclarationError(f"{where}: tolerance has no meaning with on_fail='warn', which never holds a batch.")
        given = self.tolerance
        whole = isinstance(given, int) and not isinstance(given, bool) and given >= 0
        if not whole and not (isinstance(given, float) and 0 <= given < 1):
            raise DeclarationError(
                f"{where}: tolerance={printable(given)} must be a number of rows, or a share from 0.0 to below 1.0."
            )

    def tolerated(self, rows: int) -> int | None:
        """How many of a batch's `rows` may break the check before the batch is held; None for any number."""
        if self.on_fail == "warn" or (self.tolerance is None and self.on_fail == "quarantine"):
            return None
        given = self.tolerance or 0
        return given if isinstance(given, int) else int(given * rows)

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        values = {"name": self.name, "expression": self.expression, "on_fail": self.on_fail}
        return values if self.tolerance is None else {**values, "tolerance": self.tolerance}
