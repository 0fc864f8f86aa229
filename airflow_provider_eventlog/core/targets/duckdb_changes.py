"""Change-sets on a DuckDB table: applied in the order of their numbers, each one transaction with its number."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core.errors import ContentMismatchError, NotReadyError
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.protocols import ApplyResult, Outcome, OutputId
from airflow_provider_eventlog.core.targets import duckdb_tables as tables
from airflow_provider_eventlog.core.targets.duckdb_transaction import Feed
from airflow_provider_eventlog.declare.outputs import DuckDB

_CURSOR = """
    CREATE TABLE IF NOT EXISTS main._eventlog_fold (
        table_uuid VARCHAR NOT NULL, log BIGINT NOT NULL, n BIGINT NOT NULL, digest VARCHAR NOT NULL)
"""


def cursor(connection: duckdb.DuckDBPyConnection, table_uuid: str) -> tuple[int, int, str] | None:
    """(log, n, digest) of the newest change-set in the table; None before the first."""
    if tables.relation(connection, "main", "_eventlog_fold") is None:
        return None
    rows = connection.execute(
        "SELECT log, n, digest FROM main._eventlog_fold WHERE table_uuid = ?", [table_uuid]
    ).fetchall()
    return (int(rows[0][0]), int(rows[0][1]), str(rows[0][2])) if rows else None


class Change:
    """One change-set on its way into the table, as the work of a transaction."""

    def __init__(
        self,
        declared: DuckDB,
        output: OutputId,
        step: tuple[int, int, str],
        upserts: Sequence[Path],
        deletes: Sequence[Path],
        schema: pa.Schema,
        key: Sequence[str],
    ) -> None:
        self.step = step
        self._declared, self._output = declared, output
        self._upserts, self._deletes = tuple(upserts), tuple(deletes)
        self._schema, self._key = schema, tuple(key)
        self._feed = Feed("_eventlog_changes")

    def apply(self, connection: duckdb.DuckDBPyConnection) -> ApplyResult:
        """Move the table from n-1 to n; EXISTED where it is there already."""
        connection.execute(_CURSOR).fetchall()
        columns = tables.wanted_columns(connection, self._schema, ())
        table = tables.look(connection, self._declared, self._output)
        table_uuid = table.table_uuid
        if table_uuid is None:
            table_uuid = uuid.uuid4().hex
            tables.create(connection, self._declared, self._output, table_uuid, columns)
        else:
            tables.check_columns(self._declared, self._output, table, columns)
        log, n, digest = self.step
        at = cursor(connection, table_uuid)
        if at is not None and self._reached(at):
            return ApplyResult(Outcome.EXISTED, 0, superseded=at[:2] != (log, n))
        before = at[1] if at is not None and at[0] == log else 0
        if n != before + 1:
            raise NotReadyError(
                f"Table {tables.name(self._declared)} stands at change-set {before} of log {log} and cannot take {n}: "
                f"the ones between come first. Nothing was moved."
            )
        if n == 1:
            connection.execute(f"DELETE FROM {tables.name(self._declared)}").fetchall()  # noqa: S608 - quoted name
        rows = self._change(connection, [name for name, _ in columns])
        connection.execute("DELETE FROM main._eventlog_fold WHERE table_uuid = ?", [table_uuid]).fetchall()
        connection.execute(
            "INSERT INTO main._eventlog_fold VALUES (?, ?, ?, ?)", [table_uuid, log, n, digest]
        ).fetchall()
        return ApplyResult(Outcome.LANDED, rows)

    def settle(self, connection: duckdb.DuckDBPyConnection) -> ApplyResult | None:
        """What became of it, where the answer to its commit was lost; None if the table is not there yet.

        Raises ContentMismatchError if it was another change-set n that the table took.
        """
        table = tables.look(connection, self._declared, self._output)
        at = cursor(connection, table.table_uuid) if table.table_uuid else None
        return ApplyResult(Outcome.LANDED, 0) if at is not None and self._reached(at) else None

    def _reached(self, at: tuple[int, int, str]) -> bool:
        """Whether a table that stands at `at` is at or past it; raises ContentMismatchError for another digest of n."""
        log, n, digest = self.step
        if at[:2] == (log, n) and at[2] != digest:
            raise ContentMismatchError(
                f"Table {tables.name(self._declared)} has another change-set {n} of log {log} ({at[2][:16]}) than "
                f"this one ({digest[:16]}). Nothing was moved; make the table anew: "
                f"{tables.rebuild_command(self._output, ' --replace')}."
            )
        return at[:2] >= (log, n)

    def _change(self, connection: duckdb.DuckDBPyConnection, names: list[str]) -> int:
        target = tables.name(self._declared)
        same = " AND ".join(f"t.{quote(name)} IS NOT DISTINCT FROM k.{quote(name)}" for name in self._key)
        keys = ", ".join(quote(name) for name in self._key)
        key_schema = pa.schema([self._schema.field(name) for name in self._key])
        for files, schema in ((self._deletes, key_schema), (self._upserts, self._schema)):
            self._feed.show(connection, files, schema)
            self._feed.execute(
                connection,
                f"DELETE FROM {target} t USING (SELECT DISTINCT {keys} FROM {self._feed.name}) k WHERE {same}",  # noqa: S608
            )
        self._feed.show(connection, self._upserts, self._schema)
        columns = ", ".join(quote(name) for name in names)
        return self._feed.execute(
            connection,
            f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {self._feed.name}",  # noqa: S608
        )
