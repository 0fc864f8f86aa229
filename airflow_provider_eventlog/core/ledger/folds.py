"""Folds: the numbered steps of an output's windows, over an open connection."""

from __future__ import annotations

import dataclasses

from sqlalchemy import Connection, func, select

from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.ledger import chain, rivals, rows
from airflow_provider_eventlog.core.ledger.schema import batch, cut, fold, fold_log
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord


def open_log(connection: Connection, log: FoldLog) -> FoldLog:
    """Open a log once; the one that stands under its number."""
    rivals.add(connection, fold_log, [dataclasses.asdict(log)])
    return next(one for one in logs(connection, log.pipeline, log.output) if one.log == log.log)


def logs(connection: Connection, pipeline: str, output: str) -> tuple[FoldLog, ...]:
    """An output's logs in order."""
    query = select(fold_log).where(fold_log.c.pipeline == pipeline, fold_log.c.output == output)
    return tuple(FoldLog(**row) for row in connection.execute(query.order_by(fold_log.c.log)).mappings())


def record(connection: Connection, made: FoldRecord) -> FoldRecord:
    """Record fold n once, if n is the next; the one that stands at n. Raises AccountingError, KeyError."""
    of_log = (fold.c.pipeline == made.pipeline, fold.c.output == made.output, fold.c.log == made.log)
    if all(one.log != made.log for one in logs(connection, made.pipeline, made.output)):
        raise KeyError((made.pipeline, made.output, made.log))
    newest: int = connection.execute(select(func.coalesce(func.max(fold.c.n), 0)).where(*of_log)).scalar_one()
    where = f"Fold {made.n} of output {made.output!r} of pipeline {made.pipeline!r}"
    if not 1 <= made.n <= newest + 1:
        raise AccountingError(f"{where} leaves a gap: the newest is {newest}.")
    if made.n == newest + 1:
        rivals.add(connection, fold, [rows.fold_row(made)])
    standing = connection.execute(select(fold).where(*of_log, fold.c.n == made.n)).mappings().one_or_none()
    if standing is None:
        raise AccountingError(f"{where} takes batch {made.batch_id}, which an earlier fold of the log has taken.")
    return rows.fold_of(standing)


def after(connection: Connection, pipeline: str, output: str, log: int, n: int) -> tuple[FoldRecord, ...]:
    """Folds of a log with a number above n, in order."""
    query = select(fold).where(fold.c.pipeline == pipeline, fold.c.output == output, fold.c.log == log, fold.c.n > n)
    return tuple(rows.fold_of(row) for row in connection.execute(query.order_by(fold.c.n)).mappings())


def last(connection: Connection, pipeline: str, output: str, log: int) -> FoldRecord | None:
    """The newest fold of a log."""
    query = select(fold).where(fold.c.pipeline == pipeline, fold.c.output == output, fold.c.log == log)
    row = connection.execute(query.order_by(fold.c.n.desc()).limit(1)).mappings().first()
    return None if row is None else rows.fold_of(row)


def about(connection: Connection, pipeline: str, output: str, log: int, batch_id: str) -> tuple[FoldRecord, ...]:
    """The folds of a log that a batch entered by, in order."""
    query = select(fold).where(
        fold.c.pipeline == pipeline, fold.c.output == output, fold.c.log == log, fold.c.about == batch_id
    )
    return tuple(rows.fold_of(row) for row in connection.execute(query.order_by(fold.c.n)).mappings())


def chain_from(connection: Connection, stream: str, epoch: int, instant: int, limit: int) -> tuple[BatchPlan, ...]:
    """The first chain batches that begin at an instant or later, in chain order."""
    here = (cut.c.stream == stream, cut.c.epoch == epoch, cut.c.instant >= instant)
    query = select(batch.c.batch_id).join(cut, batch.c.from_cut == cut.c.cut_id).where(*here)
    ids = connection.execute(query.order_by(cut.c.instant).limit(limit)).scalars().all()
    found = chain.batches_by_id(connection, ids)
    return tuple(found[batch_id][0] for batch_id in ids)


def newest_instant(connection: Connection, stream: str, epoch: int) -> int | None:
    """The instant of an epoch's newest cut."""
    query = select(func.max(cut.c.instant)).where(cut.c.stream == stream, cut.c.epoch == epoch)
    found: int | None = connection.execute(query).scalar_one()
    return found
