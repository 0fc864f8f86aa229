"""A transform in SQL: one row-wise SELECT over `batch`, rewritten so that every row keeps its partition and offset."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from airflow_provider_eventlog.core.errors import TransformError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.sqltree import Node, parse, reference, refuse_expressions, render, select_node, walk
from airflow_provider_eventlog.declare.decode import META_COLUMNS

if TYPE_CHECKING:
    import duckdb

POSITION = ("_partition", "_offset")


def fail(message: str) -> TransformError:
    """The error for a transform that `message` says something of."""
    return TransformError(f"The SQL transform {message}.")


def compile_sql(connection: duckdb.DuckDBPyConnection, sql: str, columns: Collection[str]) -> str:
    """SQL that gives what `sql` selects and then `_partition, _offset` of the row it comes from.

    `columns` are the names of `batch`. Raises TransformError naming what is refused; names are bound later.
    """
    tree = parse(connection, sql, fail)
    node = select_node(tree, fail)
    _check_source(node["from_table"])
    refuse_expressions(connection, [node["select_list"], node["where_clause"]], columns, fail, explode=True)
    kept = _check_names(node["select_list"])
    for star in walk(kept):
        if star.get("class") == "STAR" and star["expr"] is None:
            # `*` means the declared columns; the meta columns come only where they are named.
            excluded = {name.casefold() for name in star["exclude_list"]}
            star["exclude_list"] = [*star["exclude_list"], *(m for m in META_COLUMNS if m not in excluded)]
    node["select_list"] = [*kept, *map(reference, POSITION)]
    return render(connection, tree, fail)


def _check_source(source: Node) -> None:
    kind = source["type"]
    if kind == "BASE_TABLE":
        if source["table_name"].casefold() != "batch" or source["schema_name"] or source["catalog_name"]:
            raise fail(f"reads the table {printable(source['table_name'])}; the only table is batch")
        for key, clause in (
            ("sample", "a sample"),
            ("at_clause", "AT"),
            ("column_name_alias", "a list of column aliases"),
        ):
            if source[key]:
                raise fail(f"holds {clause} after batch; leave it out")
        return
    reasons = {
        "JOIN": "joins batch with something else; unnest(...) belongs into the select list",
        "SUBQUERY": "reads a subquery",
        "TABLE_FUNCTION": "reads a table function",
        "EMPTY": "does not read from batch",
    }
    reason = reasons.get(kind, f"reads a {printable(kind)}")
    raise fail(f"{reason}; write one plain query over batch")


def _check_names(select_list: list[Node]) -> list[Node]:
    kept = []
    for item in select_list:
        meta = _meta_reference(item)
        if meta is None:
            names = [item["alias"], *(renamed["value"] for renamed in item.get("rename_list", []))]
            for name in names:
                if name.startswith("_"):
                    raise fail(f"names a column {printable(name)}; names that start with '_' are kept")
        if meta not in POSITION:
            kept.append(item)
    return kept


def _meta_reference(item: Node) -> str | None:
    if item["class"] != "COLUMN_REF":
        return None
    name = str(item["column_names"][-1]).casefold()
    return name if name in META_COLUMNS and item["alias"].casefold() in ("", name) else None
