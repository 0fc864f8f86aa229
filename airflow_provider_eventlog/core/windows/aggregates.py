# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Aggregates as users write them, taken apart: what is merged from partial results, and what is computed again.

An aggregate is an SQL expression. Its calls of aggregate functions become units, made of pieces that merge; the rest
of the expression is evaluated over the finished units. A call that has no pieces (`median(x)`, `count(DISTINCT x)`)
makes the whole expression one that is computed again from the rows of every window that changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import EventLogError, WindowDefinitionError
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
from airflow_provider_eventlog.core.windows import pieces
from airflow_provider_eventlog.core.windows.pieces import Piece

if TYPE_CHECKING:
    import duckdb

_SELECT = "SELECT "
_NAMES = {
    "count_star": "count",
    "mean": "avg",
    "stddev": "stddev_samp",
    "variance": "var_samp",
    "arbitrary": "any_value",
}
_SPREADS = ("var_samp", "var_pop", "stddev_samp", "stddev_pop")
# How many digits the mean of a decimal has more than the decimal, unless a cast or round() says how many.
_MEAN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Unit:
    """One call of an aggregate function, finished from its pieces as column `name`.

    function  count, sum, min, max, avg, var_samp, var_pop, stddev_samp, stddev_pop, first, last
    kind      the argument's engine type, "" for rows as such
    digits    of an exact mean: how many after the point; None for a DOUBLE
    pieces    {what: column}
    """

    name: str
    function: str
    kind: str
    digits: int | None
    pieces: Mapping[str, str]

    @property
    def result(self) -> str:
        """The engine type of the finished column."""
        if self.function == "count":
            return "BIGINT"
        if self.function == "sum":
            return "DOUBLE" if "fsum" in self.pieces else f"DECIMAL(38,{pieces.scale(self.kind)})"
        if self.function in ("avg", *_SPREADS):
            return "DOUBLE" if self.digits is None else f"DECIMAL(38,{self.digits})"
        return self.kind


@dataclass(frozen=True, slots=True)
class Output:
    """An aggregate of the declaration: SQL over units, or (`again`) over rows."""

    name: str
    sql: str
    again: bool


@dataclass(frozen=True, slots=True)
class Aggregates:
    """All aggregates of an output, taken apart."""

    pieces: tuple[Piece, ...]
    units: tuple[Unit, ...]
    outputs: tuple[Output, ...]


def take_apart(
    connection: duckdb.DuckDBPyConnection,
    where: str,
    texts: Mapping[str, str],
    relation: str,
    columns: Mapping[str, str],
) -> Aggregates:
    """Parse aggregates over `relation`, whose columns (name to type) are given; `where` begins messages.

    Raises WindowDefinitionError naming the aggregate and what is wrong with it.
    """
    book = _Book(connection, relation, columns, aggregate_names(connection) | {"count_null"})
    outputs = tuple(book.output(where, name, text) for name, text in texts.items())
    return Aggregates(tuple(book.pieces.values()), tuple(book.units.values()), outputs)


def condition(
    connection: duckdb.DuckDBPyConnection, where: str, text: str, relation: str, columns: Mapping[str, str]
) -> str:
    """A condition over one row of `relation` as the engine understands it; raises WindowDefinitionError."""

    def fail(message: str) -> EventLogError:
        return WindowDefinitionError(f"{where} ({printable(text)}) {message}.")

    tree = parse(connection, f"{_SELECT}{text}", fail, skip=len(_SELECT))
    node = select_node(tree, fail)
    items = node["select_list"]
    if len(items) != 1 or node["from_table"]["type"] != "EMPTY" or node["where_clause"] or items[0]["alias"]:
        raise fail("must be one condition over a row's columns, such as kind = 'login'")
    book = _Book(connection, relation, columns, frozenset())
    book.check_rowwise(items, columns, fail)
    (sql,) = book.render(items, tree, fail)
    kind = book.bind(sql, fail)
    if kind != "BOOLEAN":
        raise fail(f"is a {kind}, not a BOOLEAN; write a comparison")
    return sql


