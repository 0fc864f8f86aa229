"""Decisions: kept once, read in the order in which they were taken, over an open connection.

Decisions of retention about raw files are kept at the batches too, where plans look, under the lock of the stream.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, update

from airflow_provider_eventlog.core import retention
from airflow_provider_eventlog.core.ledger import rivals, rows, waiting
from airflow_provider_eventlog.core.ledger.schema import batch, decision
from airflow_provider_eventlog.core.ledger.schema import stream as streams
from airflow_provider_eventlog.core.protocols import Decision


def keep(connection: Connection, made: Decision) -> None:
    """Keep a decision; the same one again is nothing new."""
    about = raw_batches(made)
    if about:
        # A planner that looked before this is kept must not move its mark behind it.
        here = update(streams).where(streams.c.name == made.stream)
        connection.execute(here.values(revision=streams.c.revision + 1))
    if not rivals.add(connection, decision, [rows.decision_row(made)]) or not about:
        return
    mark(connection, about, made.id if made.kind == retention.EXPIRED else None)
    if made.kind == retention.RESTORED:
        waiting.forget(connection, made.stream)


def raw_batches(made: Decision) -> tuple[str, ...]:
    """The batches whose raw files a decision lets go or gives back."""
    if made.kind not in (retention.EXPIRED, retention.RESTORED) or made.payload.get("what") != retention.RAW:
        return ()
    return tuple(made.payload["batches"])


def mark(connection: Connection, batch_ids: Iterable[str], gone: str | None) -> None:
    """Say at batches which decision let their raw files go, or that they stand."""
    for some in rows.portions(batch_ids):
        connection.execute(update(batch).where(batch.c.batch_id.in_(some)).values(gone=gone))


def find(connection: Connection, stream: str, kind: str | None, batch_id: str | None = None) -> tuple[Decision, ...]:
    """Decisions about a stream, of a kind or all, about a batch or any, by time and id."""
    query = select(decision).where(decision.c.stream == stream)
    if kind is not None:
        query = query.where(decision.c.kind == kind)
    if batch_id is not None:
        query = query.where(decision.c.batch_id == batch_id)
    found = connection.execute(query.order_by(decision.c.at, decision.c.id))
    return tuple(rows.decision_of(row) for row in found.mappings())


def unwritten(connection: Connection, stream: str) -> tuple[Decision, ...]:
    """Decisions about a stream of which nobody has said that their records stand, by time and id."""
    query = select(decision).where(decision.c.stream == stream, decision.c.written.is_(None))
    found = connection.execute(query.order_by(decision.c.at, decision.c.id))
    return tuple(rows.decision_of(row) for row in found.mappings())


def written(connection: Connection, ids: Iterable[str]) -> None:
    """Note that the records of decisions stand in staging."""
    for some in rows.portions(ids):
        connection.execute(update(decision).where(decision.c.id.in_(some)).values(written=1))
