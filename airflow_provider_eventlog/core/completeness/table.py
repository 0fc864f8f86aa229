# ruff: noqa: S608 - the SQL below is made of quoted names and bound values
"""Counts in a table: read once for a verdict, by DuckDB for its own files and by SQLAlchemy for the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_eventlog.core.completeness.control import Published
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CompletenessDefinitionError, CountsUnavailableError
from airflow_provider_eventlog.core.home import below, home
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.declare.completeness import CountsTable, ProducerCounts

_DUCKDB, _SQLITE = "duckdb:///", "sqlite:///"


def read_table(engine: Engine, rule: ProducerCounts, table: CountsTable, low: int | None) -> Published:
    """The rows of the table that end behind `low` (ms since 1970; None: all).

    Raises CountsUnavailableError, CompletenessDefinitionError for more rows than the rule allows.
    """
    names = [table.producer, table.start, table.end, table.count, *([table.checksum] if table.checksum else [])]
    engine.check_cancelled()
    rows = list(_rows(rule, table, names, low))
    if len(rows) > table.max_records:
        raise CompletenessDefinitionError(
            f"ProducerCounts {rule.name!r}: the table {printable(table.table)} holds more than "
            f"max_records={table.max_records} rows that this batch may need; raise it, or remove old rows."
        )
    found = Published(source={"table": table.table})
    for number, row in enumerate(sorted(rows, key=str)):
        found.records += 1
        value = {name: _plain(one) for name, one in zip(names, row, strict=True)}
        # Nothing tells which of two rows came later: the larger count stands.
        count = value[table.count]
        found.take(f"row {number}", value, rule, (count if isinstance(count, int) else -1, number))
    return found


def probe(rule: ProducerCounts, table: CountsTable) -> str:
    """That the table can be read, in words; raises CountsUnavailableError."""
    names = [table.producer, table.start, table.end, table.count, *([table.checksum] if table.checksum else [])]
    list(_query(rule, table, f"SELECT {_listed(names)} FROM {_named(table)} LIMIT 1", []))
    return f"table {table.table} can be read"


def _rows(rule: ProducerCounts, table: CountsTable, names: Sequence[str], low: int | None) -> Iterable[Sequence[Any]]:
    query = f"SELECT {_listed(names)} FROM {_named(table)}"
    bound: list[Any] = []
    if low is not None:
        first = list(_query(rule, table, f"SELECT {quote(table.end)} FROM {_named(table)} LIMIT 1", []))
        kind = first[0][0] if first else None
        if isinstance(kind, datetime):
            at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=low)
            bound = [at if kind.tzinfo else at.replace(tzinfo=None)]
        elif isinstance(kind, int):
            bound = [low]
        if bound:
            query += f" WHERE {quote(table.end)} > ?"
    return _query(rule, table, f"{query} LIMIT {table.max_records + 1}", bound)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quote, names))


def _named(table: CountsTable) -> str:
    return ".".join(quote(name) for name in (table.schema, table.table) if name)


def _query(rule: ProducerCounts, table: CountsTable, query: str, bound: list[Any]) -> list[Sequence[Any]]:
    try:
        if table.url.startswith("duckdb:"):
            return _duckdb(table.url, query, bound)
        return _other(table.url, query, bound)
    except Exception as error:  # drivers have classes of their own, and none is worth an import here
        raise CountsUnavailableError(
            f"ProducerCounts {rule.name!r}: the table {printable(table.table)} cannot be read "
            f"({type(error).__name__}: {printable(str(error).splitlines()[0] if str(error) else '', 300)}). Create it "
            f"with the declared columns, or correct CountsTable(...)."
        ) from error


def _duckdb(url: str, query: str, bound: list[Any]) -> list[Sequence[Any]]:
    import duckdb

    path = below(home(), url.removeprefix(_DUCKDB))
    with duckdb.connect(str(path), read_only=True, config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        return list(connection.execute(query, bound).fetchall())


def _other(url: str, query: str, bound: list[Any]) -> list[Sequence[Any]]:
    from sqlalchemy import create_engine, event, make_url, text

    where = make_url(url)
    if where.get_backend_name() == "sqlite":
        path = below(home(), where.database or "")
        # Read only: a file that is missing is an error, and not made.
        where = make_url(f"sqlite:///file:{path}?mode=ro&uri=true")
    elif where.drivername == "postgresql":
        where = where.set(drivername="postgresql+psycopg")
    made = create_engine(where, pool_pre_ping=False)
    if where.get_backend_name() == "postgresql":

        def in_utc(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
                cursor.execute("SET TIME ZONE 'UTC'")
            connection.commit()

        event.listen(made, "connect", in_utc)
    try:
        with made.connect() as connection:
            named = {f"b{index}": value for index, value in enumerate(bound)}
            escaped = query.replace(":", "\\:")
            for name in named:
                escaped = escaped.replace("?", f":{name}", 1)
            return [tuple(row) for row in connection.execute(text(escaped), named)]
    finally:
        made.dispose()


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value
