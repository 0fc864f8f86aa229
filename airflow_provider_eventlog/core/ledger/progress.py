"""Landing and deriving: slices, batch states, generations and their parts, over an open connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select, update

from airflow_provider_eventlog.core.errors import AccountingError, ContentMismatchError, NotReadyError
from airflow_provider_eventlog.core.ledger import rows
from airflow_provider_eventlog.core.ledger.schema import batch, generation, part, slices
from airflow_provider_eventlog.core.protocols import (
    BatchState,
    GenerationRecord,
    GenerationState,
    PartRecord,
    SliceRecord,
)
from airflow_provider_eventlog.core.staging.records import canonical

_RANK = {state: rank for rank, state in enumerate(GenerationState)}


def record_slice(connection: Connection, batch_id: str, record: SliceRecord) -> SliceRecord:
    """Fill a planned slice once; what is recorded is returned.

    Raises AccountingError (not a slice of the batch, numbers that do not balance), ContentMismatchError.
    """
    if record.rows + record.invisible + record.lost != len(record.range):
        raise AccountingError(
            f"Slice {record.range} of batch {batch_id} does not balance: {len(record.range)} offsets are not "
            f"{record.rows} rows + {record.invisible} invisible + {record.lost} lost."
        )
    key = (
        slices.c.batch_id == batch_id,
        slices.c.partition == record.range.partition,
        slices.c.start == record.range.start,
        slices.c.end == record.range.end,
    )
    # The condition on digest, not a look beforehand, decides which of two writers comes first.
    first = update(slices).where(*key, slices.c.digest.is_(None)).values(**rows.slice_row(record))
    if connection.execute(first).rowcount:
        return record
    row = connection.execute(select(slices).where(*key)).mappings().first()
    if row is None:
        raise AccountingError(f"{record.range.people} is not a planned slice of batch {batch_id}.")
    known = rows.slice_of(row)
    if known.digest != record.digest:
        raise ContentMismatchError(
            f"Slice {record.range} of batch {batch_id} is recorded with digest {known.digest} ({known.file.path}); "
            f"another attempt has {record.digest}. The first one stands."
        )
    return known


def landed(connection: Connection, batch_id: str) -> tuple[SliceRecord, ...]:
    """Landed slices of a batch, by partition and start."""
    query = select(slices).where(slices.c.batch_id == batch_id, slices.c.digest.is_not(None))
    found = connection.execute(query.order_by(slices.c.partition, slices.c.start))
    return tuple(rows.slice_of(row) for row in found.mappings())


def seal(connection: Connection, batch_id: str, manifest_digest: str) -> None:
    """Mark a batch landed, once all of its slices are.

    Raises KeyError (no such batch), NotReadyError (a slice is missing), ContentMismatchError.
    """
    query = select(batch.c.manifest_digest).where(batch.c.batch_id == batch_id).with_for_update()
    known = connection.execute(query).one_or_none()
    if known is None:
        raise KeyError(batch_id)
    if known[0] is not None:
        if known[0] != manifest_digest:
            raise ContentMismatchError(
                f"Batch {batch_id} is sealed with manifest {known[0]}; another attempt has {manifest_digest}."
            )
        return
    missing = connection.execute(
        select(slices.c.partition, slices.c.start, slices.c.end).where(
            slices.c.batch_id == batch_id, slices.c.digest.is_(None)
        )
    ).first()
    if missing is not None:
        raise NotReadyError(f"Batch {batch_id} is not landed: slice {':'.join(map(str, missing[:2]))} is missing.")
    connection.execute(
        update(batch)
        .where(batch.c.batch_id == batch_id)
        .values(state=BatchState.LANDED.value, manifest_digest=manifest_digest)
    )


def find_generation(
    connection: Connection, pipeline: str, batch_id: str, gen: int, *, lock: bool = False
) -> GenerationRecord:
    """One generation, with `lock` kept from other writers where rows are locked; raises KeyError."""
    c = generation.c
    query = select(generation).where(c.pipeline == pipeline, c.batch_id == batch_id, c.gen == gen)
    if lock:
        query = query.with_for_update()
    row = connection.execute(query).mappings().first()
    if row is None:
        raise KeyError((pipeline, batch_id, gen))
    return rows.generation_of(row)


def generations(connection: Connection, pipeline: str, batch_id: str | None) -> tuple[GenerationRecord, ...]:
    """Generations of a pipeline, in order of batch and number."""
    query = select(generation).where(generation.c.pipeline == pipeline)
    if batch_id is not None:
        query = query.where(generation.c.batch_id == batch_id)
    found = connection.execute(query.order_by(generation.c.batch_id, generation.c.gen))
    return tuple(rows.generation_of(row) for row in found.mappings())


def part_key(pipeline: str, batch_id: str, gen: int, record: PartRecord) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which a row of table part is of this part."""
    c = part.c
    return (
        c.pipeline == pipeline,
        c.batch_id == batch_id,
        c.gen == gen,
        c.kind == record.kind,
        c.partition == record.range.partition,
        c.start == record.range.start,
    )


def record_part(connection: Connection, pipeline: str, batch_id: str, gen: int, record: PartRecord) -> PartRecord:
    """Record a derived file once; what is recorded is returned. Raises KeyError, ContentMismatchError."""
    find_generation(connection, pipeline, batch_id, gen, lock=True)
    key = part_key(pipeline, batch_id, gen, record)
    row = connection.execute(select(part).where(*key)).mappings().first()
    if row is None:
        connection.execute(insert(part).values(pipeline=pipeline, batch_id=batch_id, gen=gen, **rows.part_row(record)))
        return record
    known = rows.part_of(row)
    if (known.digest, known.range) != (record.digest, record.range):
        raise ContentMismatchError(
            f"Part {record.kind} {known.range} of batch {batch_id}, generation {gen} of pipeline {pipeline!r} is "
            f"recorded with digest {known.digest} ({known.file.path}); another attempt has {record.range} with "
            f"{record.digest}. The first one stands."
        )
    return known


def parts(connection: Connection, pipeline: str, batch_id: str, gen: int) -> tuple[PartRecord, ...]:
    """Parts of a generation by kind, partition and start."""
    c = part.c
    query = select(part).where(c.pipeline == pipeline, c.batch_id == batch_id, c.gen == gen)
    found = connection.execute(query.order_by(c.kind, c.partition, c.start))
    return tuple(rows.part_of(row) for row in found.mappings())


def advance(
    connection: Connection,
    pipeline: str,
    batch_id: str,
    gen: int,
    state: GenerationState,
    digest: str | None,
    accounting: Mapping[str, Any] | None,
) -> None:
    """Move a generation forward: planned, held, validated, loaded. Raises KeyError, ContentMismatchError.

    A state behind the present one changes nothing. The present one adds digest or accounting where none was
    recorded; a later one records its own accounting.
    """
    known = find_generation(connection, pipeline, batch_id, gen, lock=True)
    if digest is not None and known.digest is not None and digest != known.digest:
        raise ContentMismatchError(
            f"Generation {gen} of batch {batch_id} of pipeline {pipeline!r} is recorded with digest {known.digest}; "
            f"another attempt has {digest}. The first one stands."
        )
    if _RANK[state] < _RANK[known.state]:
        return
    values: dict[str, Any] = {"state": state.value}
    if digest is not None:
        values["digest"] = digest
    if accounting is not None and (known.accounting is None or state != known.state):
        values["accounting"] = canonical(dict(accounting))
    c = generation.c
    connection.execute(
        update(generation).where(c.pipeline == pipeline, c.batch_id == batch_id, c.gen == gen).values(**values)
    )
