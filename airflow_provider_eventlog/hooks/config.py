"""What Airflow's configuration and connections say about ledger, staging and Kafka, as an opened engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.log import mask_secret

from airflow_provider_eventlog.core.errors import LedgerConfigError
from airflow_provider_eventlog.core.home import home
from airflow_provider_eventlog.core.naming import printable

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_eventlog.core.engine import Engine
    from airflow_provider_eventlog.core.ledger import SqlLedger
    from airflow_provider_eventlog.declare.stream import Stream

SECTION = "eventlog"
# Parameters of libpq that say how the server is reached and trusted; none runs or loads anything.
_POSTGRES_EXTRA = frozenset(
    {
        "application_name",
        "channel_binding",
        "connect_timeout",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "options",
        "require_auth",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
        "tcp_user_timeout",
    }
)


def staging_root() -> str | None:
    """`[eventlog] staging_root`, or None for the default below AIRFLOW_HOME."""
    return conf.get(SECTION, "staging_root", fallback="") or None


def ledger_url() -> str | None:
    """The ledger by `[eventlog] ledger_conn_id`: a file, or a URL with its password in it; None for the default.

    The password is registered with Airflow's masker as the URL spells it, too.
    Raises LedgerConfigError for a connection that is of another type, names nothing, or holds an extra that is not
    known to be safe.
    """
    conn_id = conf.get(SECTION, "ledger_conn_id", fallback="")
    if not conn_id:
        return None
    connection = BaseHook.get_connection(conn_id)
    where = f"[{SECTION}] ledger_conn_id={printable(conn_id)}"
    if connection.conn_type == "sqlite":
        path = connection.host or connection.schema
        if not path:
            raise LedgerConfigError(f"{where} is a connection of type 'sqlite' without the path of a file as its host.")
        return path
    if connection.conn_type not in ("postgres", "postgresql"):
        raise LedgerConfigError(
            f"{where} is a connection of type {printable(connection.conn_type)}; a ledger is kept in SQLite or "
            f"PostgreSQL. Use a connection of type 'sqlite' with the path of a file, one of type 'postgres', or leave "
            f"ledger_conn_id empty."
        )
    return _postgres_url(connection, where)


def _postgres_url(connection: Connection, where: str) -> str:
    # SQLAlchemy is loaded with the ledger only.
    from sqlalchemy import URL

    extra = connection.extra_dejson
    secrets = [str(value) for value in (connection.password, extra.get("sslpassword")) if value]
    for secret in secrets:
        for spelt in (secret, quote(secret, safe=" +"), quote_plus(secret)):
            mask_secret(spelt)
    unknown = sorted(set(extra) - _POSTGRES_EXTRA)
    if unknown:
        raise LedgerConfigError(
            f"{where} has {', '.join(map(printable, unknown))} in its extra, which a ledger's connection cannot have. "
            f"Known are {', '.join(sorted(_POSTGRES_EXTRA))}."
        )
    if not connection.schema:
        raise LedgerConfigError(f"{where} names no database; write it into the connection's field 'database'.")
    url = URL.create(
        "postgresql",
        username=connection.login or None,
        password=connection.password or None,
        host=connection.host or None,
        port=connection.port,
        database=connection.schema,
        query={key: str(value) for key, value in extra.items()},
    )
    return url.render_as_string(hide_password=False)


def open_stream_engine(
    stream: Stream,
    *,
    cancel: threading.Event | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Engine:
    """Open the engine of a stream as Airflow is configured; Kafka's connection is read only when Kafka is needed.

    Raises LedgerConfigError and what `core.engine.open_engine` raises.
    """
    from airflow_provider_eventlog.core.engine import no_progress, open_engine
    from airflow_provider_eventlog.hooks.eventlog import EventLogHook

    return open_engine(
        stream,
        client=EventLogHook(stream.kafka_conn_id).client_settings,
        home=home(),
        staging_root=staging_root(),
        ledger_url=ledger_url(),
        progress=progress or no_progress,
        cancel=cancel,
    )


def open_read_ledger() -> SqlLedger:
    """The ledger for looking only: one that does not exist yet stays so, and is empty."""
    from airflow_provider_eventlog.core.engine import open_ledger_at

    return open_ledger_at(home(), ledger_url(), keep=False)
