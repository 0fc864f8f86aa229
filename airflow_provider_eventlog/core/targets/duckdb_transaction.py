"""One transaction on a DuckDB file, and rows of staged files on their way into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.protocols import ApplyResult, Outcome
from airflow_provider_eventlog.core.targets import duckdb_host

T = TypeVar("T")


class Transaction(Generic[T]):
    """Work that is done whole or not at all; `committing` tells whether its commit may have happened."""

    def __init__(self, path: Path, work: Callable[[duckdb.DuckDBPyConnection], T]) -> None:
        self.committing = False
        self._path, self._work = path, work

    def run(self, connection: duckdb.DuckDBPyConnection) -> T:
        """The whole transaction, on this host; rolled back where the work raises, or has changed nothing."""
        self.committing = False
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        connection.begin()
        try:
            duckdb_host.bind(connection, self._path)
            result = self._work(connection)
        except BaseException:
            with suppress(duckdb.Error):
                connection.rollback()
            raise
        if isinstance(result, ApplyResult) and result.outcome is not Outcome.LANDED:
            connection.rollback()
            return result
        self.committing = True
        connection.commit()
        self.committing = False
        return result


class Feed:
    """Staged files as a relation of a connection; what is wrong with them is raised as what it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._broken: EventLogError | None = None

    def show(self, connection: duckdb.DuckDBPyConnection, files: Sequence[Path], schema: pa.Schema) -> None:
        """Register the rows of `files`, which are streamed when a statement reads them, once."""
        connection.register(self.name, pa.RecordBatchReader.from_batches(schema, self._batches(files, schema)))

    def execute(self, connection: duckdb.DuckDBPyConnection, statement: str, values: Sequence[str] = ()) -> int:
        """Run a statement over the relation; how many rows it changed. Raises StagingCorruptError."""
        try:
            return int(connection.execute(statement, list(values)).fetchall()[0][0])
        except duckdb.Error:
            if self._broken is not None:
                raise self._broken from None
            raise

    def _batches(self, files: Sequence[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        # The engine turns what is raised here into an error of its own; keep ours.
        try:
            yield from partfile.iter_batches(files, schema)
        except EventLogError as error:
            self._broken = error
            raise
