"""Column and table checks of a whole batch, in the words of the checks of Airflow's common-sql provider."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, date, datetime
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_column, check_name, printable, quote

ON_FAIL = ("fail", "warn")
COLUMN_CHECKS = {
    "null_check": "sum(CASE WHEN {column} IS NULL THEN 1 ELSE 0 END)",
    "distinct_check": "count(DISTINCT {column})",
    "unique_check": "count({column}) - count(DISTINCT {column})",
    "min": "min({column})",
    "max": "max({column})",
}
COMPARISONS = ("equal_to", "greater_than", "geq_to", "less_than", "leq_to")
_COLUMN_WORDS = (*COMPARISONS, "tolerance", "partition_clause")
_TABLE_WORDS = ("check_statement", "partition_clause")
_APART = (
    # lower, upper, whether both may be the same
    ("greater_than", "less_than", False),
    ("greater_than", "leq_to", False),
    ("geq_to", "less_than", False),
    ("geq_to", "leq_to", True),
)
Bound = int | float | str | date


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of a batch.

    name       of column and check, or the table check's own
    statement  SQL over the batch's rows: a value for `bounds`, or (without bounds) a condition
    bounds     {comparison: value}; None for a table check
    tolerance  the share by which a bound is widened; None for none
    where      SQL conditions on rows, all of which must be true
    """

    name: str
    statement: str
    bounds: Mapping[str, Bound] | None
    tolerance: float | None
    where: tuple[str, ...]
    on_fail: str
    accept_none: bool

    @property
    def expression(self) -> str:
        """The rule in one line, for people."""
        told = [self.statement]
        if self.bounds is not None:
            told.append(", ".join(f"{word} {value}" for word, value in self.bounds.items()))
        if self.tolerance is not None:
            told.append(f"tolerance {self.tolerance:g}")
        if self.where:
            told.append(f"where {' and '.join(self.where)}")
        return " ".join(told)


@dataclass(frozen=True, slots=True)
class ColumnChecks:
    """Checks of columns over the rows of a batch that pass: {column: {check: {comparison: value}}}.

    mapping           checks are null_check, distinct_check, unique_check, min and max. Comparisons are equal_to alone,
                      or one of greater_than and geq_to with one of less_than and leq_to; beside them `tolerance`, the
                      share of a number by which its bound is widened, and `partition_clause`, a condition on rows
    partition_clause  a condition on rows for all of them; one that a check has besides must hold as well
    accept_none       whether a result that is NULL, as of no rows, counts as 0 (and fits any text or time); else it
                      breaks the check
    on_fail           "fail" holds the batch at the gate, "warn" only says so; no row can be quarantined
    name              set before the checks' names, where one column is checked twice

    Each check's name is `column.check`. Raises DeclarationError.
    """

    mapping: Mapping[str, Mapping[str, Mapping[str, Any]]]
    _: KW_ONLY
    partition_clause: str | None = None
    accept_none: bool = True
    on_fail: str = "fail"
    name: str = ""

    def __post_init__(self) -> None:
        _check_frame("ColumnChecks", self.mapping, self.partition_clause, self.accept_none, self.on_fail)
        if self.name:
            check_name("check", self.name)
        for column, checks in self.mapping.items():
            check_column(column)
            if not isinstance(checks, Mapping) or not checks:
                raise DeclarationError(f"ColumnChecks: {printable(column)} needs {{check: {{comparison: value}}}}.")
            for check, words in checks.items():
                where = f"ColumnChecks: {printable(column)}, {printable(check)}"
                if check not in COLUMN_CHECKS:
                    raise DeclarationError(f"{where} is not one of {', '.join(COLUMN_CHECKS)}.")
                _check_words(where, words, _COLUMN_WORDS)
                _check_bounds(where, words)

    def rules(self) -> tuple[Rule, ...]:
        """The checks one by one, in declared order."""
        return tuple(
            Rule(
                name=".".join([*([self.name] if self.name else []), column, check]),
                statement=COLUMN_CHECKS[check].format(column=quote(column)),
                bounds={word: words[word] for word in COMPARISONS if word in words},
                tolerance=words.get("tolerance"),
                where=_where(self.partition_clause, words),
                on_fail=self.on_fail,
                accept_none=self.accept_none,
            )
            for column, checks in self.mapping.items()
            for check, words in checks.items()
        )

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values, which `batch_checks` reads."""
        mapping = [
            [column, check, {word: _to_json(value) for word, value in words.items()}]
            for column, checks in self.mapping.items()
            for check, words in checks.items()
        ]
        more = {"partition_clause": self.partition_clause, "accept_none": self.accept_none, "on_fail": self.on_fail}
        return {"columns": mapping, **more, "name": self.name}


@dataclass(frozen=True, slots=True)
class TableChecks:
    """Conditions on the rows of a batch that pass: {name: {"check_statement": SQL, "partition_clause": SQL}}.

    checks            a statement is a condition over aggregates (`count(*) > 0`), or over a row (`a + b < c`), which
                      then must be true for every row. partition_clause may be left out
    partition_clause  a condition on rows for all of them; one that a check has besides must hold as well
    accept_none       whether a condition over a row is true of no rows
    on_fail           "fail" holds the batch at the gate, "warn" only says so

    Raises DeclarationError.
    """

    checks: Mapping[str, Mapping[str, str]]
    _: KW_ONLY
    partition_clause: str | None = None
    accept_none: bool = False
    on_fail: str = "fail"

    def __post_init__(self) -> None:
        _check_frame("TableChecks", self.checks, self.partition_clause, self.accept_none, self.on_fail)
        for name, words in self.checks.items():
            check_name("check", name)
            where = f"TableChecks: {printable(name)}"
            _check_words(where, words, _TABLE_WORDS)
            statement = words.get("check_statement")
            if not isinstance(statement, str) or not statement.strip():
                raise DeclarationError(f"{where} needs a check_statement, an SQL condition.")

    def rules(self) -> tuple[Rule, ...]:
        """The checks one by one, in declared order."""
        return tuple(
            Rule(
                name=name,
                statement=words["check_statement"],
                bounds=None,
                tolerance=None,
                where=_where(self.partition_clause, words),
                on_fail=self.on_fail,
                accept_none=self.accept_none,
            )
            for name, words in self.checks.items()
        )

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values, which `batch_checks` reads."""
        more = {"partition_clause": self.partition_clause, "accept_none": self.accept_none, "on_fail": self.on_fail}
        return {"table": [[name, dict(words)] for name, words in self.checks.items()], **more}


