"""Choosing what a redrive runs again: quarantined records of each batch's newest generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from airflow_provider_eventlog.core import arrow, partfile, quarantine, retention
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, format_ranges
from airflow_provider_eventlog.core.protocols import GenerationRecord, GenerationState, PartRecord, RunBinding
from airflow_provider_eventlog.core.quarantined import newest
from airflow_provider_eventlog.core.redriving import decided
from airflow_provider_eventlog.core.redriving.decided import MOST_RANGES, Redrive
from airflow_provider_eventlog.core.selection import Selection, inside, ranges_of
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.declare.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = 5
_LOOK = "`eventlog quarantine list --pipeline {}` shows what there is."


def choose(engine: Engine, pipeline: Pipeline, selection: Selection, *, again: bool = False) -> list[Redrive]:
    """The records that are meant, by batch: chain batches in chain order, then off-chain ones.

    A record is run again whole, with all of its rows. What the recipe of now has stopped already is left out, unless
    `again`; so is what was dropped. Raises RequestError where nothing is left to do, for a batch or offsets that have
    nothing in quarantine, for a batch whose newest generation is unfinished, for too many scattered records, and where
    the recipe of now gives other columns than the batch has; StagingMissingError, StagingCorruptError. Nothing is
    changed in any case.
    """
    found: list[Redrive] = []
    tried = unfinished = 0
    named: list[OffsetRange] = []
    gone = decided.dropped(engine.ledger, pipeline.stream.name, pipeline.name)
    for batch, generation in standing(engine, pipeline.stream.name, pipeline.name, selection):
        engine.check_cancelled()
        if generation.state is GenerationState.PLANNED:
            unfinished += 1
            continue
        parts = engine.ledger.parts(pipeline.name, batch.batch_id, generation.generation)
        ranges, rows, seen = _records(engine, parts, selection, gone.get(batch.batch_id, ()), pipeline.recipe, again)
        tried += seen
        if ranges:
            _refuse(engine, pipeline, batch, generation, parts, ranges)
            digest = decided.parts_digest(parts)
            found.append(Redrive(batch, generation.generation, generation.recipe, digest, ranges, rows))
            named += ranges
    if not found:
        raise _nothing(pipeline, selection, tried, unfinished)
    unknown = [r for r in selection.ranges if not any(_meet(r, one) for one in named)]
    if unknown:
        raise RequestError(
            f"Nothing at the offsets {format_ranges(unknown[:_NAMED])} of stream {pipeline.stream.name!r} waits in the "
            f"quarantine of pipeline {pipeline.name!r} to be run again; nothing was changed. "
            + _LOOK.format(pipeline.name)
        )
    return found


def chosen(engine: Engine, pipeline: str, bound: RunBinding) -> list[Redrive]:
    """What a run is bound to run again, as its decisions have it."""
    found = []
    for batch_id, generation, _ in bound.batches:
        batch, _ = engine.ledger.batch(batch_id)
        redrive = decided.find(engine.ledger, pipeline, batch, generation)
        # A generation is allocated and decided on in one transaction.
        assert redrive is not None, (pipeline, batch_id, generation)
        found.append(redrive)
    return found


def standing(
    engine: Engine, stream: str, pipeline: str, selection: Selection
) -> Iterator[tuple[BatchPlan, GenerationRecord]]:
    """The batches that a selection is about, each with the pipeline's newest generation; raises RequestError."""
    latest = {g.batch_id: g for g in newest(engine.ledger, pipeline, selection.batch_id)}
    if selection.batch_id is not None and selection.batch_id not in latest:
        raise RequestError(
            f"Pipeline {printable(pipeline, 80)} has no batch {printable(selection.batch_id, 80)}; nothing was "
            f"changed. {_LOOK.format(printable(pipeline, 80))}"
        )
    epochs = engine.ledger.epochs(stream)
    for batch, _ in engine.ledger.batches(stream):
        # Offsets of several epochs cannot be told apart.
        elsewhere = selection.ranges and not selection.batch_id and batch.epoch != epochs[-1].epoch
        if batch.batch_id in latest and not elsewhere:
            yield batch, latest[batch.batch_id]


