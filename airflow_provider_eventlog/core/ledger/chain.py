"""Reading the chain: epochs, cuts, batches and coverage of a stream, over an open connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, case, func, literal_column, select

from airflow_provider_eventlog.core.ledger import rows
from airflow_provider_eventlog.core.ledger.schema import batch, cut, cut_offset, epoch, slices
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, merged
from airflow_provider_eventlog.core.protocols import BatchState, EpochRecord

LOW = cut.alias("from_cut")
HIGH = cut.alias("to_cut")
_COLUMNS = (
    *batch.c["batch_id", "stream", "epoch", "kind", "plan", "state"],
    LOW.c.instant.label("from_instant"),
    HIGH.c.instant.label("to_instant"),
)


def epochs(connection: Connection, stream: str) -> tuple[EpochRecord, ...]:
    """Epochs of a stream in order."""
    found = connection.execute(select(epoch).where(epoch.c.stream == stream).order_by(epoch.c.epoch))
    return tuple(rows.epoch_of(row) for row in found.mappings())


def cuts(connection: Connection, stream: str, number: int) -> tuple[Cut, ...]:
    """Cuts of an epoch by instant."""
    query = (
        select(cut.c.instant, cut.c.kind, cut_offset.c.partition, cut_offset.c.offset, cut_offset.c.found_by)
        .outerjoin_from(cut, cut_offset, cut_offset.c.cut_id == cut.c.cut_id)
        .where(cut.c.stream == stream, cut.c.epoch == number)
        .order_by(cut.c.instant, cut_offset.c.partition)
    )
    return cuts_of(connection, query)


def neighbours(connection: Connection, stream: str, number: int, instant: int) -> tuple[Cut | None, Cut | None]:
    """The nearest cuts at or before `instant`, and after it."""
    here = (cut.c.stream == stream, cut.c.epoch == number)
    before = select(func.max(cut.c.instant)).where(*here, cut.c.instant <= instant).scalar_subquery()
    after = select(func.min(cut.c.instant)).where(*here, cut.c.instant > instant).scalar_subquery()
    found = []
    for nearest in (before, after):
        query = (
            select(cut.c.instant, cut.c.kind, cut_offset.c.partition, cut_offset.c.offset, cut_offset.c.found_by)
            .outerjoin_from(cut, cut_offset, cut_offset.c.cut_id == cut.c.cut_id)
            .where(*here, cut.c.instant == nearest)
            .order_by(cut_offset.c.partition)
        )
        found.append(next(iter(cuts_of(connection, query)), None))
    return found[0], found[1]


def bounds(connection: Connection, batch_id: str) -> tuple[Cut | None, Cut | None]:
    """The cuts at both ends of a chain batch, (None, None) for an off-chain batch; raises KeyError."""
    ends = connection.execute(
        select(batch.c.from_cut, batch.c.to_cut).where(batch.c.batch_id == batch_id)
    ).one_or_none()
    if ends is None:
        raise KeyError(batch_id)
    found = [next(iter(cuts_of(connection, _one_cut(end))), None) for end in ends]
    return found[0], found[1]


def _one_cut(number: int | None) -> Select[int, str, int, int, str]:
    return (
        select(cut.c.instant, cut.c.kind, cut_offset.c.partition, cut_offset.c.offset, cut_offset.c.found_by)
        .outerjoin_from(cut, cut_offset, cut_offset.c.cut_id == cut.c.cut_id)
        .where(cut.c.cut_id == number)
        .order_by(cut_offset.c.partition)
    )


def cuts_of(connection: Connection, query: Select[int, str, int, int, str]) -> tuple[Cut, ...]:
    """Cuts from rows (instant, kind, partition, offset, found_by), by instant."""
    made: list[Cut] = []
    for instant, kind, partition, offset, found_by in connection.execute(query):
        if not made or made[-1].instant != instant:
            offsets: dict[int, int] = {}
            found: dict[int, str] = {}
            made.append(Cut(instant, kind, offsets, found))
        # An outer join gives a cut without offsets one row of nulls.
        if partition is not None:
            offsets[partition] = offset
            found[partition] = found_by
    return tuple(made)


def cut_id(connection: Connection, stream: str, number: int, instant: int) -> int | None:
    """The id of the cut at exactly `instant`."""
    query = select(cut.c.cut_id).where(cut.c.stream == stream, cut.c.epoch == number, cut.c.instant == instant)
    return connection.execute(query).scalar()


def batches(connection: Connection, stream: str, number: int | None = None) -> tuple[tuple[BatchPlan, BatchState], ...]:
    """Batches of a stream: chain batches in chain order, then off-chain ones by id."""
    query = _batches().where(batch.c.stream == stream)
    if number is not None:
        query = query.where(batch.c.epoch == number)
    off_chain = case((batch.c.from_cut.is_(None), 1), else_=0)
    query = query.order_by(off_chain, batch.c.epoch, LOW.c.instant, batch.c.batch_id)
    return tuple((rows.batch_of(row), BatchState(row["state"])) for row in connection.execute(query).mappings())


def batches_by_id(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[BatchPlan, BatchState]]:
    """Those of the batches that exist."""
    found = connection.execute(_batches().where(batch.c.batch_id.in_(ids))).mappings()
    return {row["batch_id"]: (rows.batch_of(row), BatchState(row["state"])) for row in found}


def chain_batches() -> Select[*tuple[Any, ...]]:
    """Chain batches as `rows.batch_of` reads them, found by the cut that they begin at."""
    return (
        select(*_COLUMNS)
        .join_from(LOW, batch, batch.c.from_cut == LOW.c.cut_id)
        .join(HIGH, HIGH.c.cut_id == batch.c.to_cut)
    )


def _batches() -> Select[*tuple[Any, ...]]:
    return (
        select(*_COLUMNS)
        .outerjoin_from(batch, LOW, LOW.c.cut_id == batch.c.from_cut)
        .outerjoin(HIGH, HIGH.c.cut_id == batch.c.to_cut)
    )


def coverage(
    connection: Connection,
    stream: str,
    number: int,
    partitions: Sequence[int] | None = None,
    *,
    landed: bool = False,
) -> tuple[OffsetRange, ...]:
    """Planned ranges of an epoch, or only what of them is landed; sorted, merged where they touch.

    Slices never overlap, so a run of touching ones begins where the slice before ends elsewhere; the database
    merges them, since a long chain has far more slices than runs.
    """
    piece, first = slices.c.partition, slices.c.start
    touches = func.lag(slices.c.end).over(partition_by=piece, order_by=first) == first
    marked = select(piece, first, slices.c.end, case((touches, 0), else_=1).label("begins")).where(
        slices.c.stream == stream, slices.c.epoch == number
    )
    if partitions is not None:
        marked = marked.where(piece.in_(list(partitions)))
    if landed:
        marked = marked.where(slices.c.digest.is_not(None))
    one = marked.subquery("marked")
    run = func.sum(one.c.begins).over(partition_by=one.c.partition, order_by=one.c.start).label("run")
    two = select(one.c.partition, one.c.start, one.c.end, run).subquery("numbered")
    least = func.min(two.c.start)
    joined = select(two.c.partition, least, func.max(two.c.end)).group_by(two.c.partition, two.c.run)
    return rows.ranges_of(connection.execute(joined.order_by(two.c.partition, least)))


def losses(connection: Connection, stream: str, number: int) -> tuple[OffsetRange, ...]:
    """Offsets of an epoch that were landed as lost, sorted, merged where they touch."""
    # A parameter in place of the 0 would hide from the database that an index has these rows.
    some = slices.c.lost > literal_column("0")
    query = select(slices.c.losses).where(slices.c.stream == stream, slices.c.epoch == number, some)
    return merged(r for text in connection.execute(query).scalars() for r in rows.ranges_of(json.loads(text)))


def landed_bytes(connection: Connection, stream: str, number: int) -> float | None:
    """Mean payload bytes per offset of the landed slices; None before the first."""
    query = select(func.sum(slices.c.payload_bytes), func.sum(slices.c.end - slices.c.start)).where(
        slices.c.stream == stream, slices.c.epoch == number, slices.c.digest.is_not(None)
    )
    total, offsets = connection.execute(query).one()
    return None if not offsets else float(total) / float(offsets)
