"""Questions about a part of the chain: each finds its rows by an index, however long the rest is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy import BigInteger, Connection, ScalarSelect, column, exists, func, select, values

from airflow_provider_eventlog.core.ledger import chain, rows
from airflow_provider_eventlog.core.ledger.schema import batch, cut, cut_offset, decision, generation, slices
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, between, merged, subtract
from airflow_provider_eventlog.core.protocols import BatchState, Decision, GenerationState


def first_instant(connection: Connection, stream: str, number: int) -> int | None:
    """The instant of the epoch's first cut."""
    query = select(func.min(cut.c.instant)).where(cut.c.stream == stream, cut.c.epoch == number)
    return connection.execute(query).scalar()


def newest_cut(connection: Connection, stream: str, number: int) -> Cut | None:
    """The epoch's newest cut."""
    newest = select(func.max(cut.c.instant)).where(cut.c.stream == stream, cut.c.epoch == number).scalar_subquery()
    return next(iter(_cuts(connection, stream, number, newest, newest)), None)


def cuts(connection: Connection, stream: str, number: int, low: int, high: int) -> tuple[Cut, ...]:
    """Cuts from one instant to another, both included, in order."""
    return _cuts(connection, stream, number, low, high)


def _cuts(
    connection: Connection, stream: str, number: int, low: int | ScalarSelect[int], high: int | ScalarSelect[int]
) -> tuple[Cut, ...]:
    query = (
        select(cut.c.instant, cut.c.kind, cut_offset.c.partition, cut_offset.c.offset, cut_offset.c.found_by)
        .outerjoin_from(cut, cut_offset, cut_offset.c.cut_id == cut.c.cut_id)
        .where(cut.c.stream == stream, cut.c.epoch == number, cut.c.instant >= low, cut.c.instant <= high)
        .order_by(cut.c.instant, cut_offset.c.partition)
    )
    return chain.cuts_of(connection, query)


def segments(connection: Connection, stream: str, number: int, start: int, end: int) -> tuple[BatchPlan, ...]:
    """Chain batches of which a part lies between two instants, in order; for equal ones the batch around them."""
    low, high = chain.LOW, chain.HIGH
    at_or_before = select(func.max(cut.c.instant)).where(
        cut.c.stream == stream, cut.c.epoch == number, cut.c.instant <= start
    )
    query = (
        chain.chain_batches()
        .where(
            low.c.stream == stream,
            low.c.epoch == number,
            low.c.instant >= func.coalesce(at_or_before.scalar_subquery(), start),
            low.c.instant < end,
            high.c.instant > start,
        )
        .order_by(low.c.instant)
    )
    return tuple(rows.batch_of(row) for row in connection.execute(query).mappings())


def batches(connection: Connection, ids: Iterable[str]) -> dict[str, BatchPlan]:
    """Those of the batches that exist."""
    found: dict[str, BatchPlan] = {}
    for some in rows.portions(ids):
        found |= {key: plan for key, (plan, _) in chain.batches_by_id(connection, some).items()}
    return found


def landed(connection: Connection, ids: Iterable[str]) -> frozenset[str]:
    """Those of the batches that are landed."""
    found: set[str] = set()
    for some in rows.portions(ids):
        query = select(batch.c.batch_id).where(batch.c.batch_id.in_(some), batch.c.state == BatchState.LANDED.value)
        found.update(connection.execute(query).scalars())
    return frozenset(found)


def gone(connection: Connection, ids: Iterable[str]) -> dict[str, Decision]:
    """Those of the batches whose raw files retention has let go, each with the decision that did."""
    found: dict[str, Decision] = {}
    for some in rows.portions(ids):
        query = select(batch.c.batch_id, batch.c.gone).where(batch.c.batch_id.in_(some), batch.c.gone.is_not(None))
        by_batch = {batch_id: key for batch_id, key in connection.execute(query)}  # noqa: C416
        chosen = connection.execute(select(decision).where(decision.c.id.in_(sorted(set(by_batch.values())))))
        decisions = {row["id"]: rows.decision_of(row) for row in chosen.mappings()}
        found |= {batch_id: decisions[key] for batch_id, key in by_batch.items()}
    return found


def owners(connection: Connection, stream: str, number: int, wanted: Iterable[OffsetRange]) -> tuple[BatchPlan, ...]:
    """Batches that hold any of the wanted offsets: chain batches in chain order, then off-chain ones by id."""
    ids = {batch_id for _, batch_id in _holding(connection, stream, number, wanted)}
    found = batches(connection, sorted(ids)).values()
    return tuple(sorted(found, key=lambda b: (b.from_instant is None, b.from_instant or 0, b.batch_id)))