def stopped(engine: Engine, part: PartRecord) -> pa.Table:
    """The rows of a quarantine part; raises StagingMissingError, StagingCorruptError."""
    return partfile.read_table(engine.staging.open(part.file.path, part.file))


def _records(
    engine: Engine,
    parts: tuple[PartRecord, ...],
    selection: Selection,
    gone: tuple[OffsetRange, ...],
    recipe: str,
    again: bool,
) -> tuple[tuple[OffsetRange, ...], int, int]:
    """The records to run again, how many rows these have, and how many rows the recipe has stopped already."""
    found: list[OffsetRange] = []
    rows = seen = 0
    for part in parts:
        if part.kind != quarantine.KIND or (selection.codes and not set(selection.codes) & set(part.counts)):
            continue
        table = stopped(engine, part)
        meant = selection.mask(table) & ~inside(table, gone)
        tried = np.array([value == recipe for value in table.column("recipe").to_pylist()], bool)
        seen += int(np.count_nonzero(meant & tried))
        if not again:
            meant &= ~tried
        partitions, offsets = (arrow.joined(table.column(name)) for name in ("_partition", "_offset"))
        ranges = ranges_of(partitions[meant], offsets[meant])
        rows += int(np.count_nonzero(inside(table, ranges)))
        found += ranges
    return tuple(sorted(found)), rows, seen


def _refuse(
    engine: Engine,
    pipeline: Pipeline,
    batch: BatchPlan,
    generation: GenerationRecord,
    parts: tuple[PartRecord, ...],
    ranges: tuple[OffsetRange, ...],
) -> None:
    """Raise RequestError for what cannot be merged with the rows that stay; StagingMissingError for rows that went."""
    if len(ranges) > MOST_RANGES:
        raise RequestError(
            f"{len(ranges):,} ranges of batch {batch.batch_id} would be run again, at most {MOST_RANGES:,} can be at "
            f"once; nothing was changed. Choose fewer by reason, check or offsets; or clear the batch's run from plan, "
            f"which derives it whole."
        )
    wanted = _told(partfile.part_schema(pipeline))
    for part in parts:
        if part.kind != TYPED:
            continue
        if not engine.staging.exists(part.file.path):
            of = (batch.stream, pipeline.name, batch.batch_id, generation.generation)
            raise retention.missing_part(engine, *of, part.file.path)
        found = _told(partfile.read_schema(engine.staging.open(part.file.path)))
        if found != wanted:
            differing = ", ".join(f"{n} {kind}" for n, kind in sorted({*found} ^ {*wanted})) or "in another order"
            raise RequestError(
                f"Pipeline {pipeline.name!r} gives other columns now than batch {batch.batch_id} has ("
                f"{printable(differing, 300)}): rows of both cannot stand side by side. Nothing was changed. Clear the "
                f"batch's run from plan: it is derived whole, from staging."
            )
        return


def _told(schema: pa.Schema) -> list[tuple[str, str]]:
    """The columns of typed rows as the engine knows them."""
    return [(f.name, (f.metadata or {}).get(TYPE_KEY, str(f.type).encode()).decode()) for f in schema]


def _nothing(pipeline: Pipeline, selection: Selection, tried: int, unfinished: int) -> RequestError:
    if tried:
        return RequestError(
            f"All that is meant ({selection}) was stopped by the recipe of now ({pipeline.recipe[:12]}), {tried:,} "
            f"rows: run again they would be stopped again. Correct the declaration first; or ask with recompute, where "
            f"the transform reads more than its input. Nothing was changed."
        )
    if unfinished:
        return RequestError(
            f"The newest generation of {unfinished} of the batches that are meant ({selection}) is not validated yet; "
            f"finish its run first. Nothing was changed."
        )
    return RequestError(
        f"Nothing in the quarantine of pipeline {pipeline.name!r} is meant ({selection}); nothing was changed. "
        + _LOOK.format(pipeline.name)
    )


def _meet(one: OffsetRange, other: OffsetRange) -> bool:
    return one.partition == other.partition and one.start < other.end and other.start < one.end
