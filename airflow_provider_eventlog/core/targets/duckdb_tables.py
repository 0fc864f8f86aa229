"""The tables of a DuckDB target: whose they are, what columns they have, what is loaded.

Every table carries its UUID as its comment, beside the row of `_eventlog_output` in the same file: a table that was
dropped and made again has the same catalog id, but no comment.
"""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core.errors import TargetOwnedError, TargetReplacedError, TargetSchemaError
from airflow_provider_eventlog.core.holdings import TargetContents
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.protocols import LoadedBatch, OutputId, TargetState, TargetTable
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.declare.outputs import DuckDB

ROW_COLUMNS = (("_batch_id", "VARCHAR"), ("_partition", "INTEGER"), ("_offset", "BIGINT"), ("_row", "INTEGER"))
_COMMENT = re.compile(r"eventlog:([0-9a-f]{32})")
_OWN_TABLES = """
    CREATE TABLE IF NOT EXISTS main._eventlog_output (
        table_uuid VARCHAR PRIMARY KEY, ledger_id VARCHAR NOT NULL, pipeline VARCHAR NOT NULL, output VARCHAR NOT NULL,
        table_schema VARCHAR NOT NULL, table_name VARCHAR NOT NULL, log BIGINT, n BIGINT);
    CREATE TABLE IF NOT EXISTS main._eventlog_load (
        table_uuid VARCHAR NOT NULL, batch_id VARCHAR NOT NULL, gen BIGINT NOT NULL, digest VARCHAR NOT NULL,
        rows BIGINT NOT NULL)
"""


def name(declared: DuckDB) -> str:
    """The table's quoted name."""
    return f"{quote(declared.schema)}.{quote(declared.table)}"


def own_uuid(connection: duckdb.DuckDBPyConnection, declared: DuckDB, output: OutputId) -> str | None:
    """The UUID of the table that `output` has made under this name, which may be gone; None before the first."""
    owned = _owners(connection, "WHERE (ledger_id, pipeline, output) = (?, ?, ?) AND (lower(table_schema), "
                                "lower(table_name)) = (lower(?), lower(?))",
                    [output.ledger_id, output.pipeline, output.output, declared.schema, declared.table])  # fmt: skip
    return owned[0][0] if owned else None


def look(connection: duckdb.DuckDBPyConnection, declared: DuckDB, output: OutputId) -> TargetTable:
    """The table as `output` may see it; raises TargetOwnedError, TargetReplacedError."""
    found = relation(connection, declared.schema, declared.table)
    mine = own_uuid(connection, declared, output)
    label = f"Table {name(declared)}"
    if found is None:
        if mine is not None:
            raise TargetReplacedError(
                f"{label} was loaded by pipeline {output.pipeline!r} before and is gone. Nothing was moved; bring it "
                f"back from a copy, or make it again from staging: {rebuild_command(output)}."
            )
        return TargetTable(TargetState.ABSENT, None, ())
    comment = _COMMENT.fullmatch(found)
    carried = comment[1] if comment else None
    if mine is not None:
        if carried != mine:
            raise TargetReplacedError(
                f"{label} is not the one that pipeline {output.pipeline!r} made: it carries "
                f"{'another UUID' if carried else 'no UUID'}. Nothing was moved; bring the old one back from a copy, "
                f"or rename this one and make the old one again from staging: {rebuild_command(output)}."
            )
        return TargetTable(TargetState.OWNED, mine, _columns(connection, declared))
    holder = _owners(connection, "WHERE table_uuid = ?", [carried]) if carried else []
    if holder:
        _, ledger, pipeline, other = holder[0]
        raise TargetOwnedError(
            f"{label} belongs to output {other!r} of pipeline {pipeline!r} (ledger {ledger}); a table has one owner. "
            f"Name another table."
        )
    raise TargetOwnedError(
        f"{label} exists and was not made by this package; nothing was moved. Name another table, or rename that one."
    )


