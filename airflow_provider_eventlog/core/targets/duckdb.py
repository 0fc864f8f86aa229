"""A DuckDB file as a target: one host, one writer at a time, whole transactions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core import durable, partfile
from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    EventLogError,
    TargetBusyError,
    TargetHostError,
    TargetOwnedError,
    TargetUnavailableError,
)
from airflow_provider_eventlog.core.home import below
from airflow_provider_eventlog.core.hosts import network_file_system
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.core.protocols import (
    ApplyResult,
    LoadedBatch,
    Outcome,
    OutputId,
    TargetState,
    TargetTable,
)
from airflow_provider_eventlog.core.targets import duckdb_tables as tables
from airflow_provider_eventlog.declare.outputs import DuckDB

T = TypeVar("T")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.02, 0.5


class DuckDBTarget:
    """One table of a DuckDB file.

    declared        the file, schema and table
    home            base of a relative path
    busy_timeout_s  how long a file that another process holds is waited for

    Every call opens the file and closes it again, so that others get their turn. All methods raise TargetHostError
    for a file on a network file system, TargetBusyError past the deadline, TargetUnavailableError for a file that
    cannot be opened or a statement that fails.
    """

    def __init__(self, declared: DuckDB, home: Path, *, busy_timeout_s: float = 60) -> None:
        self._declared = declared
        self._path = below(home, declared.path)
        self._timeout = busy_timeout_s

    def state(self, output: OutputId) -> TargetTable:
        """The table as this output may see it; a file that does not exist yet is an absent table, and stays so."""
        return self._read(lambda c: tables.look(c, self._declared, output), TargetTable(TargetState.ABSENT, None, ()))

    def loaded(self, output: OutputId, batch_id: str) -> LoadedBatch | None:
        """What the table holds of a batch."""

        def ask(connection: duckdb.DuckDBPyConnection) -> LoadedBatch | None:
            table = tables.look(connection, self._declared, output)
            return tables.loaded(connection, table.table_uuid, batch_id) if table.table_uuid else None

        return self._read(ask, None)

    def apply_rows(
        self,
        output: OutputId,
        batch_id: str,
        generation: int,
        digest: str,
        files: Sequence[Path],
        schema: pa.Schema,
    ) -> ApplyResult:
        """Make `generation` the one visible generation of the batch, in one transaction.

        files   parts in the schema, in order; streamed a row group at a time with their checksums verified
        schema  the columns and, if it has them, `_partition, _offset, _row`

        Raises ContentMismatchError, TargetSchemaError, TargetOwnedError, TargetReplacedError, StagingCorruptError.
        After a failure the table is as before. A commit whose answer is lost is settled by reading.
        """
        load = _Load(self._declared, output, batch_id, generation, digest, tuple(files), schema)
        try:
            result = self._with(load.run, read_only=False)
        except duckdb.Error as error:
            found = self.loaded(output, batch_id) if load.committing else None
            if found is None or (found.generation, found.digest) != (generation, digest):
                raise self._unavailable(error) from error
            result = ApplyResult(Outcome.LANDED, found.rows)
        # The engine syncs its file but not the way to it, and an earlier attempt may have been killed before this.
        with self._reaching():
            durable.sync_folder(self._path.parent)
        return result

    def _read(self, ask: Callable[[duckdb.DuckDBPyConnection], T], absent: T) -> T:
        if not self._path.exists():
            return absent
        try:
            return self._with(ask, read_only=True)
        except duckdb.Error as error:
            raise self._unavailable(error) from error

    def _with(self, work: Callable[[duckdb.DuckDBPyConnection], T], *, read_only: bool) -> T:
        """Run `work` on the opened file, waiting for other holders and again after a lost race, up to the deadline."""
        kind = network_file_system(self._path)
        if kind is not None:
            raise TargetHostError(
                f"The DuckDB file {self._path} lies on a network file system ({kind}), where its locks do not hold; "
                f"put it on a local disk."
            )
        deadline, wait = time.monotonic() + self._timeout, _FIRST_WAIT_S
        while True:
            try:
                with self._open(read_only) as connection:
                    return work(connection)
            except duckdb.Error as error:
                if not _is_busy(error):
                    raise
                if time.monotonic() + wait > deadline:
                    raise TargetBusyError(
                        f"The DuckDB file {self._path} was held by others for {self._timeout:g} s "
                        f"({printable(str(error), 200)}). Nothing was moved; close the other connection or retry."
                    ) from error
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    @contextmanager
    def _open(self, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        if not read_only and not self._path.exists():
            with self._reaching():
                durable.make_folder(self._path.absolute().parent, set())
        connection = duckdb.connect(str(self._path), read_only=read_only)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetUnavailableError(f"The folder of {self._path} cannot be made or synced: {error}.") from error

    def _unavailable(self, error: duckdb.Error) -> EventLogError:
        if "not a valid DuckDB database" in str(error):
            return TargetOwnedError(f"{self._path} is no DuckDB file; name another path.")
        return TargetUnavailableError(
            f"The DuckDB file {self._path} failed: {type(error).__name__}: {printable(str(error), 300)}. Nothing of "
            f"this load is visible; retry."
        )


def _is_busy(error: duckdb.Error) -> bool:
    text = str(error)
    if isinstance(error, duckdb.IOException):
        return "Could not set lock" in text
    if isinstance(error, duckdb.ConnectionException):
        return "different configuration" in text
    # Two connections of one process share the file's lock and race in the catalog or on rows instead.
    return isinstance(error, duckdb.TransactionException) and "onflict" in text


class _Load:
    """One load; `committing` tells whether its commit may have happened."""

    def __init__(
        self,
        declared: DuckDB,
        output: OutputId,
        batch_id: str,
        generation: int,
        digest: str,
        files: tuple[Path, ...],
        schema: pa.Schema,
    ) -> None:
        self.committing = False
        self._declared, self._output, self._batch = declared, output, batch_id
        self._generation, self._digest = generation, digest
        self._files, self._schema = files, schema
        self._broken: EventLogError | None = None

    def run(self, connection: duckdb.DuckDBPyConnection) -> ApplyResult:
        """The whole transaction; rolled back on every way out but the last."""
        self.committing = False
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        connection.begin()
        try:
            result = self._apply(connection)
        except BaseException:
            with suppress(duckdb.Error):
                connection.rollback()
            raise
        if result.outcome is Outcome.LANDED:
            self.committing = True
            connection.commit()
            self.committing = False
        else:
            connection.rollback()
        return result

    def _apply(self, connection: duckdb.DuckDBPyConnection) -> ApplyResult:
        columns = tables.wanted_columns(connection, self._schema)
        table = tables.look(connection, self._declared, self._output)
        if table.table_uuid is None:
            table_uuid = uuid.uuid4().hex
            tables.create(connection, self._declared, self._output, table_uuid, columns)
        else:
            table_uuid = table.table_uuid
            tables.check_columns(self._declared, table, columns)
        found = tables.loaded(connection, table_uuid, self._batch)
        if found is not None and found.generation > self._generation:
            return ApplyResult(Outcome.EXISTED, found.rows, superseded=True)
        if found is not None and found.generation == self._generation:
            if found.digest != self._digest:
                raise ContentMismatchError(
                    f"Table {tables.name(self._declared)} holds generation {found.generation} of batch {self._batch} "
                    f"with the digest {found.digest[:16]}, this load has {self._digest[:16]}. Nothing was moved; "
                    f"clear the run from plan."
                )
            return ApplyResult(Outcome.EXISTED, found.rows)
        rows = self._insert(connection, [name for name, _ in columns])
        tables.record(connection, table_uuid, self._batch, LoadedBatch(self._generation, self._digest, rows))
        return ApplyResult(Outcome.LANDED, rows)

    def _insert(self, connection: duckdb.DuckDBPyConnection, columns: list[str]) -> int:
        target = tables.name(self._declared)
        connection.execute(f"DELETE FROM {target} WHERE _batch_id = ?", [self._batch]).fetchall()  # noqa: S608
        names = ", ".join(quote(name) for name in columns)
        values = ", ".join("?" if name == "_batch_id" else quote(name) for name in columns)
        connection.register("_eventlog_parts", pa.RecordBatchReader.from_batches(self._schema, self._batches()))
        try:
            counted = connection.execute(
                f"INSERT INTO {target} ({names}) SELECT {values} FROM _eventlog_parts",  # noqa: S608 - quoted names
                [self._batch],
            ).fetchall()
        except duckdb.Error:
            if self._broken is not None:
                raise self._broken from None
            raise
        return int(counted[0][0])

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # The engine turns what is raised here into an error of its own; keep ours.
        try:
            yield from partfile.iter_batches(self._files, self._schema)
        except EventLogError as error:
            self._broken = error
            raise
