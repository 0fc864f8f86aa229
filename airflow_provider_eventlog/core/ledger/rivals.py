"""Rows that several writers may make at once: without a lock to wait for, the first insert decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, insert, update
from sqlalchemy.exc import IntegrityError


def put(
    connection: Connection,
    table: Table,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    at_first: Mapping[str, Any] | None = None,
) -> None:
    """Change the row with this key, or make it with `at_first` in place of those values.

    The row stays locked to other writers until the transaction ends, where rows are locked one by one.
    """
    change = update(table).where(*(table.c[name] == value for name, value in key.items())).values(**values)
    if connection.execute(change).rowcount:
        return
    made = add(connection, table, [{**key, **values, **(at_first or {})}])
    if not made and not connection.execute(change).rowcount:
        raise AssertionError(f"Table {table.name} neither takes a row of this key nor has one.")


def add(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Insert all rows, or none if one of them stands already; whether they were inserted.

    Waits for another writer that is about to insert the same key.
    """
    try:
        # A failed statement spoils a whole transaction of PostgreSQL, but not what was before a savepoint.
        with connection.begin_nested():
            connection.execute(insert(table), list(rows))
    except IntegrityError:
        return False
    return True
