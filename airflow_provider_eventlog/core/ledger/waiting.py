"""Chain batches that a pipeline has not taken yet, and up to where there is none: the mark in table reached.

A chain of years is not searched again at every plan: the search begins at the mark and moves it to the first batch
that still waits. The mark is moved, lowered and removed only while the stream's row is locked.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, delete, exists, func, insert, literal, select, update

from airflow_provider_eventlog.core.ledger import chain, rows
from airflow_provider_eventlog.core.ledger.schema import batch, cut, generation, reached
from airflow_provider_eventlog.core.protocols import BatchState, Waiting
from airflow_provider_eventlog.core.values import COUNTED

_BEFORE_ALL = -(2**62)
_LOW = chain.LOW.c


def find(
    connection: Connection, stream: str, number: int, pipeline: str, limit: int | None, *, landed: bool
) -> Waiting:
    """The first `limit` waiting batches, or with `landed` those of them that are landed; moves the mark.

    Only inside a planning transaction of the stream.
    """
    mark = _mark(connection, stream, number, pipeline)
    first = connection.execute(_waiting(stream, number, pipeline, mark, _LOW.instant).limit(1)).scalar()
    newest = select(func.max(cut.c.instant)).where(cut.c.stream == stream, cut.c.epoch == number)
    upto = first if first is not None else connection.execute(newest).scalar()
    gone, first_gone = _gone(connection, stream, number, pipeline, mark)
    if upto is not None and upto > mark:
        _move(connection, stream, number, pipeline, upto)
    if first is None:
        return Waiting((), 0, gone, first_gone)
    query = _waiting(stream, number, pipeline, first)
    if landed:
        query = query.where(batch.c.state == BatchState.LANDED.value)
    some = query if limit is None else query.limit(limit)
    found = tuple(rows.batch_of(row) for row in connection.execute(some).mappings())
    more = 0
    if limit is not None and len(found) == limit:
        rest = query.with_only_columns(literal(1)).offset(limit).limit(COUNTED).subquery()
        more = connection.execute(select(func.count()).select_from(rest)).scalar_one()
    return Waiting(found, more, gone, first_gone)


def offsets(connection: Connection, stream: str, number: int, pipeline: str) -> int:
    """How many offsets the waiting batches have together; moves nothing."""
    mark = _mark(connection, stream, number, pipeline)
    length = func.coalesce(func.sum(batch.c.length), 0)
    query = _waiting(stream, number, pipeline, mark, length).order_by(None)
    return int(connection.execute(query).scalar_one())


def lower(connection: Connection, stream: str, number: int, instant: int) -> None:
    """A chain batch that begins at `instant` is new: it waits for every pipeline."""
    c = reached.c
    behind = (c.stream == stream, c.epoch == number, c.instant > instant)
    connection.execute(update(reached).where(*behind).values(instant=instant))


def forget(connection: Connection, stream: str) -> None:
    """Anything may wait again: the next plan of every pipeline searches from the start."""
    connection.execute(delete(reached).where(reached.c.stream == stream))


def _waiting(stream: str, number: int, pipeline: str, mark: int, *columns: Any) -> Select[*tuple[Any, ...]]:
    taken = exists().where(generation.c.pipeline == pipeline, generation.c.batch_id == batch.c.batch_id)
    query = (
        chain.chain_batches()
        .where(_LOW.stream == stream, _LOW.epoch == number, _LOW.instant >= mark, batch.c.gone.is_(None), ~taken)
        .order_by(_LOW.instant)
    )
    return query.with_only_columns(*columns) if columns else query


def _gone(connection: Connection, stream: str, number: int, pipeline: str, mark: int) -> tuple[int, str | None]:
    """How many batches from the mark on would wait if their raw files stood, and the first of them."""
    taken = exists().where(generation.c.pipeline == pipeline, generation.c.batch_id == batch.c.batch_id)
    here = (batch.c.stream == stream, batch.c.epoch == number)
    conditions = (*here, batch.c.gone.is_not(None), _LOW.instant >= mark, ~taken)
    query = chain.chain_batches().where(*conditions)
    count = connection.execute(query.with_only_columns(func.count())).scalar_one()
    if not count:
        return 0, None
    first = query.with_only_columns(batch.c.batch_id).order_by(_LOW.instant).limit(1)
    return count, connection.execute(first).scalar_one()


def _mark(connection: Connection, stream: str, number: int, pipeline: str) -> int:
    c = reached.c
    query = select(c.instant).where(c.stream == stream, c.epoch == number, c.pipeline == pipeline)
    found = connection.execute(query).scalar()
    return _BEFORE_ALL if found is None else found


def _move(connection: Connection, stream: str, number: int, pipeline: str, instant: int) -> None:
    c = reached.c
    here = (c.stream == stream, c.epoch == number, c.pipeline == pipeline)
    if not connection.execute(update(reached).where(*here).values(instant=instant)).rowcount:
        made = {"stream": stream, "epoch": number, "pipeline": pipeline, "instant": instant}
        connection.execute(insert(reached).values(**made))
