"""A rebuilt ledger held against what it was made from, before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, cast

from sqlalchemy import Connection, Engine

from airflow_provider_eventlog.core import landing
from airflow_provider_eventlog.core.auditing.derived import expected_commit
from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.ledger import chain, progress
from airflow_provider_eventlog.core.ledger.upkeep import SqlAudit
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity, between, subtract
from airflow_provider_eventlog.core.protocols import Staging
from airflow_provider_eventlog.core.rebuilding import reading
from airflow_provider_eventlog.core.staging import records


def manifest(connection: Connection, staging: Staging, path: str, batch_id: str, identity: TopicIdentity) -> None:
    """Raise AccountingError unless the ledger gives the manifest that stands under `path`."""
    plan, _ = chain.batches_by_id(connection, [batch_id])[batch_id]
    made = landing.manifest(plan, identity, progress.landed(connection, batch_id), chain.bounds(connection, batch_id))
    _same(path, made, staging.read_json(path))


def commits(connection: Connection, staging: Staging, stream: str, paths: Iterable[str]) -> None:
    """Raise AccountingError unless the ledger gives the commit records that stand under `paths`."""
    for path in paths:
        found = reading.committed(staging, path, stream)
        key = (found.pipeline, found.batch_id, found.number)
        generation = progress.find_generation(connection, *key)
        _same(path, expected_commit(generation, progress.parts(connection, *key)), staging.read_json(path))


def chains(connection: Connection, epochs: Iterable[tuple[str, int]], cancelled: Callable[[], None]) -> None:
    """Raise AccountingError where coverage overlaps, a cut runs backwards, or a batch is not between neighbours."""
    for stream, epoch in epochs:
        cancelled()
        # The audit opens a connection for each question; this transaction is not committed yet, and it must see it.
        audit = SqlAudit(cast("Engine", _Open(connection)), stream)
        for wanted, batch_id, before in audit.overlaps(epoch, 1):
            raise _broken(stream, epoch, f"{wanted.people} of batch {batch_id} overlap a batch that ends at {before}")
        for partition, instant, offset, before in audit.backward_cuts(epoch, 1):
            raise _broken(
                stream, epoch, f"in partition {partition} the cut at {instant} steps from {before} to {offset}"
            )
        for batch_id in audit.astray(epoch):
            raise _broken(stream, epoch, f"batch {batch_id} reaches over another one's cut")


def gaps(connection: Connection, stream: str, epoch: int) -> tuple[OffsetRange, ...]:
    """Offsets inside segments of chain batches that no batch has: off-chain batches had them, and were never landed.

    No later run takes them by itself, since they lie in no hole.
    """
    audit = SqlAudit(cast("Engine", _Open(connection)), stream)
    coverage = chain.coverage(connection, stream, epoch)
    holes = [r for low, high in audit.unplanned(epoch) for r in subtract(between(low, high), coverage)]
    return subtract(subtract(audit.extents(epoch), coverage), holes)


class _Open:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connect(self) -> Any:
        return nullcontext(self._connection)


def _broken(stream: str, epoch: int, what: str) -> AccountingError:
    return AccountingError(
        f"The manifests of stream {stream!r}, epoch {epoch}, contradict each other: {what}. They are of different "
        f"ledgers; restore the right ones from a copy. Nothing was made."
    )


def _same(path: str, made: Any, record: Any) -> None:
    if record is None or records.digest(made) != records.digest(record):
        differing = ", ".join(sorted(k for k in {*made, *(record or {})} if made.get(k) != (record or {}).get(k)))
        raise AccountingError(
            f"The rebuilt ledger does not give {path} back: it differs in {differing}. Nothing was made; a record of "
            f"another release needs that release, else this is a defect, report it."
        )