def batch_checks(declared: object) -> list[ColumnChecks | TableChecks]:
    """Checks made again from a list of what `canonical` says; raises KeyError, TypeError, DeclarationError."""
    found: list[ColumnChecks | TableChecks] = []
    for value in declared if isinstance(declared, list) else []:
        more = {key: value[key] for key in ("partition_clause", "accept_none", "on_fail")}
        if "table" in value:
            found.append(TableChecks(dict(value["table"]), **more))
            continue
        mapping: dict[str, dict[str, dict[str, Any]]] = {}
        for column, check, words in value["columns"]:
            mapping.setdefault(column, {})[check] = {word: _from_json(v) for word, v in words.items()}
        found.append(ColumnChecks(mapping, **more, name=value["name"]))
    return found


def _where(shared: str | None, words: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(clause for clause in (shared, words.get("partition_clause")) if clause)


def _check_frame(where: str, mapping: object, clause: object, accept_none: object, on_fail: object) -> None:
    if not isinstance(mapping, Mapping) or not mapping:
        raise DeclarationError(f"{where} needs a mapping with at least one check.")
    if on_fail == "quarantine":
        raise DeclarationError(
            f"{where}: on_fail='quarantine' has no meaning for a whole batch, of which no single row breaks the check; "
            f"take 'fail' or 'warn', or Check(...) for a rule on rows."
        )
    if on_fail not in ON_FAIL:
        raise DeclarationError(f"{where}: on_fail={printable(on_fail)} is not one of {', '.join(ON_FAIL)}.")
    if not isinstance(accept_none, bool):
        raise DeclarationError(f"{where}: accept_none={printable(accept_none)} must be True or False.")
    _check_clause(where, clause)


def _check_clause(where: str, clause: object) -> None:
    if clause is not None and (not isinstance(clause, str) or not clause.strip()):
        raise DeclarationError(f"{where}: partition_clause={printable(clause)} must be an SQL condition.")


def _check_words(where: str, words: object, known: tuple[str, ...]) -> None:
    if not isinstance(words, Mapping):
        raise DeclarationError(f"{where} needs a mapping of {', '.join(known)}.")
    for word in words:
        if word not in known:
            raise DeclarationError(f"{where}: {printable(word)} is not one of {', '.join(known)}.")
    _check_clause(where, words.get("partition_clause"))


def _check_bounds(where: str, words: Mapping[str, Any]) -> None:
    bounds = {word: words[word] for word in COMPARISONS if word in words}
    if not bounds:
        raise DeclarationError(f"{where} needs at least one of {', '.join(COMPARISONS)}.")
    for word, value in bounds.items():
        if not isinstance(value, (int, float, str, date)) or (isinstance(value, float) and not math.isfinite(value)):
            raise DeclarationError(f"{where}: {word}={printable(value)} must be a number, text, date or datetime.")
    if len({kind_of(value) for value in bounds.values()}) > 1:
        raise DeclarationError(f"{where}: its bounds are of different types.")
    if "equal_to" in bounds and len(bounds) > 1:
        raise DeclarationError(f"{where}: equal_to stands alone; use geq_to and leq_to for a range.")
    for one, other in (("greater_than", "geq_to"), ("less_than", "leq_to")):
        if one in bounds and other in bounds:
            raise DeclarationError(f"{where}: only one of {one} and {other} can be given.")
    for lower, upper, same in _APART:
        if lower in bounds and upper in bounds:
            low, high = instant(bounds[lower]), instant(bounds[upper])
            if low > high or (low == high and not same):
                raise DeclarationError(f"{where}: no value is {lower} {bounds[lower]} and {upper} {bounds[upper]}.")
    share = words.get("tolerance")
    if "tolerance" in words:
        number = isinstance(share, (int, float)) and not isinstance(share, bool) and math.isfinite(share) and share >= 0
        if not number:
            raise DeclarationError(f"{where}: tolerance={printable(share)} must be a share from 0, such as 0.1.")
        if kind_of(next(iter(bounds.values()))) != "number":
            raise DeclarationError(f"{where}: tolerance is a share of a number; these bounds are none.")


def kind_of(value: Bound) -> str:
    """What a bound is compared with: number, flag, text or time."""
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else "time"


def instant(value: Bound) -> Any:
    """The bound as it is compared: a date as its midnight, a datetime as UTC without zone, all else as it is."""
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return datetime(value.year, value.month, value.day) if isinstance(value, date) else value


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    return {"date": value.isoformat()} if isinstance(value, date) else value


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return datetime.fromisoformat(value["datetime"]) if "datetime" in value else date.fromisoformat(value["date"])