def covered(connection: Connection, stream: str, number: int, wanted: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """Planned slices that have any of the wanted offsets, merged where they touch."""
    return merged(r for r, _ in _holding(connection, stream, number, wanted))


def _holding(
    connection: Connection, stream: str, number: int, wanted: Iterable[OffsetRange]
) -> Iterator[tuple[OffsetRange, str]]:
    c = slices.c
    for one in overlapped(connection, stream, number, wanted):
        here = (c.stream == stream, c.epoch == number, c.partition == one.partition)
        # Slices never overlap: none that begins before the last one that begins at or before `start` reaches it.
        at_or_before = select(func.max(c.start)).where(*here, c.start <= one.start).scalar_subquery()
        query = select(c.start, c.end, c.batch_id).where(
            *here, c.start >= func.coalesce(at_or_before, one.start), c.start < one.end, c.end > one.start
        )
        for start, end, batch_id in connection.execute(query.order_by(c.start)):
            yield OffsetRange(one.partition, start, end), batch_id


def overlapped(
    connection: Connection, stream: str, number: int, wanted: Iterable[OffsetRange]
) -> tuple[OffsetRange, ...]:
    """Those of the wanted ranges of which an offset is planned; few statements."""
    found: list[OffsetRange] = []
    c = slices.c
    names = (column(name, BigInteger) for name in ("partition", "start", "end"))
    given = values(*names, name="asked")
    for some in rows.portions(r for r in wanted if len(r)):
        asked = given.data([(r.partition, r.start, r.end) for r in some]).cte()
        # If any slice overlaps the range, the last one that begins before its end does.
        last = (
            select(c.end)
            .where(c.stream == stream, c.epoch == number, c.partition == asked.c.partition, c.start < asked.c.end)
            .order_by(c.start.desc())
            .limit(1)
            .scalar_subquery()
        )
        for partition, start, end, reached in connection.execute(
            select(asked.c["partition"], asked.c["start"], asked.c["end"], last)
        ):
            if reached is not None and reached > start:
                found.append(OffsetRange(partition, start, end))
    return tuple(found)


def last_before(connection: Connection, stream: str, number: int, wanted: OffsetRange) -> OffsetRange | None:
    """The last planned slice that begins before the end of `wanted`."""
    c = slices.c
    query = (
        select(c.partition, c.start, c.end)
        .where(c.stream == stream, c.epoch == number, c.partition == wanted.partition, c.start < wanted.end)
        .order_by(c.start.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else OffsetRange(*row)


def unlanded(connection: Connection, stream: str, number: int, ends: Mapping[int, int]) -> tuple[OffsetRange, ...]:
    """What lies between the epoch's first cut and the ends of its log and is not landed, sorted and merged.

    A partition that no cut knows is wanted from offset 0. Without a cut it is what is planned and not landed.
    """
    c = slices.c
    query = select(c.partition, c.start, c.end).where(c.stream == stream, c.epoch == number, c.digest.is_(None))
    planned = rows.ranges_of(connection.execute(query))
    first = first_instant(connection, stream, number)
    if first is None:
        return merged(planned)
    (origin,) = cuts(connection, stream, number, first, first)
    bounds = [OffsetRange(p, min(origin.offsets.get(p, 0), end), end) for p, end in sorted(ends.items())]
    wanted: list[OffsetRange] = []
    for low, high in _open(connection, stream, number):
        if high is not None:
            wanted += between(low, high)
        else:
            tail = ((p, low.offsets.get(p, 0), end) for p, end in sorted(ends.items()))
            wanted += [OffsetRange(p, start, end) for p, start, end in tail if start < end]
    free = subtract(wanted, covered(connection, stream, number, wanted))
    missing = merged((*planned, *free))
    return subtract(bounds, subtract(bounds, missing))


def holes(connection: Connection, stream: str, number: int) -> tuple[tuple[Cut, Cut, tuple[OffsetRange, ...]], ...]:
    """Segments that no chain batch has taken, in order, each with its offsets that no off-chain batch has either."""
    found = []
    for low, high in _open(connection, stream, number):
        if high is not None:
            wanted = between(low, high)
            found.append((low, high, subtract(wanted, covered(connection, stream, number, wanted))))
    return tuple(found)


def _open(connection: Connection, stream: str, number: int) -> Iterator[tuple[Cut, Cut | None]]:
    """Cuts at which no chain batch begins, each with the next cut: holes, and at the end the newest cut."""
    query = select(cut.c.instant).where(cut.c.stream == stream, cut.c.epoch == number, cut.c.begins.is_(None))
    for instant in connection.execute(query.order_by(cut.c.instant)).scalars().all():
        low, high = chain.neighbours(connection, stream, number, instant)
        assert low is not None
        yield low, high


def totals(connection: Connection, stream: str, number: int | None) -> tuple[int, int]:
    """How many batches an epoch, or the whole stream, has, and how many offsets they have together."""
    query = select(func.count(), func.coalesce(func.sum(batch.c.length), 0)).where(batch.c.stream == stream)
    if number is not None:
        query = query.where(batch.c.epoch == number)
    count, length = connection.execute(query).one()
    return count, int(length)


def standing(connection: Connection, stream: str, pipeline: str) -> dict[GenerationState, int]:
    """How many of a stream's batches have a newest generation of the pipeline in each state."""
    newer = generation.alias("newer")
    of_batch = (newer.c.pipeline == pipeline, newer.c.batch_id == generation.c.batch_id)
    query = (
        select(generation.c.state, func.count())
        .join_from(generation, batch, batch.c.batch_id == generation.c.batch_id)
        .where(generation.c.pipeline == pipeline, batch.c.stream == stream)
        .where(~exists().where(*of_batch, newer.c.gen > generation.c.gen))
        .group_by(generation.c.state)
    )
    return {GenerationState(state): count for state, count in connection.execute(query)}
