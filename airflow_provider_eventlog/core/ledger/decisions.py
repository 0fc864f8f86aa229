"""Decisions: kept once, read in the order in which they were taken, over an open connection."""

from __future__ import annotations

from sqlalchemy import Connection, select

from airflow_provider_eventlog.core.ledger import rivals, rows
from airflow_provider_eventlog.core.ledger.schema import decision
from airflow_provider_eventlog.core.protocols import Decision


def keep(connection: Connection, made: Decision) -> None:
    """Keep a decision; the same one again is nothing new."""
    rivals.add(connection, decision, [rows.decision_row(made)])


def find(connection: Connection, stream: str, kind: str | None) -> tuple[Decision, ...]:
    """Decisions about a stream, by time and id."""
    query = select(decision).where(decision.c.stream == stream)
    if kind is not None:
        query = query.where(decision.c.kind == kind)
    found = connection.execute(query.order_by(decision.c.at, decision.c.id))
    return tuple(rows.decision_of(row) for row in found.mappings())
