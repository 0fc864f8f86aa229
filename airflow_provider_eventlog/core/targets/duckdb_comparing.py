"""A DuckDB table held against what change-sets add up to: replayed into a scratch file, then compared in the engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core.errors import TargetUnavailableError
from airflow_provider_eventlog.core.holdings import AddedUp, Differing
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.core.protocols import OutputId
from airflow_provider_eventlog.core.targets import duckdb_changes
from airflow_provider_eventlog.core.targets import duckdb_tables as tables
from airflow_provider_eventlog.core.targets.duckdb_transaction import Feed
from airflow_provider_eventlog.declare.outputs import DuckDB

# 2n for the deletes of change-set n and 2n + 1 for its upserts, which come later.
_AT = "_eventlog_at"
_SCRATCH = "_eventlog_replayed"


def replay(scratch: Path, wanted: AddedUp) -> None:
    """Make a database with the table that change-sets add up to.

    Raises StagingCorruptError for their files, TargetUnavailableError for a scratch folder that fails.
    """
    try:
        with duckdb.connect(str(scratch)) as connection:
            connection.execute("SET TimeZone = 'UTC'").fetchall()
            _replay(connection, wanted)
    except duckdb.Error as error:
        raise TargetUnavailableError(
            f"Change-sets cannot be added up in {scratch.parent}: {printable(str(error), 300)}. Nothing was changed; "
            f"make room there, or let TMPDIR name another folder."
        ) from error


def _replay(connection: duckdb.DuckDBPyConnection, wanted: AddedUp) -> None:
    schema, key = wanted.schema, wanted.key
    columns = tables.wanted_columns(connection, schema, ())
    described = ", ".join(f"{quote(name)} {kind}" for name, kind in columns)
    connection.execute(f"CREATE TABLE said ({described}, {_AT} BIGINT)").fetchall()
    keys, every = _listed(key), _listed(name for name, _ in columns)
    key_schema, feed = pa.schema([schema.field(name) for name in key]), Feed("_eventlog_changes")
    connection.begin()
    for n, upserts, deletes in wanted.changes:
        for files, of, names, at in ((deletes, key_schema, keys, 2 * n), (upserts, schema, every, 2 * n + 1)):
            if files:
                feed.show(connection, files, of)
                feed.execute(
                    connection,
                    f"INSERT INTO said ({names}, {_AT}) SELECT {names}, {at} FROM {feed.name}",  # noqa: S608
                )
    connection.execute(
        f"CREATE TABLE replayed AS SELECT {every} FROM "  # noqa: S608 - quoted names
        f"(SELECT *, max({_AT}) OVER (PARTITION BY {keys}) AS _eventlog_last FROM said) "
        f"WHERE {_AT} = _eventlog_last AND {_AT} % 2 = 1"
    ).fetchall()
    connection.execute("DROP TABLE said").fetchall()
    connection.commit()


def compare(
    connection: duckdb.DuckDBPyConnection,
    declared: DuckDB,
    output: OutputId,
    scratch: Path,
    wanted: AddedUp,
    limit: int,
) -> Differing | None:
    """Hold the table, opened for reading, against a replayed one; None if it stands at another change-set.

    Raises TargetOwnedError, TargetReplacedError, TargetSchemaError.
    """
    connection.execute("SET TimeZone = 'UTC'").fetchall()
    connection.execute(f"SET temp_directory = {_literal(scratch.parent)}").fetchall()
    connection.begin()
    table = tables.look(connection, declared, output)
    stands = duckdb_changes.cursor(connection, table.table_uuid) if table.table_uuid else None
    if stands is None or stands[:2] != wanted.at:
        return None
    columns = tables.wanted_columns(connection, wanted.schema, ())
    tables.check_columns(declared, output, table, columns)
    connection.execute(f"ATTACH {_literal(scratch)} AS {_SCRATCH} (READ_ONLY)").fetchall()
    every, keys = _listed(name for name, _ in columns), _listed(wanted.key)
    ours, theirs = f"{_SCRATCH}.main.replayed", tables.name(declared)
    shown = ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in wanted.key)
    found = connection.execute(
        f"""
        WITH lacking AS (SELECT {every} FROM {ours} EXCEPT ALL SELECT {every} FROM {theirs}),
             beyond AS (SELECT {every} FROM {theirs} EXCEPT ALL SELECT {every} FROM {ours}),
             both_ways AS (SELECT {keys}, 1 AS _eventlog_l, 0 AS _eventlog_b FROM lacking
                           UNION ALL SELECT {keys}, 0, 1 FROM beyond),
             by_key AS (SELECT {keys}, max(_eventlog_l) AS _eventlog_l, max(_eventlog_b) AS _eventlog_b
                        FROM both_ways GROUP BY {keys})
        SELECT count(*) OVER (), _eventlog_l, _eventlog_b, {shown} FROM by_key ORDER BY {keys} LIMIT {int(limit)}
        """  # noqa: S608 - quoted names and numbers
    ).fetchall()
    words = {(1, 1): "changed", (1, 0): "missing", (0, 1): "not ours"}
    first = tuple((words[lacks, beyond], tuple(values)) for _, lacks, beyond, *values in found)
    return Differing(int(found[0][0]) if found else 0, first)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(quote, names))


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