class _Book:
    """Gathers units and pieces, each once however often it is asked for."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, relation: str, columns: Mapping[str, str], known: frozenset[str]
    ) -> None:
        self.pieces: dict[tuple[str, str, str], Piece] = {}
        self.units: dict[tuple[str, str, str, int | None], Unit] = {}
        self._connection, self._relation, self._columns, self._known = connection, relation, columns, known

    def output(self, where: str, name: str, text: str) -> Output:
        """One aggregate of the declaration."""

        def fail(message: str) -> EventLogError:
            return WindowDefinitionError(f"{where}: aggregate {printable(name)} ({printable(text)}) {message}.")

        tree = parse(self._connection, f"{_SELECT}{text}", fail, skip=len(_SELECT))
        node = select_node(tree, fail)
        items = node["select_list"]
        if len(items) != 1 or node["from_table"]["type"] != "EMPTY" or node["where_clause"] or items[0]["alias"]:
            raise fail("must be one expression, such as sum(amount)")
        item = _replaced(items[0], _plain_names)
        calls = list(self._calls(item))
        if not calls:
            raise fail("holds no aggregate; write one, such as count(*)")
        for call in calls:
            self._check_call(call, fail)
        placeholders = {id(call): f"_u_{i}" for i, call in enumerate(calls)}
        outer = _replaced(item, lambda n: reference(placeholders[id(n)]) if id(n) in placeholders else n)
        self._check_outer(outer, set(placeholders.values()), fail)
        units = self._units(item, fail)
        if units is None:
            sql = self.render([item], tree, fail)[0]
            self.bind(sql, fail)
            return Output(name, sql, again=True)
        merged = _replaced(item, lambda n: reference(units[id(n)].name) if id(n) in units else n)
        return Output(name, self.render([merged], tree, fail)[0], again=False)

    def _calls(self, item: object) -> Iterator[Node]:
        """Calls of aggregate functions that are not inside of another one."""
        if isinstance(item, dict):
            if item.get("class") == "FUNCTION" and item["function_name"].casefold() in self._known:
                yield item
                return
            for value in item.values():
                yield from self._calls(value)
        elif isinstance(item, list):
            for value in item:
                yield from self._calls(value)

    def _check_call(self, call: Node, fail: Fail) -> None:
        self.check_rowwise(inside_aggregate(call, fail), self._columns, fail)

    def _check_outer(self, outer: Node, placeholders: set[str], fail: Fail) -> None:
        for inner in walk(outer):
            if inner.get("class") == "COLUMN_REF" and inner["column_names"][-1] not in placeholders:
                raise fail(f"uses {printable(inner['column_names'][-1])} outside of an aggregate")
        self.check_rowwise([outer], placeholders, fail)

    def check_rowwise(self, nodes: list[Any], columns: Mapping[str, str] | set[str], fail: Fail) -> None:
        """Refuse what is no function of one row."""
        if any(inner.get("class") == "STAR" for inner in walk(nodes)):
            raise fail("must name columns, not *")
        refuse_expressions(self._connection, nodes, columns, fail, explode=False)

    def _units(self, item: Node, fail: Fail) -> dict[int, Unit] | None:
        """Units by the id of the call they stand for; None if one of the calls has no pieces."""
        digits = dict(_declared_digits(item))
        found: dict[int, Unit] = {}
        for call in self._calls(item):
            unit = self._unit(call, digits.get(id(call)), fail)
            if unit is None:
                return None
            found[id(call)] = unit
        return found

    def _unit(self, call: Node, digits: int | None, fail: Fail) -> Unit | None:
        function = _NAMES.get(call["function_name"].casefold(), call["function_name"].casefold())
        arguments = [a["expression"] for a in call["arguments"]]
        if call["distinct"] or call["order_bys"]["orders"] or call["export_state"] or len(arguments) > 1:
            return None
        if function not in ("count", "sum", "min", "max", "avg", "first", "last", *_SPREADS):
            return None
        if not arguments and function != "count":
            raise fail(f"calls {function}() without an argument")
        tree = parse(self._connection, _SELECT + "1", fail)
        extra = [call["filter"]] if call["filter"] else []
        texts = self.render([*arguments, *extra], tree, fail)
        argument = texts[0] if arguments else ""
        condition = texts[-1] if extra else ""
        if condition and self.bind(condition, fail) != "BOOLEAN":
            raise fail("has a filter that is no condition")
        kind = self.bind(argument, fail) if argument else ""
        wanted = _pieces_of(function, kind)
        if wanted is None:
            return None
        digits = _mean_digits(kind, digits, fail) if function == "avg" else None
        key = (function, argument, condition, digits)
        if key not in self.units:
            parts = {what: self._piece(what, argument, condition, kind) for what in wanted}
            self.units[key] = Unit(f"_u{len(self.units)}", function, kind, digits, parts)
        return self.units[key]

    def _piece(self, what: str, argument: str, condition: str, kind: str) -> str:
        key = (what, argument, condition)
        if key not in self.pieces:
            self.pieces[key] = Piece(f"_p{len(self.pieces)}", what, argument, condition, kind)
        return self.pieces[key].name

    def render(self, items: list[Node], tree: Node, fail: Fail) -> list[str]:
        """Each expression as SQL text."""
        texts = []
        for item in items:
            node = tree["statements"][0]["node"]
            one = {**tree, "statements": [{**tree["statements"][0], "node": {**node, "select_list": [item]}}]}
            texts.append(render(self._connection, one, fail).strip().rstrip(";").removeprefix(_SELECT))
        return texts

    def bind(self, expression: str, fail: Fail) -> str:
        """The engine's type of an expression over the rows."""
        try:
            kind = str(self._connection.sql(f"SELECT {expression} FROM {self._relation}").types[0])
        except EngineError() as error:
            raise fail(f"cannot run: {explain(error, self._columns)}") from error
        return "TIMESTAMPTZ" if kind == "TIMESTAMP WITH TIME ZONE" else kind