def owner(connection: duckdb.DuckDBPyConnection, declared: DuckDB) -> OutputId | None:
    """Whose the table is by the UUID that it carries; of one that is gone, whose it was, if it was one output's."""
    found = relation(connection, declared.schema, declared.table)
    if found is None:
        named = "WHERE (lower(table_schema), lower(table_name)) = (lower(?), lower(?))"
        owners = _owners(connection, named, [declared.schema, declared.table])
    else:
        comment = _COMMENT.fullmatch(found)
        owners = _owners(connection, "WHERE table_uuid = ?", [comment[1]]) if comment else []
    # More than one only where the table of one ledger was dropped, and then that of another.
    return OutputId(*owners[0][1:]) if len(owners) == 1 else None


def rebuild_command(output: OutputId, more: str = "") -> str:
    """What to call to make an output's table anew."""
    return f"`eventlog rebuild --pipeline FILE.py:VARIABLE --output-name {output.output}{more}`"


def relation(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> str | None:
    """The comment (empty for none) of the table or view of that name; None if there is none."""
    rows = connection.execute(
        "SELECT coalesce(comment, '') FROM duckdb_tables() WHERE NOT temporary AND database_name = current_database() "
        "AND (lower(schema_name), lower(table_name)) = (lower($1), lower($2)) "
        "UNION ALL SELECT '' FROM duckdb_views() WHERE NOT temporary AND database_name = current_database() "
        "AND (lower(schema_name), lower(view_name)) = (lower($1), lower($2))",
        [schema, table],
    ).fetchall()
    return str(rows[0][0]) if rows else None


def _owners(connection: duckdb.DuckDBPyConnection, where: str, values: list[str | None]) -> list[tuple[str, ...]]:
    if relation(connection, "main", "_eventlog_output") is None:
        return []
    return connection.execute(
        f"SELECT table_uuid, ledger_id, pipeline, output FROM main._eventlog_output {where}",  # noqa: S608
        values,
    ).fetchall()


def _columns(connection: duckdb.DuckDBPyConnection, declared: DuckDB) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
        "AND (lower(schema_name), lower(table_name)) = (lower(?), lower(?)) ORDER BY column_index",
        [declared.schema, declared.table],
    ).fetchall()
    return tuple((str(column), str(kind)) for column, kind in rows)


def wanted_columns(
    connection: duckdb.DuckDBPyConnection,
    schema: pa.Schema,
    more: tuple[tuple[str, str], ...] = ROW_COLUMNS,
) -> tuple[tuple[str, str], ...]:
    """The table's columns for rows of `schema`: its own, then `more`; by default batch and position.

    The engine's types come from the fields' metadata, else from what the engine makes of the Arrow type.
    """
    connection.register("_eventlog_columns", pa.Table.from_batches([], schema))
    try:
        seen = connection.sql("SELECT * FROM _eventlog_columns").types
    finally:
        connection.unregister("_eventlog_columns")
    kept = {column for column, _ in more}
    columns = []
    for field, kind in zip(schema, seen, strict=True):
        if field.name not in kept:
            told = (field.metadata or {}).get(TYPE_KEY)
            # The engine reads the text as a type and nothing else.
            columns.append((field.name, str(duckdb.sqltype(told.decode())) if told else str(kind)))
    return (*columns, *more)


def create(
    connection: duckdb.DuckDBPyConnection,
    declared: DuckDB,
    output: OutputId,
    table_uuid: str,
    columns: tuple[tuple[str, str], ...],
) -> None:
    """Make the table, its UUID and its owner, inside the open transaction."""
    for statement in _OWN_TABLES.split(";"):
        connection.execute(statement).fetchall()
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(declared.schema)}").fetchall()
    described = ", ".join(f"{quote(column)} {kind}" for column, kind in columns)
    connection.execute(f"CREATE TABLE {name(declared)} ({described})").fetchall()
    assert re.fullmatch("[0-9a-f]{32}", table_uuid)
    connection.execute(f"COMMENT ON TABLE {name(declared)} IS 'eventlog:{table_uuid}'").fetchall()
    connection.execute(
        "INSERT INTO main._eventlog_output VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
        [table_uuid, output.ledger_id, output.pipeline, output.output, declared.schema, declared.table],
    ).fetchall()


