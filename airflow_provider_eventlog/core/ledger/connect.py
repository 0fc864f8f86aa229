"""Opening a ledger: from an address to a database that is whole, of a known version, and on its own host."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError

from airflow_provider_eventlog.core.errors import LedgerConfigError, LedgerUnavailableError, LedgerVersionError
from airflow_provider_eventlog.core.ledger import hosts, schema, sqlite
from airflow_provider_eventlog.core.ledger.sql import SqlLedger


def open_ledger(url_or_path: str | Path, *, timeout_s: float = 30, create: bool = True) -> SqlLedger:
    """Open the ledger in a SQLite file, given as an absolute path or a `sqlite:////...` URL; made at first use.

    timeout_s  how long any call waits for another writer before it raises LedgerUnavailableError
    create     False leaves a ledger that does not exist uncreated: an empty one in memory is opened in its place

    Any number of processes may open a new ledger at once; one of them creates it, in one transaction.
    Raises LedgerConfigError (another kind of database, a relative path, a file that is no ledger),
    LedgerVersionError, LedgerHostError (network file system, file of another host), LedgerUnavailableError.
    """
    path = ledger_path(url_or_path)
    if create or path.exists():
        hosts.refuse_network(path)
        _make_folder(path)
        engine = sqlite.file_engine(path, timeout_s)
    else:
        engine = sqlite.memory_engine()
    try:
        return SqlLedger(engine, _ledger_id(engine, str(path), timeout_s))
    except BaseException:
        engine.dispose()
        raise


def ledger_path(url_or_path: str | Path) -> Path:
    """The file behind an address; raises LedgerConfigError for what this release cannot open.

    Messages name the kind of a URL only: the rest may hold a password.
    """
    path = Path(url_or_path)
    if isinstance(url_or_path, str) and "://" in url_or_path:
        try:
            url = make_url(url_or_path)
        except ArgumentError as error:
            raise LedgerConfigError(
                "The ledger's URL cannot be read; write sqlite:////absolute/path/ledger.sqlite."
            ) from error
        if url.get_backend_name() != "sqlite":
            raise LedgerConfigError(
                f"A ledger on {url.get_backend_name()} is not supported by this release: give an absolute path, or "
                f"sqlite:////absolute/path/ledger.sqlite."
            )
        path = Path(url.database or "")
    if not path.is_absolute():
        raise LedgerConfigError(
            f"The ledger's path {str(path)!r} is not absolute: every worker would see another file below its own "
            f"directory. Write it from the root on (as a URL with four slashes: sqlite:////...)."
        )
    return path


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerUnavailableError(f"The ledger's folder {path.parent} cannot be made: {error}.") from error


def _ledger_id(engine: Engine, where: str, timeout_s: float) -> str:
    """Create or check the ledger; its id."""
    with engine.connect() as connection:
        known = _meta(connection, where)
    here = hosts.identity()
    if known is None:
        sqlite.start_wal(engine, where, timeout_s)
        with sqlite.writing(engine).begin() as connection:
            known = _meta(connection, where) or _create(connection, here)
    _check_version(known, where)
    bound = {key: known[key] for key in here if key in known}
    if len(bound) == len(here):
        hosts.refuse_second(where, bound, here)
    if bound != here:
        with sqlite.writing(engine).begin() as connection:
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
        f"{where} is a database of something else, not a ledger; name another file. It was not touched."
    )


def _create(connection: Connection, here: Mapping[str, str]) -> dict[str, str]:
    schema.metadata.create_all(connection, checkfirst=False)
    made = {"schema": str(schema.VERSION), "release": schema.RELEASE, "ledger_id": str(uuid.uuid4()), **here}
    connection.execute(insert(schema.meta), _rows(made))
    return made


def _check_version(known: Mapping[str, str], where: str) -> None:
    if known["schema"] != str(schema.VERSION):
        raise LedgerVersionError(
            f"The ledger {where} has schema version {known['schema']}, this release knows {schema.VERSION}: use "
            f"airflow-provider-eventlog {known['release']} or later. Nothing was changed."
        )


def _rows(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]
