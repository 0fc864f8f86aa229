"""User SQL as a syntax tree: parsed by the engine itself, walked here, refused where it looks beyond its row."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.naming import printable

if TYPE_CHECKING:
    import duckdb

Node = dict[str, Any]
Fail = Callable[[str], EventLogError]

_CLASSES = frozenset(
    [
        "COLUMN_REF",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "COMPARISON",
        "CONJUNCTION",
        "CAST",
        "TYPE",
        "CASE",
        "BETWEEN",
        "COLLATE",
        "LAMBDA",
        "LAMBDA_REF",
        "STAR",
        "POSITIONAL_REFERENCE",
    ]
)
_CLASS_HINTS = {
    "WINDOW": "a window function, which looks at other rows",
    "SUBQUERY": "a subquery",
    "PARAMETER": "a parameter, which has no value here",
}
# What the parser takes for a column, and the binder for a value of the session where no column has the name.
_SESSION_VALUES = frozenset(
    [
        "current_timestamp",
        "current_date",
        "current_time",
        "localtime",
        "localtimestamp",
        "current_user",
        "user",
        "session_user",
        "current_catalog",
        "current_schema",
        "current_role",
    ]
)
# The engine calls these consistent although they tell of release, session or clock.
_NOT_OF_THE_ROW = frozenset(
    [
        "version",
        "pg_conf_load_time",
        "pg_postmaster_start_time",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
        "pg_my_temp_schema",
        "current_user",
        "session_user",
        "user",
        "current_role",
        "current_catalog",
    ]
)
# Aggregates whose result is drawn by lot, or is no value.
_RANDOM = frozenset(("reservoir_quantile", "combine_aggr"))
# Expands rows; the engine lists it as a table function only.
_UNNEST = frozenset(("unnest", "unlist"))


def parse(connection: duckdb.DuckDBPyConnection, sql: str, fail: Fail, *, skip: int = 0) -> Node:
    """The tree of exactly one SELECT statement; `fail` makes the error for anything else.

    skip  characters of `sql` that the user did not write, for the place that an error names
    """
    try:
        found = connection.execute("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [sql]).fetchall()
        tree = json.loads(found[0][0])
    except (EngineError(), ValueError, RecursionError) as error:
        raise fail(f"does not parse: {printable(str(error), 300)}") from error
    if tree["error"]:
        message = str(tree.get("error_message", ""))
        if tree.get("error_type") == "not implemented":
            raise fail("is not a SELECT statement; write one SELECT over batch")
        where = f" at character {int(tree['position']) + 1 - skip}" if str(tree.get("position", "")).isdigit() else ""
        raise fail(f"does not parse{where}: {printable(message, 300)}")
    statements = tree["statements"]
    if len(statements) != 1:
        raise fail(f"holds {len(statements)} statements; write exactly one SELECT")
    return dict(tree)


def EngineError() -> type[Exception]:  # noqa: N802 - stands for a class that is imported late
    """The engine's base error."""
    import duckdb

    return duckdb.Error


def select_node(tree: Node, fail: Fail) -> Node:
    """The SELECT of a parsed tree, after refusing every clause that looks at more than one row."""
    node: Node = tree["statements"][0]["node"]
    if node["type"] != "SELECT_NODE":
        raise fail("holds a set operation or a recursive query; write one plain SELECT over batch")
    if node["cte_map"]["map"]:
        raise fail("holds a WITH clause; write one plain SELECT over batch")
    for modifier in node["modifiers"]:
        clause = modifier["type"].removesuffix("_MODIFIER").replace("_", " ")
        raise fail(f"holds {clause}, whose result depends on other rows; leave it out")
    for key, clause in (
        ("group_expressions", "GROUP BY"),
        ("group_sets", "GROUP BY"),
        ("having", "HAVING"),
        ("qualify", "QUALIFY"),
        ("sample", "a sample"),
    ):
        if node[key]:
            raise fail(f"holds {clause}; a transform works row by row")
    if node["aggregate_handling"] != "STANDARD_HANDLING":
        raise fail("holds GROUP BY ALL; a transform works row by row")
    return node


