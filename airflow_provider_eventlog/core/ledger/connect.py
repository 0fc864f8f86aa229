"""Opening a ledger: from an address to a database that is whole, of a known version, and on its own host."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, MetaData, delete, insert, inspect, make_url, select, update
from sqlalchemy.exc import ArgumentError

from airflow_provider_eventlog.core import durable
from airflow_provider_eventlog.core.errors import LedgerConfigError, LedgerUnavailableError, LedgerVersionError
from airflow_provider_eventlog.core.hosts import identity
from airflow_provider_eventlog.core.ledger import hosts, schema, sqlite
from airflow_provider_eventlog.core.ledger.backend import Database
from airflow_provider_eventlog.core.ledger.sql import SqlLedger

_FORMS = "sqlite:////absolute/path/ledger.sqlite or postgresql://user:password@host/database"
_STANDING = "The ledger {where} exists; name a new one, or move it away first. It was not touched."
T = TypeVar("T")
_POSTGRES = {"postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"}


def open_ledger(url_or_path: str | Path, *, timeout_s: float = 30, create: bool = True) -> SqlLedger:
    """Open a ledger in SQLite (an absolute path, `sqlite:////...`) or PostgreSQL (`postgresql://...`).

    timeout_s  how long any call waits for another writer before it raises LedgerUnavailableError
    create     False leaves a ledger that does not exist uncreated: an empty one in memory is opened in its place

    A ledger is made at first use: the file, or the tables in an existing database of PostgreSQL, in the first schema
    of the search path. Any number of processes may open a new ledger at once; one of them creates it, in one
    transaction.

    Raises LedgerConfigError (another kind of database, a relative path, a database that is no ledger, log-in
    refused), LedgerVersionError, LedgerUnavailableError, and for SQLite LedgerHostError (network file system, file of
    another host).
    """
    database = _database(url_or_path, timeout_s, create)
    try:
        ledger_id = _ledger_id(database, create)
        if ledger_id is None:
            database.engine.dispose()
            database = sqlite.memory()
            ledger_id = _ledger_id(database, True)
            assert ledger_id is not None
        return SqlLedger(database, ledger_id)
    except BaseException:
        database.engine.dispose()
        raise


def make_ledger(
    url_or_path: str | Path,
    fill: Callable[[Connection], T],
    *,
    ledger_id: str,
    keep: bool = True,
    timeout_s: float = 30,
) -> T:
    """Make a ledger that `fill` writes whole, in one transaction with its creation; returns what `fill` returns.

    ledger_id  its id
    keep       False makes it in memory only

    Raises LedgerConfigError where a ledger, or the log of an SQLite file that is gone, stands already, and what
    `open_ledger` and `fill` raise; then no ledger was made.
    """
    database = _database(url_or_path, timeout_s, keep)
    try:
        _refuse_standing(database, url_or_path)
        if not keep:
            database.engine.dispose()
            database = sqlite.memory()
        here = identity() if database.one_host else {}
        with database.creating() as connection:
            if _meta(connection, database.where) is not None:
                raise LedgerConfigError(_STANDING.format(where=database.where))
            _create(connection, database.tables, here)
            named = update(schema.meta).where(schema.meta.c.key == "ledger_id")
            connection.execute(named.values(value=ledger_id))
            return fill(connection)
    finally:
        database.engine.dispose()


def _refuse_standing(database: Database, url_or_path: str | Path) -> None:
    where = address(url_or_path)
    if isinstance(where, Path):
        log = where.with_name(f"{where.name}-wal")
        if log.exists() and not where.exists():
            raise LedgerConfigError(
                f"The ledger's file {where} is gone, but its log {log} is there and may hold what was committed last. "
                f"Bring the file back, or move the log away; nothing was changed."
            )
    with database.reading.connect() as connection:
        if _meta(connection, database.where) is not None:
            raise LedgerConfigError(_STANDING.format(where=database.where))


def _database(url_or_path: str | Path, timeout_s: float, create: bool) -> Database:
    where = address(url_or_path)
    if isinstance(where, URL):
        try:
            from airflow_provider_eventlog.core.ledger import postgres
        except ImportError as error:
            raise LedgerConfigError(
                f"A ledger on PostgreSQL needs psycopg, which cannot be imported ({error}); install "
                f"airflow-provider-eventlog[postgres]."
            ) from error
        return postgres.server(where, timeout_s)
    if not create and not where.exists():
        return sqlite.memory()
    hosts.refuse_network(where)
    _make_folder(where)
    return sqlite.file(where, timeout_s)


def address(url_or_path: str | Path) -> Path | URL:
    """The SQLite file, or the URL of PostgreSQL, that an address names; LedgerConfigError for anything else.

    Messages name the kind of a URL only: the rest may hold a password.
    """
    path = Path(url_or_path)
    if isinstance(url_or_path, str) and "://" in url_or_path:
        url = _url(url_or_path)
        if url.drivername in _POSTGRES:
            return url
        if url.get_backend_name() != "sqlite":
            raise LedgerConfigError(
                f"A ledger on {url.drivername} is not supported by this release: give an absolute path, {_FORMS}."
            )
        path = Path(url.database or "")
    if not path.is_absolute():
        raise LedgerConfigError(
            f"The ledger's path {str(path)!r} is not absolute: every worker would see another file below its own "
            f"directory. Write it from the root on (as a URL with four slashes: sqlite:////...)."
        )
    return path


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    # An @ in a password that is not written as %40 ends up in the host, and from there in messages.
    if url is None or "@" in (url.host or ""):
        raise LedgerConfigError(
            f"The ledger's URL cannot be read; write {_FORMS}, and special characters in user and password as %XX."
        )
    return url


def _make_folder(path: Path) -> None:
    try:
        if not path.exists():
            durable.make_folder(path.parent, set())
    except OSError as error:
        raise LedgerUnavailableError(f"The ledger's folder {path.parent} cannot be made: {error}.") from error


def _ledger_id(database: Database, create: bool) -> str | None:
    """Check the ledger, or create it; its id, or None for one that is neither there nor to be created."""
    with database.reading.connect() as connection:
        known = _meta(connection, database.where)
    here = identity() if database.one_host else {}
    if known is None:
        if not create:
            return None
        with database.creating() as connection:
            known = _meta(connection, database.where) or _create(connection, database.tables, here)
    _check_version(known, database.where)
    bound = {key: known[key] for key in here if key in known}
    if here and len(bound) == len(here):
        hosts.refuse_second(database.where, bound, here)
    if bound != here:
        with database.writing.begin() as connection:
            connection.execute(delete(schema.meta).where(schema.meta.c.key.in_(here)))
            connection.execute(insert(schema.meta), _rows(here))
    return known["ledger_id"]


def _meta(connection: Connection, where: str) -> dict[str, str] | None:
    """What the ledger says of itself, or None for an empty database; raises LedgerConfigError for a foreign one."""
    looked_at = inspect(connection)
    tables = looked_at.get_table_names()
    if not tables:
        return None
    if schema.meta.name in tables and {"key", "value"} <= {c["name"] for c in looked_at.get_columns(schema.meta.name)}:
        query = select(schema.meta.c.key, schema.meta.c.value)
        known = {key: value for key, value in connection.execute(query)}  # noqa: C416
        if {"schema", "release", "ledger_id"} <= known.keys():
            return known
    raise LedgerConfigError(
        f"The ledger {where} is a database of something else, not a ledger; name another one, or in PostgreSQL a "
        f"schema of its own (?options=-csearch_path%3DNAME). It was not touched."
    )


def _create(connection: Connection, tables: MetaData, here: Mapping[str, str]) -> dict[str, str]:
    tables.create_all(connection, checkfirst=False)
    made = {"schema": str(schema.VERSION), "release": schema.RELEASE, "ledger_id": str(uuid.uuid4()), **here}
    connection.execute(insert(schema.meta), _rows(made))
    return made


def _check_version(known: Mapping[str, str], where: str) -> None:
    if known["schema"] == str(schema.VERSION):
        return
    if known["schema"].isdecimal() and int(known["schema"]) < schema.VERSION:
        raise LedgerVersionError(
            f"The ledger {where} has schema version {known['schema']}, of a state before the first release; this one "
            f"knows {schema.VERSION}. Make a new one from staging: eventlog ledger rebuild. Nothing was changed."
        )
    raise LedgerVersionError(
        f"The ledger {where} has schema version {known['schema']}, this release knows {schema.VERSION}: use "
        f"airflow-provider-eventlog {known['release']} or later. Nothing was changed."
    )


def _rows(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]
