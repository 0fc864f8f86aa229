"""A DuckDB file as a target: one host, one writer at a time, whole transactions."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core import durable
from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    EventLogError,
    TargetBusyError,
    TargetOwnedError,
    TargetUnavailableError,
)
from airflow_provider_eventlog.core.holdings import AddedUp, Differing, TargetContents
from airflow_provider_eventlog.core.home import below
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.core.protocols import (
    ApplyResult,
    LoadedBatch,
    Outcome,
    OutputId,
    TargetState,
    TargetTable,
)
from airflow_provider_eventlog.core.rebuilding.table import NewTable
from airflow_provider_eventlog.core.targets import duckdb_changes, duckdb_comparing, duckdb_host
from airflow_provider_eventlog.core.targets import duckdb_tables as tables
from airflow_provider_eventlog.core.targets.duckdb_transaction import Feed, Transaction
from airflow_provider_eventlog.declare.outputs import DuckDB

T = TypeVar("T")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.02, 0.5
# A new file gets its three headers of 4 KiB at once; one that is still shorter after this was left by a kill.
_HEADERS, _MAKING_S = 3 * 4096, 5.0


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
        return self.read(lambda c: tables.look(c, self._declared, output), TargetTable(TargetState.ABSENT, None, ()))

    def loaded(self, output: OutputId, batch_id: str) -> LoadedBatch | None:
        """What the table holds of a batch."""
        return self.read(lambda c: self._loaded(c, output, batch_id), None)

    def _loaded(self, connection: duckdb.DuckDBPyConnection, output: OutputId, batch_id: str) -> LoadedBatch | None:
        table = tables.look(connection, self._declared, output)
        return tables.loaded(connection, table.table_uuid, batch_id) if table.table_uuid else None

    def contents(self, output: OutputId) -> TargetContents:
        """What the table holds of all batches, at one moment."""

        def ask(connection: duckdb.DuckDBPyConnection) -> TargetContents:
            connection.begin()
            table = tables.look(connection, self._declared, output)
            if table.table_uuid is None:
                return TargetContents((), {})
            return tables.contents(connection, self._declared, table.table_uuid)

        return self.read(ask, TargetContents((), {}))

    def owner(self) -> OutputId | None:
        """Whose the table is, or was if it is gone; None for a table that was never made, or not by this package."""
        return self.read(lambda c: tables.owner(c, self._declared), None)

    def cursor(self, output: OutputId) -> tuple[int, int] | None:
        """(log, n) of the newest change-set that the table holds, for good; None before the first."""
        found = self.read(lambda c: self._cursor(c, output), None)
        if found is not None:
            # Its attempt may have been killed behind the commit, and nobody applies it again.
            with self._reaching():
                durable.sync_folder(self._path.parent)
        return found

    def _cursor(self, connection: duckdb.DuckDBPyConnection, output: OutputId) -> tuple[int, int] | None:
        table = tables.look(connection, self._declared, output)
        at = duckdb_changes.cursor(connection, table.table_uuid) if table.table_uuid else None
        return None if at is None else at[:2]

    def apply_changes(
        self,
        output: OutputId,
        log: int,
        n: int,
        digest: str,
        upserts: Sequence[Path],
        deletes: Sequence[Path],
        schema: pa.Schema,
        key: Sequence[str],
    ) -> ApplyResult:
        """Apply change-set n of a log in one transaction, if the table stands at n-1; see `Target.apply_changes`."""
        change = duckdb_changes.Change(self._declared, output, (log, n, digest), upserts, deletes, schema, key)
        return self.transact(change.apply, change.settle)

    def differing(self, output: OutputId, wanted: AddedUp, limit: int) -> Differing | None:
        """Hold the table against what change-sets add up to; see `Target.differing`.

        They are added up on disk, in a folder of `tempfile`, before the table is opened.
        """
        with tempfile.TemporaryDirectory(prefix="eventlog-") as folder:
            scratch = Path(folder) / "replayed.duckdb"
            duckdb_comparing.replay(scratch, wanted)
            return self.read(
                lambda c: duckdb_comparing.compare(c, self._declared, output, scratch, wanted, limit), None
            )

    def apply_rows(
        self,
        output: OutputId,
        batch_id: str,
        generation: int,
        digest: str,
        files: Sequence[Path],
        schema: pa.Schema,
        *,
        again: bool = False,
        only: str | None = None,
    ) -> ApplyResult:
        """Make `generation` the one visible generation of the batch, in one transaction.

        files   parts in the schema, in order; streamed a row group at a time with their checksums verified
        schema  the columns and, if it has them, `_partition, _offset, _row`
        again   replace the rows of the same generation too, whatever is recorded of them
        only    the UUID of the table; TargetBusyError where another one, or none, has its name

        Raises ContentMismatchError, TargetSchemaError, TargetOwnedError, TargetReplacedError, StagingCorruptError.
        After a failure the table is as before. A commit whose answer is lost is settled by reading.
        """
        load = _Load(self._declared, output, batch_id, generation, digest, tuple(files), schema, again, only)

        def settle(connection: duckdb.DuckDBPyConnection) -> ApplyResult | None:
            found = self._loaded(connection, output, batch_id)
            # Of a load that is done again the record says nothing: it may be the one from before.
            if again or found is None or (found.generation, found.digest) != (generation, digest):
                return None
            return ApplyResult(Outcome.LANDED, found.rows)

        return self.transact(load.apply, settle)

    def new_table(self, output: OutputId, schema: pa.Schema, *, folded: bool = False) -> NewTable:
        """Look at the table, to make it anew; see `Target.new_table`."""
        from airflow_provider_eventlog.core.targets.duckdb_rebuild import DuckDBNewTable

        declared = replace(self._declared, path=str(self._path), table=f"{self._declared.table}__rebuild")
        beside = DuckDBTarget(declared, self._path.parent, busy_timeout_s=self._timeout)
        return DuckDBNewTable(self, self._declared, beside, declared, output, schema, folded)

    def transact(
        self, work: Callable[[duckdb.DuckDBPyConnection], T], settle: Callable[[duckdb.DuckDBPyConnection], T | None]
    ) -> T:
        """Run `work` in one transaction on this host; where the answer to its commit is lost, `settle` tells.

        `settle` gives what `work` gave if what it did stands, else None. Raises what both raise.
        """
        step = Transaction(self._path, work)
        try:
            result = self._with(step.run, read_only=False)
        except duckdb.Error as error:
            found = self.read(settle, None) if step.committing else None
            if found is None:
                raise self._unavailable(error) from error
            result = found
        # The engine syncs its file but not the way to it, and an earlier attempt may have been killed before this.
        with self._reaching():
            durable.sync_folder(self._path.parent)
        return result

    def read(self, ask: Callable[[duckdb.DuckDBPyConnection], T], absent: T) -> T:
        """Ask the file, opened for reading only; `absent` if there is none."""
        if not self._path.exists():
            return absent
        try:
            return self._with(ask, read_only=True)
        except duckdb.Error as error:
            raise self._unavailable(error) from error

    def _with(self, work: Callable[[duckdb.DuckDBPyConnection], T], *, read_only: bool) -> T:
        """Run `work` on the opened file, waiting for other holders and again after a lost race, up to the deadline."""
        duckdb_host.refuse_network(self._path)
        deadline, wait = time.monotonic() + self._timeout, _FIRST_WAIT_S
        while True:
            try:
                with self._open(read_only) as connection:
                    return work(connection)
            except duckdb.Error as error:
                if not _is_busy(error) and not (_is_foreign(error) and self._is_being_made()):
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
        with nullcontext() if read_only else self._alone():
            connection = duckdb.connect(str(self._path), read_only=read_only)
            try:
                yield connection
            finally:
                connection.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers away from opening to closing; raises duckdb.IOException while another one is there.

        The engine's own lock lets a writer in while another one closes the file, and then commits get lost.
        """
        with self._reaching():
            folder = os.open(self._path.absolute().parent, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise duckdb.IOException("Could not set lock: another writer has the folder") from None
            yield
        finally:
            os.close(folder)

    def _is_being_made(self) -> bool:
        """Whether the file may be one that another process has just begun: too short for its headers, and young."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        return found.st_size < _HEADERS and time.time() - found.st_mtime < _MAKING_S

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetUnavailableError(f"The folder of {self._path} cannot be made or synced: {error}.") from error

    def _unavailable(self, error: duckdb.Error) -> EventLogError:
        if _is_foreign(error):
            return TargetOwnedError(f"{self._path} is no DuckDB file; name another path.")
        return TargetUnavailableError(
            f"The DuckDB file {self._path} failed: {type(error).__name__}: {printable(str(error), 300)}. Nothing of "
            f"this load is visible; retry."
        )


def _is_foreign(error: duckdb.Error) -> bool:
    return "not a valid DuckDB database" in str(error)


def _is_busy(error: duckdb.Error) -> bool:
    text = str(error)
    if isinstance(error, duckdb.IOException):
        return "Could not set lock" in text
    if isinstance(error, duckdb.ConnectionException):
        return "different configuration" in text
    # Two connections of one process share the file's lock and race in the catalog or on rows instead.
    return isinstance(error, duckdb.TransactionException) and "onflict" in text


class _Load:
    """One load, as the work of a transaction."""

    def __init__(
        self,
        declared: DuckDB,
        output: OutputId,
        batch_id: str,
        generation: int,
        digest: str,
        files: tuple[Path, ...],
        schema: pa.Schema,
        again: bool,
        only: str | None,
    ) -> None:
        self._again, self._only = again, only
        self._declared, self._output, self._batch = declared, output, batch_id
        self._generation, self._digest = generation, digest
        self._files, self._schema = files, schema

    def apply(self, connection: duckdb.DuckDBPyConnection) -> ApplyResult:
        """Take the place of an earlier generation; EXISTED where there is nothing to do."""
        columns = tables.wanted_columns(connection, self._schema)
        table = tables.look(connection, self._declared, self._output)
        if self._only is not None and table.table_uuid != self._only:
            raise TargetBusyError(tables.taken_away(self._declared))
        if table.table_uuid is None:
            table_uuid = uuid.uuid4().hex
            tables.create(connection, self._declared, self._output, table_uuid, columns)
        else:
            table_uuid = table.table_uuid
            tables.check_columns(self._declared, self._output, table, columns)
        found = tables.loaded(connection, table_uuid, self._batch)
        if found is not None and found.generation > self._generation:
            return ApplyResult(Outcome.EXISTED, found.rows, superseded=True)
        if found is not None and found.generation == self._generation and not self._again:
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
        feed = Feed("_eventlog_parts")
        feed.show(connection, self._files, self._schema)
        return feed.execute(
            connection,
            f"INSERT INTO {target} ({names}) SELECT {values} FROM {feed.name}",  # noqa: S608 - quoted names
            [self._batch],
        )