def walk(node: object) -> Iterator[Node]:
    """All nodes below, the node itself first."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(reversed(list(item.values())))
        elif isinstance(item, list):
            waiting.extend(reversed(item))


def refuse_expressions(
    connection: duckdb.DuckDBPyConnection, node: object, columns: Collection[str], fail: Fail, *, explode: bool
) -> None:
    """Refuse whatever is no function of one row.

    columns   names (any case) that stand for columns, also where the engine has a session value of that name
    explode   whether `unnest` is allowed
    """
    known = {name.casefold() for name in columns}
    functions: dict[str, int] = {}
    for item in walk(node):
        kind = item.get("class")
        if kind is None:
            continue
        if kind not in _CLASSES:
            raise fail(f"holds {_CLASS_HINTS.get(kind, f'an expression of kind {printable(kind)}')}; leave it out")
        if kind == "COLUMN_REF" and len(item["column_names"]) == 1:
            name = item["column_names"][0].casefold()
            if name in _SESSION_VALUES and name not in known:
                raise fail(f"uses {name}, which is not the same at every run; take a column such as _timestamp")
        if kind == "FUNCTION":
            name = item["function_name"].casefold()
            functions[name] = len(item["arguments"])
            if name == "age" and functions[name] == 1:
                raise fail("uses age() with one argument, which takes today's date; give it both")
    if not explode and _UNNEST & functions.keys():
        raise fail("uses unnest, which makes several rows of one")
    _refuse_functions(connection, functions, fail)


def _refuse_functions(connection: duckdb.DuckDBPyConnection, names: Collection[str], fail: Fail) -> None:
    # Macros are opened, and judged by what they call.
    seen: set[str] = set()
    waiting = {name: name for name in names}
    while waiting:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name), function_type, stability, macro_definition FROM duckdb_functions() "
            "WHERE list_contains(?, lower(function_name)) ORDER BY ALL",
            [sorted(waiting)],
        ).fetchall()
        seen |= waiting.keys()
        following: dict[str, str] = {}
        for name in waiting:
            mine = [(kind, stability, macro) for found, kind, stability, macro in rows if found == name]
            called = waiting[name]
            _refuse_function(name, called, {(kind, stability) for kind, stability, _ in mine}, fail)
            for kind, _, macro in mine:
                if kind == "macro" and macro:
                    inner = parse(connection, f"SELECT {macro}", fail)
                    for item in walk(inner["statements"][0]["node"]["select_list"]):
                        if item.get("class") == "FUNCTION":
                            following[item["function_name"].casefold()] = called
                        elif item.get("class") == "COLUMN_REF" and item["column_names"][0] in _SESSION_VALUES:
                            raise fail(_unstable(called))
        waiting = {name: called for name, called in following.items() if name not in seen}


def _refuse_function(name: str, called: str, kinds: set[tuple[str, str | None]], fail: Fail) -> None:
    if name in _NOT_OF_THE_ROW:
        raise fail(_unstable(called))
    types = {kind for kind, _ in kinds}
    if not types & {"scalar", "macro"} and name not in _UNNEST:
        if "aggregate" in types:
            raise fail(f"uses {called}(), an aggregate; a transform works row by row")
        if "window" in types:
            raise fail(f"uses {called}(), a window function, which looks at other rows; leave it out")
        if types:
            raise fail(f"uses {called}() as a value; it is a table function")
    if any(kind == "scalar" and stability != "CONSISTENT" for kind, stability in kinds):
        raise fail(_unstable(called))


def _unstable(name: str) -> str:
    return f"uses {name}(), whose result is not the same at every run; leave it out"


def render(connection: duckdb.DuckDBPyConnection, tree: Node, fail: Fail) -> str:
    """The tree as SQL text again."""
    try:
        found = connection.execute("SELECT json_deserialize_sql(CAST(? AS JSON))", [json.dumps(tree)]).fetchall()
    except (EngineError(), RecursionError) as error:
        raise fail(f"cannot be rewritten: {printable(str(error), 300)}") from error
    return str(found[0][0])


def explain(error: Exception, columns: Collection[str]) -> str:
    """A binder's or evaluator's message on one line, with the columns that there are."""
    first = str(error).split("\n\nLINE ")[0].split("Candidate bindings")[0].strip()
    return f"{printable(first, 300)}; the columns are {', '.join(map(printable, columns))}"


def aggregate_names(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """The lower-case names of the engine's functions that are aggregates and nothing else."""
    rows = connection.execute(
        "SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1 "
        "HAVING bool_or(function_type = 'aggregate') AND NOT bool_or(function_type IN ('scalar', 'macro'))"
    ).fetchall()
    return frozenset(name for (name,) in rows)


def inside_aggregate(call: Node, fail: Fail) -> list[Any]:
    """What an aggregate is called with: functions of one row; refuses one that has no fixed result."""
    if call["function_name"].casefold() in _RANDOM:
        raise fail(f"uses {call['function_name']}(), whose result is not the same at every run; take another")
    return [call["arguments"], call["filter"], call["order_bys"]]


def reference(name: str) -> Node:
    """The node of an expression that names a column."""
    return {
        "class": "COLUMN_REF",
        "type": "COLUMN_REF",
        "alias": "",
        "query_location": 0,
        "query_location_length": 0,
        "column_names": [name],
    }
