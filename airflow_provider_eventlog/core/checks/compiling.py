# ruff: noqa: S608 - the SQL below is made of expressions that were parsed
"""Rules of a batch as SQL: each becomes one value over the rows, after refusing what is not the same at every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import CheckDefinitionError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.sqltree import (
    EngineError,
    Fail,
    Node,
    aggregate_names,
    explain,
    inside_aggregate,
    parse,
    reference,
    refuse_expressions,
    render,
    select_node,
    walk,
)
from airflow_provider_eventlog.declare.batch_checks import Rule, kind_of

if TYPE_CHECKING:
    import duckdb

    from airflow_provider_eventlog.declare.batch_checks import ColumnChecks, TableChecks

_SELECT = "SELECT "
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DECIMAL", "FLOAT", "DOUBLE")
_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A rule as the engine runs it: `value` over the rows for which `where` ("" for all) is true."""

    rule: Rule
    value: str
    where: str


def compile_rules(
    connection: duckdb.DuckDBPyConnection,
    declared: Sequence[ColumnChecks | TableChecks],
    relation: str,
    columns: Mapping[str, str],
) -> tuple[Compiled, ...]:
    """All rules of `declared` over a relation of the session, whose columns (name to type) are given.

    Raises CheckDefinitionError for SQL that does not parse or bind, is no condition, or looks beyond the batch.
    """
    compiler = _Compiler(connection, relation, columns)
    return tuple(compiler.rule(rule) for of in declared for rule in of.rules())


class _Compiler:
    def __init__(self, connection: duckdb.DuckDBPyConnection, relation: str, columns: Mapping[str, str]) -> None:
        self._connection, self._relation, self._columns = connection, relation, columns
        self._aggregates = aggregate_names(connection)

    def rule(self, rule: Rule) -> Compiled:
        """One rule; raises CheckDefinitionError."""

        def fail(message: str) -> CheckDefinitionError:
            return CheckDefinitionError(f"Check {rule.name!r} ({printable(rule.expression, 300)}) {message}.")

        where = " AND ".join(f"({self._condition(clause, fail, aggregates=False)[0]})" for clause in rule.where)
        if rule.bounds is None:
            condition, aggregate = self._condition(rule.statement, fail, aggregates=True)
            truth = f"CASE WHEN {condition} THEN 1 ELSE 0 END"
            return Compiled(rule, truth if aggregate else f"min({truth})", where)
        kind = self._bind(rule.statement, fail)
        found = _kind(kind)
        wanted = kind_of(next(iter(rule.bounds.values())))
        if found != wanted:
            raise fail(f"compares a {kind} with a {wanted}")
        value = f"CAST({rule.statement} AS TIMESTAMP)" if found == "time" else rule.statement
        return Compiled(rule, value, where)

    def _condition(self, text: str, fail: Fail, *, aggregates: bool) -> tuple[str, bool]:
        """A condition as SQL, and whether it is one over aggregates."""
        tree = parse(self._connection, f"{_SELECT}{text}", fail, skip=len(_SELECT))
        node = select_node(tree, fail)
        items = node["select_list"]
        if len(items) != 1 or node["from_table"]["type"] != "EMPTY" or node["where_clause"] or items[0]["alias"]:
            raise fail(f"must be one condition, which {printable(text)} is not")
        if any(item.get("class") == "STAR" for item in walk(items)):
            raise fail("must name columns, not *")
        calls: list[Node] = []
        outer = self._outside(items[0], calls) if aggregates else items[0]
        refuse_expressions(self._connection, [outer], self._columns, fail, explode=False)
        for call in calls:
            refuse_expressions(self._connection, inside_aggregate(call, fail), self._columns, fail, explode=False)
        sql = render(self._connection, tree, fail).strip().rstrip(";").removeprefix(_SELECT)
        kind = self._bind(sql, fail)
        if kind != "BOOLEAN":
            raise fail(f"holds {printable(text)}, a {kind}, not a BOOLEAN; write a comparison")
        return sql, bool(calls)

    def _outside(self, item: Any, calls: list[Node]) -> Any:
        """What is left of an expression without its aggregates, which are added to `calls`."""
        if isinstance(item, list):
            return [self._outside(one, calls) for one in item]
        if not isinstance(item, dict):
            return item
        if item.get("class") == "FUNCTION" and item["function_name"].casefold() in self._aggregates:
            calls.append(item)
            return reference("_offset")
        return {key: self._outside(value, calls) for key, value in item.items()}

    def _bind(self, expression: str, fail: Fail) -> str:
        try:
            return str(self._connection.sql(f"SELECT {expression} FROM {self._relation}").types[0])
        except EngineError() as error:
            raise fail(f"cannot run: {explain(error, self._columns)}") from error


def _kind(engine: str) -> str:
    if engine.removeprefix("U").startswith(_NUMBERS):
        return "number"
    if engine in _TIMES:
        return "time"
    return {"BOOLEAN": "flag", "VARCHAR": "text"}.get(engine, engine)