def check_columns(declared: DuckDB, output: OutputId, table: TargetTable, columns: tuple[tuple[str, str], ...]) -> None:
    """Raise TargetSchemaError with a difference unless the table has exactly these columns, in any order."""
    lines = difference(table, columns)
    if lines:
        raise TargetSchemaError(
            f"Table {name(declared)} has other columns than the rows to load: {'; '.join(lines)}. Nothing was moved; "
            f"load into another table, or make this one anew from staging with the old one kept under another name: "
            f"{rebuild_command(output, ' --replace')}."
        )


def difference(table: TargetTable, columns: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """In what a table's columns differ from these, in any order."""
    have, want = dict(table.columns), dict(columns)
    lines = [f"+ {column} {kind} (not in the table)" for column, kind in want.items() if column not in have]
    lines += [f"- {column} {kind} (only in the table)" for column, kind in have.items() if column not in want]
    lines += [
        f"~ {column} {have[column]} in the table, {kind} in the rows"
        for column, kind in want.items()
        if column in have and have[column] != kind
    ]
    return tuple(lines)


def taken_away(declared: DuckDB) -> str:
    """The message for a table that is made anew and was taken away meanwhile."""
    return (
        f"Table {name(declared)} is not the one that this process began: another rebuild of the same output has "
        f"finished, or begun anew, meanwhile. Nothing of this process is visible; call it again if it is still needed."
    )


def loaded(connection: duckdb.DuckDBPyConnection, table_uuid: str, batch_id: str) -> LoadedBatch | None:
    """What `_eventlog_load` says of a batch."""
    rows = connection.execute(
        "SELECT gen, digest, rows FROM main._eventlog_load WHERE table_uuid = ? AND batch_id = ?",
        [table_uuid, batch_id],
    ).fetchall()
    return LoadedBatch(*rows[0]) if rows else None


def forget(connection: duckdb.DuckDBPyConnection, table_uuid: str) -> None:
    """Remove what is recorded of a table."""
    for own in ("_eventlog_output", "_eventlog_load"):
        connection.execute(f"DELETE FROM main.{own} WHERE table_uuid = ?", [table_uuid]).fetchall()  # noqa: S608


def loads(connection: duckdb.DuckDBPyConnection, table_uuid: str) -> tuple[tuple[str, LoadedBatch], ...]:
    """All records of a table, with their batches."""
    recorded = connection.execute(
        "SELECT batch_id, gen, digest, rows FROM main._eventlog_load WHERE table_uuid = ? ORDER BY ALL", [table_uuid]
    ).fetchall()
    return tuple((batch_id, LoadedBatch(*load)) for batch_id, *load in recorded)


def contents(connection: duckdb.DuckDBPyConnection, declared: DuckDB, table_uuid: str) -> TargetContents:
    """What `_eventlog_load` says of all batches, and what the table has of them."""
    counted = connection.execute(f"SELECT _batch_id, count(*) FROM {name(declared)} GROUP BY 1").fetchall()  # noqa: S608
    return TargetContents(loads(connection, table_uuid), dict(counted))


def record(connection: duckdb.DuckDBPyConnection, table_uuid: str, batch_id: str, load: LoadedBatch) -> None:
    """Replace what `_eventlog_load` says of a batch."""
    connection.execute(
        "DELETE FROM main._eventlog_load WHERE table_uuid = ? AND batch_id = ?", [table_uuid, batch_id]
    ).fetchall()
    connection.execute(
        "INSERT INTO main._eventlog_load VALUES (?, ?, ?, ?, ?)",
        [table_uuid, batch_id, load.generation, load.digest, load.rows],
    ).fetchall()
