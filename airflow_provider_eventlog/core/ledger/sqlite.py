"""All that is particular to SQLite: how it is opened, how a writer begins, what its failures mean."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import QueuePool, StaticPool

from airflow_provider_eventlog.core.errors import EventLogError, LedgerConfigError, LedgerUnavailableError
from airflow_provider_eventlog.core.ledger import schema
from airflow_provider_eventlog.core.ledger.backend import Database

_WRITES = "eventlog_writes"
_POLL_S = 0.02
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNAVAILABLE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}
_BROKEN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def file(path: Path, timeout_s: float) -> Database:
    """A ledger in a file: every commit on disk, foreign keys checked, locks waited for up to `timeout_s`."""
    url = URL.create("sqlite", database=str(path))
    return _database(create_engine(url, poolclass=QueuePool, connect_args=_arguments(timeout_s)), str(path), timeout_s)


def memory() -> Database:
    """A ledger that is gone with its engine; its one connection serves one thread at a time."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=_arguments(0))
    return _database(engine, "the ledger in memory", 0)


def _database(engine: Engine, where: str, timeout_s: float) -> Database:
    _prepare(engine, where, timeout_s)
    # A transaction that reads first and writes later could find that another has written between: SQLite then
    # refuses it at once, whatever the timeout. One that begins as a writer waits its turn instead.
    writing = engine.execution_options(**{_WRITES: True})

    @contextlib.contextmanager
    def creating() -> Iterator[Connection]:
        _start_wal(engine, where, timeout_s)
        with writing.begin() as connection:
            yield connection

    return Database(where, engine, engine, writing, schema.metadata, creating, one_host=True)


def _start_wal(engine: Engine, where: str, timeout_s: float) -> None:
    """Switch the file to WAL for good, which lets readers and one writer work side by side.

    The switch does not honour the busy timeout, so processes that open a new file at once wait here.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.closing(engine.raw_connection()) as connection:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() >= deadline:
                    raise stated(error, where, timeout_s) or error from error
                time.sleep(_POLL_S)
            else:
                return


def _arguments(timeout_s: float) -> dict[str, Any]:
    # isolation_level None keeps the driver from beginning transactions by itself: `_begin` does.
    return {"timeout": timeout_s, "isolation_level": None, "check_same_thread": False}


def _prepare(engine: Engine, where: str, timeout_s: float) -> None:
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    def failed(context: ExceptionContext) -> EventLogError | None:
        return stated(context.original_exception, where, timeout_s)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begin)
    event.listen(engine, "handle_error", failed)


def stated(error: BaseException, where: str, timeout_s: float) -> EventLogError | None:
    """What a driver's error means for the caller; None where it is no matter of the file or its locks."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return None
    primary = code & 0xFF  # extended codes keep the primary one in their low byte
    if primary in _BUSY:
        return LedgerUnavailableError(
            f"The ledger {where} stayed locked by another process for {timeout_s:g} s; nothing was changed. Try again; "
            f"if it stays so, look for a process that hangs with the file open."
        )
    if primary in _UNAVAILABLE:
        return LedgerUnavailableError(
            f"The ledger {where} cannot be used now: {error}. Check that its folder exists, is writable and has room; "
            f"nothing was changed."
        )
    if primary in _BROKEN:
        return LedgerConfigError(
            f"{where} is not a readable SQLite ledger: {error}. Restore the file from a backup, or name another one."
        )
    return None