def _pieces_of(function: str, kind: str) -> tuple[str, ...] | None:
    if function in ("count", "min", "max", "first", "last"):
        return (function,)
    if not pieces.summable(kind) or (kind == "BOOLEAN" and function != "sum"):
        return None
    if function == "sum":
        return ("fsum",) if pieces.is_float(kind) else ("sum",)
    if function == "avg":
        return ("count", "fsum") if pieces.is_float(kind) else ("count", "sum")
    how = pieces.squares(kind)
    if how == "moments":
        return ("moments",)
    return ("count", "sum", "square") if how == "square" else ("count", "sum", "high", "cross", "low")


def _mean_digits(kind: str, declared: int | None, fail: Fail) -> int | None:
    """Digits after the point of the mean; None for one that is a DOUBLE."""
    found = pieces.decimal(kind)
    if pieces.is_float(kind) or (found is None and declared is None):
        return None
    whole = found[0] - found[1] if found else 38 if kind == "HUGEINT" else 20
    digits = min(pieces.scale(kind) + _MEAN_DIGITS, 38 - whole) if declared is None else declared
    if not 0 <= digits <= 38 - whole:
        raise fail(f"has a mean of {whole} digits before and {digits} after the point; a DECIMAL holds 38 in all")
    return digits


def _declared_digits(item: Node) -> Iterator[tuple[int, int]]:
    """(id of the call, digits) of every avg(...) that is at once cast to a DECIMAL or rounded."""
    for node in walk(item):
        if node.get("class") == "CAST" and node["type_expr"].get("type_name", "").upper() in ("DECIMAL", "NUMERIC"):
            sizes = [_whole_number(child) for child in node["type_expr"]["children"]]
            if len(sizes) == 2 and sizes[1] is not None:
                yield id(node["child"]), sizes[1]
        if node.get("class") == "FUNCTION" and node["function_name"].casefold() == "round":
            arguments = [a["expression"] for a in node["arguments"]]
            digits = _whole_number(arguments[1]) if len(arguments) == 2 else 0 if len(arguments) == 1 else None
            if digits is not None:
                yield id(arguments[0]), digits


def _whole_number(node: Node) -> int | None:
    literal = node.get("expression", node).get("literal", {})
    return int(literal["text"]) if isinstance(literal, dict) and str(literal.get("text", "")).isdigit() else None


def _plain_names(node: Node) -> Node:
    """`count_null(x)` and `count_if(x)` as what they are: count(*) of some of the rows."""
    if node.get("class") != "FUNCTION" or len(node.get("arguments", [])) != 1:
        return node
    name = node["function_name"].casefold()
    if name not in ("count_null", "count_if", "countif") or node["distinct"]:
        return node
    condition = node["arguments"][0]["expression"]
    if name == "count_null":
        condition = {"class": "OPERATOR", "type": "OPERATOR_IS_NULL", "alias": "", "children": [condition]}
    if node["filter"]:
        both = [node["filter"], condition]
        condition = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "alias": "", "children": both}
    counted = json.loads(json.dumps({**node, "arguments": [], "filter": condition, "function_name": "count_star"}))
    counted["qualified_name"] = {"path": ["count_star"]}
    return dict(counted)


def _replaced(node: Any, change: Callable[[Node], Node]) -> Any:
    """The tree with every node put through `change`, from the top; what was changed is not looked into."""
    if isinstance(node, dict):
        changed = change(node)
        return changed if changed is not node else _same({k: _replaced(v, change) for k, v in node.items()}, node)
    if isinstance(node, list):
        return _same([_replaced(v, change) for v in node], node)
    return node


def _same(new: Any, old: Any) -> Any:
    """The old container where nothing in it has changed: calls are known by their identity."""
    values = zip(new.values(), old.values(), strict=True) if isinstance(new, dict) else zip(new, old, strict=True)
    return old if all(a is b for a, b in values) else new
