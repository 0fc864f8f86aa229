"""Reading a stream of the ledger in bulk, for those who compare it with files and tables; and one correction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select, update
from sqlalchemy.sql import ColumnElement

from airflow_provider_eventlog.core.errors import ContentMismatchError
from airflow_provider_eventlog.core.holdings import HeldBatch, HeldGenerations
from airflow_provider_eventlog.core.ledger import chain, progress, rows
from airflow_provider_eventlog.core.ledger.schema import batch, cut, cut_offset, generation, part, recipe, slices
from airflow_provider_eventlog.core.ledger.schema import pipeline as pipelines
from airflow_provider_eventlog.core.offsets import Cut, OffsetRange
from airflow_provider_eventlog.core.protocols import GenerationRecord, GenerationState, PartRecord, SliceRecord

# Batches a page: their slices and parts are in memory together.
_PAGE = 100


class SqlAudit:
    """`core.holdings.LedgerAudit` over the `reading` engine of a database."""

    def __init__(self, engine: Engine, stream: str) -> None:
        self._engine, self._stream = engine, stream

    def overlaps(self, epoch: int, limit: int = 100) -> tuple[tuple[OffsetRange, str, int], ...]:
        """Slices (range, batch) that begin in front of the end (the number) of one before them."""
        c = slices.c
        ends = func.max(c.end).over(partition_by=c.partition, order_by=c.start, rows=(None, -1)).label("before")
        seen = select(c.partition, c.start, c.end, c.batch_id, ends).where(*self._in(slices, epoch)).subquery()
        query = select(seen).where(seen.c.before > seen.c.start).order_by(seen.c.partition, seen.c.start)
        with self._engine.connect() as connection:
            found = connection.execute(query.limit(limit)).all()
        return tuple((OffsetRange(p, start, end), batch_id, before) for p, start, end, batch_id, before in found)

    def backward_cuts(self, epoch: int, limit: int = 100) -> tuple[tuple[int, int, int, int], ...]:
        """(partition, instant, offset, offset of the cut before) where a cut runs backwards."""
        partition, offset = cut_offset.c.partition, cut_offset.c.offset
        earlier = func.lag(offset).over(partition_by=partition, order_by=cut.c.instant).label("earlier")
        seen = (
            select(partition, cut.c.instant, offset, earlier)
            .join_from(cut, cut_offset, cut_offset.c.cut_id == cut.c.cut_id)
            .where(*self._in(cut, epoch))
            .subquery()
        )
        query = select(seen).where(seen.c.earlier > seen.c.offset).order_by(seen.c.partition, seen.c.instant)
        with self._engine.connect() as connection:
            return tuple((p, at, here, before) for p, at, here, before in connection.execute(query.limit(limit)))

    def extents(self, epoch: int) -> tuple[OffsetRange, ...]:
        """Per partition what lies between the first cut and the last; a later partition from offset 0 on."""
        of_cut = cut_offset.c.cut_id == cut.c.cut_id
        first = select(func.min(cut.c.instant)).where(*self._in(cut, epoch)).scalar_subquery()
        low = (
            select(cut_offset.c.partition, cut_offset.c.offset)
            .join_from(cut, cut_offset, of_cut)
            .where(*self._in(cut, epoch), cut.c.instant == first)
        )
        high = (
            select(cut_offset.c.partition, func.max(cut_offset.c.offset))
            .join_from(cut, cut_offset, of_cut)
            .where(*self._in(cut, epoch))
            .group_by(cut_offset.c.partition)
            .order_by(cut_offset.c.partition)
        )
        with self._engine.connect() as connection:
            starts: dict[int, int] = {p: offset for p, offset in connection.execute(low)}  # noqa: C416
            return tuple(OffsetRange(p, min(starts.get(p, 0), end), end) for p, end in connection.execute(high))

    def unplanned(self, epoch: int) -> tuple[tuple[Cut, Cut], ...]:
        """Segments between neighbouring cuts that no chain batch has."""
        with self._engine.connect() as connection:
            found: list[tuple[Cut, Cut]] = []
            for instant, batch_id in self._broken(connection, epoch):
                low, high = chain.neighbours(connection, self._stream, epoch, instant)
                if batch_id is None and low is not None and high is not None:
                    found.append((low, high))
            return tuple(found)

    def astray(self, epoch: int) -> tuple[str, ...]:
        """Chain batches whose two cuts are not neighbours."""
        with self._engine.connect() as connection:
            return tuple(batch_id for _, batch_id in self._broken(connection, epoch) if batch_id is not None)

    def _broken(self, connection: Connection, epoch: int) -> list[tuple[int, str | None]]:
        """Cuts (by instant) that begin no chain batch which ends at the next cut, with the batch they do begin."""
        following = func.lead(cut.c.cut_id).over(order_by=cut.c.instant).label("following")
        seen = select(cut.c.cut_id, cut.c.instant, following).where(*self._in(cut, epoch)).subquery()
        query = (
            select(seen.c.instant, batch.c.batch_id)
            .outerjoin_from(seen, batch, batch.c.from_cut == seen.c.cut_id)
            .where(
                (batch.c.batch_id.is_(None) & seen.c.following.is_not(None))
                | (batch.c.batch_id.is_not(None) & batch.c.to_cut.is_distinct_from(seen.c.following))
            )
            .order_by(seen.c.instant)
        )
        return [(instant, batch_id) for instant, batch_id in connection.execute(query)]

    def planned(self, epoch: int, partition: int) -> Mapping[OffsetRange, str]:
        """The planned slices of a partition with their batches."""
        c = slices.c
        query = select(c.start, c.end, c.batch_id).where(*self._in(slices, epoch), c.partition == partition)
        with self._engine.connect() as connection:
            found = connection.execute(query)
            return {OffsetRange(partition, start, end): batch_id for start, end, batch_id in found}

    def batches(self, epoch: int) -> Iterator[HeldBatch]:
        """All batches, by id."""
        query = select(batch.c.batch_id).where(*self._in(batch, epoch))
        for ids in self._pages(query, batch.c.batch_id):
            with self._engine.connect() as connection:
                held = _held(connection, ids)
            yield from held.values()

    def generations(self, pipeline: str) -> Iterator[HeldGenerations]:
        """All batches of the stream that a pipeline has taken, by id."""
        query = select(generation.c.batch_id).distinct().where(generation.c.pipeline == pipeline)
        for ids in self._pages(query, generation.c.batch_id):
            with self._engine.connect() as connection:
                held = _held(connection, ids)
                found = _generations(connection, pipeline, ids)
                parts = _parts(connection, pipeline, ids)
            for batch_id, one in held.items():
                if one.plan.stream == self._stream:
                    made = found[batch_id]
                    yield HeldGenerations(one, tuple((g, parts.get((batch_id, g.generation), ())) for g in made))

    def pipelines(self) -> tuple[str, ...]:
        """Pipelines that are registered over the stream, or have taken one of its batches; by name."""
        registered = select(pipelines.c.name).where(pipelines.c.stream == self._stream)
        anywhere = select(generation.c.pipeline).distinct()
        of_batch = batch.c.batch_id == generation.c.batch_id
        here = select(generation.c.gen).join_from(generation, batch, of_batch).where(batch.c.stream == self._stream)
        with self._engine.connect() as connection:
            found = set(connection.execute(registered).scalars())
            for name in connection.execute(anywhere).scalars().all():
                taken = here.where(generation.c.pipeline == name).limit(1)
                if name not in found and connection.execute(taken).first() is not None:
                    found.add(name)
        return tuple(sorted(found))

    def manifest_digest(self, batch_id: str) -> str | None:
        """The digest of the manifest that a batch was sealed with."""
        with self._engine.connect() as connection:
            return connection.execute(select(batch.c.manifest_digest).where(batch.c.batch_id == batch_id)).scalar()

    def standings(self, pipeline: str) -> Mapping[str, tuple[int, GenerationState]]:
        """Number and state of the newest generation of each batch that a pipeline has taken."""
        c = generation.c
        query = select(c.batch_id, c.gen, c.state).where(c.pipeline == pipeline).order_by(c.batch_id, c.gen)
        with self._engine.connect() as connection:
            return {batch_id: (gen, GenerationState(state)) for batch_id, gen, state in connection.execute(query)}

    def declarations(self, pipeline: str) -> Mapping[str, str]:
        """The declaration of a pipeline under each of its recipes."""
        query = select(recipe.c.recipe, recipe.c.declaration).where(recipe.c.pipeline == pipeline)
        with self._engine.connect() as connection:
            return {key: text for key, text in connection.execute(query)}  # noqa: C416

    def raw_bytes(self) -> int:
        """Bytes of all raw files as recorded."""
        query = select(func.coalesce(func.sum(slices.c.file_bytes), 0)).where(slices.c.stream == self._stream)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def part_bytes(self, pipeline: str) -> int:
        """Bytes of all parts of a pipeline as recorded."""
        query = select(func.coalesce(func.sum(part.c.file_bytes), 0)).where(part.c.pipeline == pipeline)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def _in(self, table: Table, epoch: int) -> tuple[ColumnElement[bool], ...]:
        return table.c.stream == self._stream, table.c.epoch == epoch

    def _pages(self, query: Any, key: Any) -> Iterator[list[str]]:
        last = ""
        while True:
            with self._engine.connect() as connection:
                ids = list(connection.execute(query.where(key > last).order_by(key).limit(_PAGE)).scalars())
            if not ids:
                return
            yield ids
            last = ids[-1]


def _held(connection: Connection, ids: Sequence[str]) -> dict[str, HeldBatch]:
    plans = chain.batches_by_id(connection, ids)
    sealed = select(batch.c.batch_id, batch.c.manifest_digest).where(batch.c.batch_id.in_(ids))
    digests: dict[str, str | None] = {key: digest for key, digest in connection.execute(sealed)}  # noqa: C416
    planned: dict[str, list[OffsetRange]] = {}
    landed: dict[str, list[SliceRecord]] = {}
    query = select(slices).where(slices.c.batch_id.in_(ids))
    for row in connection.execute(query.order_by(slices.c.partition, slices.c.start)).mappings():
        planned.setdefault(row["batch_id"], []).append(OffsetRange(row["partition"], row["start"], row["end"]))
        if row["digest"] is not None:
            landed.setdefault(row["batch_id"], []).append(rows.slice_of(row))
    return {
        batch_id: HeldBatch(
            *plans[batch_id], digests[batch_id], tuple(planned.get(batch_id, ())), tuple(landed.get(batch_id, ()))
        )
        for batch_id in ids
        if batch_id in plans
    }


def _generations(connection: Connection, pipeline: str, ids: Sequence[str]) -> dict[str, list[GenerationRecord]]:
    c = generation.c
    query = select(generation).where(c.pipeline == pipeline, c.batch_id.in_(ids)).order_by(c.batch_id, c.gen)
    found: dict[str, list[GenerationRecord]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["batch_id"], []).append(rows.generation_of(row))
    return found


def _parts(connection: Connection, pipeline: str, ids: Sequence[str]) -> dict[tuple[str, int], tuple[PartRecord, ...]]:
    c = part.c
    query = select(part).where(c.pipeline == pipeline, c.batch_id.in_(ids)).order_by(c.kind, c.partition, c.start)
    found: dict[tuple[str, int], tuple[PartRecord, ...]] = {}
    for row in connection.execute(query).mappings():
        key = (row["batch_id"], row["gen"])
        found[key] = (*found.get(key, ()), rows.part_of(row))
    return found


def repoint_slice(connection: Connection, batch_id: str, record: SliceRecord, manifest_digest: str | None) -> None:
    """Make a landed slice name another file with the same rows, and a sealed batch the manifest that says so.

    Raises ContentMismatchError for other rows.
    """
    c = slices.c
    changed = connection.execute(
        update(slices)
        .where(
            c.batch_id == batch_id,
            c.partition == record.range.partition,
            c.start == record.range.start,
            c.digest == record.digest,
        )
        .values(file_bytes=record.file.bytes, sha256=record.file.sha256)
    )
    if not changed.rowcount:
        raise ContentMismatchError(f"Slice {record.range} of batch {batch_id} is not recorded with {record.digest}.")
    if manifest_digest is not None:
        sealed = (batch.c.batch_id == batch_id, batch.c.manifest_digest.is_not(None))
        connection.execute(update(batch).where(*sealed).values(manifest_digest=manifest_digest))


def repoint_part(connection: Connection, pipeline: str, batch_id: str, gen: int, record: PartRecord) -> None:
    """Make a generation name another file with the same rows; raises ContentMismatchError for other rows."""
    changed = connection.execute(
        update(part)
        .where(*progress.part_key(pipeline, batch_id, gen, record), part.c.digest == record.digest)
        .values(file_bytes=record.file.bytes, sha256=record.file.sha256)
    )
    if not changed.rowcount:
        raise ContentMismatchError(f"Part {record.range} of batch {batch_id} is not recorded with {record.digest}.")
