"""Row checks: SQL expressions that must be true for every row; false and NULL break them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.errors import CheckDefinitionError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.sqltree import (
    EngineError,
    Fail,
    explain,
    parse,
    refuse_expressions,
    render,
    select_node,
    walk,
)

if TYPE_CHECKING:
    import duckdb

    from airflow_provider_eventlog.declare.checks import Check

FIRST = 5
_SELECT = "SELECT "


def compile_checks(
    connection: duckdb.DuckDBPyConnection, checks: Sequence[Check], relation: str, columns: Mapping[str, str]
) -> dict[str, str]:
    """Each check's expression as the engine understands it, by name.

    relation  a relation of the session with `columns` (name to type), quoted if needed. Raises CheckDefinitionError.
    """
    return {check.name: _compile(connection, check, relation, columns) for check in checks}


def _compile(connection: duckdb.DuckDBPyConnection, check: Check, relation: str, columns: Mapping[str, str]) -> str:
    fail = _failing(check)
    tree = parse(connection, f"{_SELECT}{check.expression}", fail, skip=len(_SELECT))
    node = select_node(tree, fail)
    items = node["select_list"]
    if len(items) != 1 or node["from_table"]["type"] != "EMPTY" or node["where_clause"] or items[0]["alias"]:
        raise fail("must be one expression over the transform's columns, such as amount >= 0")
    if any(item.get("class") == "STAR" for item in walk(items)):
        raise fail("must name columns, not *")
    refuse_expressions(connection, items, columns, fail, explode=False)
    expression = render(connection, tree, fail).strip().rstrip(";").removeprefix(_SELECT)
    try:
        kind = str(connection.sql(f"SELECT {expression} FROM {relation}").types[0])  # noqa: S608 - parsed, one expression
    except EngineError() as error:
        raise fail(f"cannot run: {explain(error, columns)}") from error
    if kind != "BOOLEAN":
        raise fail(f"is a {kind}, not a BOOLEAN; write a comparison")
    return expression


def _failing(check: Check) -> Fail:
    return lambda message: CheckDefinitionError(f"Check {check.name!r} ({printable(check.expression)}) {message}.")


def evaluate(
    connection: duckdb.DuckDBPyConnection, checks: Mapping[str, str], relation: str
) -> dict[str, dict[str, Any]]:
    """How many rows of `relation` break each check, and the first five positions as `partition:offset`.

    checks  compiled expressions by name. Checks that hold are left out. One pass over the rows; a second one per
    broken check. Raises CheckDefinitionError if an expression fails on a value.
    """
    if not checks:
        return {}
    broken = [f"({expression}) IS NOT TRUE" for expression in checks.values()]
    counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in broken)
    try:
        found = connection.execute(f"SELECT {counts} FROM {relation}").fetchall()[0]  # noqa: S608 - compiled expressions
        return {
            name: {"rows": rows, "first": _first(connection, relation, condition)}
            for name, condition, rows in zip(checks, broken, found, strict=True)
            if rows
        }
    except EngineError() as error:
        raise CheckDefinitionError(
            f"A check failed on a value ({printable(str(error), 300)}); use try_cast or try(...) where values vary. "
            f"Checks: {', '.join(checks)}."
        ) from error


def first_broken(
    connection: duckdb.DuckDBPyConnection, conditions: Sequence[str], relation: str
) -> npt.NDArray[np.int64]:
    """For each row of `relation`, in its order, which of the conditions is the first that holds; -1 for none.

    conditions  SQL that is true or false for every row. Raises CheckDefinitionError if one fails on a value.
    """
    cases = " ".join(f"WHEN {condition} THEN {index}" for index, condition in enumerate(conditions))
    try:
        found = connection.sql(f"SELECT CAST(CASE {cases} ELSE -1 END AS BIGINT) AS i FROM {relation}").to_arrow_table()  # noqa: S608
    except EngineError() as error:
        raise CheckDefinitionError(
            f"A check failed on a value ({printable(str(error), 300)}); use try_cast or try(...) where values vary."
        ) from error
    return arrow.joined(found.column(0))


def _first(connection: duckdb.DuckDBPyConnection, relation: str, condition: str) -> list[str]:
    rows = connection.execute(
        f"SELECT DISTINCT _partition, _offset FROM {relation} WHERE {condition} ORDER BY ALL LIMIT {FIRST}"  # noqa: S608
    ).fetchall()
    return [f"{partition}:{offset}" for partition, offset in rows]


def merge(into: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the failures of a later piece of the same slice."""
    for name, found in more.items():
        known = into.setdefault(name, {"rows": 0, "first": []})
        known["rows"] += found["rows"]
        known["first"] = [*known["first"], *found["first"]][:FIRST]
