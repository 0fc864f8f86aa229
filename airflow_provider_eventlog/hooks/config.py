"""What Airflow's configuration and connections say about ledger, staging and Kafka, as an opened engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf

from airflow_provider_eventlog.core.errors import LedgerConfigError
from airflow_provider_eventlog.core.home import home
from airflow_provider_eventlog.core.naming import printable

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.engine import Engine
    from airflow_provider_eventlog.core.ledger import SqlLedger
    from airflow_provider_eventlog.declare.stream import Stream

SECTION = "eventlog"


def staging_root() -> str | None:
    """`[eventlog] staging_root`, or None for the default below AIRFLOW_HOME."""
    return conf.get(SECTION, "staging_root", fallback="") or None


def ledger_url() -> str | None:
    """The ledger's file by `[eventlog] ledger_conn_id`, or None for the default below AIRFLOW_HOME.

    Raises LedgerConfigError for a connection that is not SQLite or names no file.
    """
    conn_id = conf.get(SECTION, "ledger_conn_id", fallback="")
    if not conn_id:
        return None
    connection = BaseHook.get_connection(conn_id)
    path = connection.host or connection.schema
    if connection.conn_type != "sqlite" or not path:
        raise LedgerConfigError(
            f"[{SECTION}] ledger_conn_id={printable(conn_id)} is a connection of type "
            f"{printable(connection.conn_type)}; this release keeps its ledger in SQLite only. Use a connection of "
            f"type 'sqlite' with the path of a file, or leave ledger_conn_id empty."
        )
    return path


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
