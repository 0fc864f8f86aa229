"""All that is particular to PostgreSQL: how it is opened, how long it is waited for, what its failures mean.

Imported for such a ledger only: it brings psycopg.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, MetaData, String, create_engine, event, func, select
from sqlalchemy.engine import ExceptionContext

from airflow_provider_eventlog.core.errors import EventLogError, LedgerConfigError, LedgerUnavailableError
from airflow_provider_eventlog.core.ledger import schema
from airflow_provider_eventlog.core.ledger.backend import Database

# Any number will do that no other use of advisory locks in the same database takes: "eventlog" in ASCII.
_CREATION = int.from_bytes(b"eventlog", "big")
# A planner asks Kafka before its transaction; one that idles for so long inside is stopped or gone, and others wait.
_IDLE_S = 60
_LOCKED = "55P03"
_DAMAGED = {"XX001", "XX002"}
_MISTAKEN = {"42501"}
_MISTAKEN_CLASSES = {"28", "3D", "3F"}
_PASSING = {"25006", "25P03", "25P04"}
_PASSING_CLASSES = {"08", "40", "53", "57", "58", "XX"}
# libpq keeps no SQLSTATE of a failed log-in. In another language than English such a failure counts as passing.
_MISTAKEN_TEXT = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|not permitted to log in"
    r'|(database|role) ".*" does not exist|permission denied for database|connection is bad: invalid'
    r"|certificate verify failed|root certificate file|does not support SSL"
)


def server(url: URL, timeout_s: float) -> Database:
    """A ledger in the database of a `postgresql` URL, in the first schema of its search path.

    timeout_s  how long a connection, and a lock, is waited for; a statement may take twice that

    libpq's parameters in the URL's query go before the ones that are set here.
    """
    where = _where(url)
    failed = _failed(where, str(url.password or url.query.get("password") or ""), timeout_s)
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={k: v for k, v in _arguments(timeout_s).items() if k not in url.query},
        pool_pre_ping=True,
        pool_timeout=timeout_s,
        hide_parameters=True,
    )
    limits = [
        ("lock_timeout", timeout_s),
        ("statement_timeout", 2 * timeout_s),
        ("idle_in_transaction_session_timeout", max(_IDLE_S, 2 * timeout_s)),
    ]
    # For each transaction, not once a connection: a pooler in between may give every transaction another session.
    bounded = select(*(func.set_config(name, f"{max(1, round(s * 1000))}ms", True) for name, s in limits))

    def begin(connection: Connection) -> None:
        connection.execute(bounded)

    event.listen(engine, "begin", begin)
    event.listen(engine, "commit", _refuse_spoilt)
    event.listen(engine, "handle_error", failed)
    # After its lock on the stream a planner's statements must see what the planner before it has committed; a
    # snapshot from before the lock, as the stricter levels keep it, would show less.
    writing = engine.execution_options(isolation_level="READ COMMITTED")
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return Database(where, engine, reading, writing, _tables(), lambda: _creating(writing), one_host=False)


def _refuse_spoilt(connection: Connection) -> None:
    """Raise where a statement has failed and was passed over: the server would answer the commit by rolling back."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    if driver.info.transaction_status is psycopg.pq.TransactionStatus.INERROR:
        driver.rollback()
        raise RuntimeError("A statement of this transaction failed outside of a savepoint: it cannot be committed.")


@contextmanager
def _creating(writing: Engine) -> Iterator[Connection]:
    with writing.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_CREATION)))
        yield connection


def _arguments(timeout_s: float) -> dict[str, Any]:
    return {
        "fallback_application_name": "airflow-provider-eventlog",
        "client_encoding": "utf8",
        "connect_timeout": max(2, math.ceil(timeout_s)),  # libpq takes less than 2 s for 2 s
        # A server that vanished without a word is noticed by the network, within about half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": max(1000, round(timeout_s * 1000)),
        # Poolers in transaction mode do not know statements that were prepared in another session.
        "prepare_threshold": None,
    }


def _tables() -> MetaData:
    """The tables with text that sorts by code point: a database's own collation may be of any language."""
    made = MetaData()
    for table in schema.metadata.sorted_tables:
        for column in table.to_metadata(made).columns:
            if isinstance(column.type, String):
                column.type = type(column.type)(collation="C")
    return made


def _where(url: URL) -> str:
    hosts = url.host or url.query.get("host") or "the default host"
    host = hosts if isinstance(hosts, str) else ", ".join(hosts)
    port = f":{url.port}" if url.port else ""
    database = url.database or url.query.get("dbname") or url.username or "default"
    return f"in PostgreSQL database {str(database)!r} on {host}{port}"


def _failed(where: str, password: str, timeout_s: float) -> Callable[[ExceptionContext], EventLogError | None]:
    def failed(context: ExceptionContext) -> EventLogError | None:
        # A connection that was lost while it lay idle is replaced by a new one, and only that one's failure counts.
        if context.is_pre_ping:
            return None
        return stated(context.original_exception, where, password, timeout_s)

    return failed


def stated(error: BaseException, where: str, password: str, timeout_s: float) -> EventLogError | None:
    """What a driver's error means for the caller; None where it is no matter of the server or its locks."""
    if not isinstance(error, psycopg.Error):
        return None
    text = " ".join(str(error).split()).rstrip(".?")
    if password:
        text = text.replace(password, "***")
    state = error.sqlstate
    if state == _LOCKED:
        return LedgerUnavailableError(
            f"The ledger {where} stayed locked by another process for {timeout_s:g} s; nothing was changed. Try again; "
            f"if it stays so, pg_stat_activity shows which session holds the lock."
        )
    if state in _DAMAGED:
        return LedgerConfigError(f"The ledger {where} is damaged: {text}. Restore the database from a backup.")
    if _mistaken(error, text):
        return LedgerConfigError(
            f"The ledger {where} cannot be used: {text}. Check the URL or connection, that the database and the schema "
            f"exist, and that the user may log in, create tables in the schema and use them."
        )
    if _passing(error):
        return LedgerUnavailableError(
            f"The ledger {where} cannot be used now: {text}. Check that the server is up, is the primary, and has "
            f"room. What was not committed is undone; trying again is safe."
        )
    return None


def _mistaken(error: psycopg.Error, text: str) -> bool:
    """Whether the address or the rights are wrong, so that trying again cannot help."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.ProgrammingError) or _MISTAKEN_TEXT.search(text) is not None
    return error.sqlstate in _MISTAKEN or error.sqlstate[:2] in _MISTAKEN_CLASSES


def _passing(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate in _PASSING or error.sqlstate[:2] in _PASSING_CLASSES
