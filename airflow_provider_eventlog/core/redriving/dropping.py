"""Dropping quarantined records for good: an explicit act, kept with who did it and why."""

from __future__ import annotations

from typing import Any

import numpy as np

from airflow_provider_eventlog.core import arrow, deciding, quarantine
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import OffsetRange, format_ranges
from airflow_provider_eventlog.core.protocols import Decision, GenerationState
from airflow_provider_eventlog.core.redriving import decided
from airflow_provider_eventlog.core.redriving.choosing import standing, stopped
from airflow_provider_eventlog.core.redriving.decided import DROP, MOST_RANGES
from airflow_provider_eventlog.core.selection import Selection, inside, ranges_of


def drop(
    engine: Engine, pipeline: str, stream: str, selection: Selection, *, who: str, why: str, keep: bool = True
) -> dict[str, Any]:
    """Drop the records of the rows that are meant: no redrive takes them, no listing counts them any more.

    Files and accounting stay as they are: the rows are in the quarantine's parts, and in its table. With keep=False it
    only says what it would drop. Raises RequestError for a selection that means nothing that is there, or too many
    scattered records; nothing is changed then. A failure in the middle leaves some batches dropped, and the same call
    again does the rest; what was dropped before is told as `before`.
    """
    if keep:
        # A call that was killed may have decided without writing it down.
        deciding.write_down(engine, stream)
    gone = decided.dropped(engine.ledger, stream, pipeline)
    found: list[tuple[Decision, int]] = []
    before = 0
    for batch, generation in standing(engine, stream, pipeline, selection):
        if generation.state is GenerationState.PLANNED:
            continue
        ranges: list[OffsetRange] = []
        rows = 0
        for part in engine.ledger.parts(pipeline, batch.batch_id, generation.generation):
            if part.kind != quarantine.KIND:
                continue
            table = stopped(engine, part)
            here, wanted = ~inside(table, gone.get(batch.batch_id, ())), selection.mask(table)
            before += int(np.count_nonzero(wanted & ~here))
            partitions, offsets = (arrow.joined(table.column(name)) for name in ("_partition", "_offset"))
            meant = here & wanted
            some = ranges_of(partitions[meant], offsets[meant])
            # A record is dropped with all of its rows.
            rows += int(np.count_nonzero(here & inside(table, some)))
            ranges += some
        if len(ranges) > MOST_RANGES:
            raise RequestError(
                f"{len(ranges):,} ranges of batch {batch.batch_id} would be dropped, at most {MOST_RANGES:,} can be at "
                f"once; nothing was changed. Choose fewer by reason, check or offsets."
            )
        if ranges:
            payload = {"generation": generation.generation, "ranges": format_ranges(ranges), "rows": rows}
            made = Decision(DROP, stream, batch.epoch, pipeline, batch.batch_id, who, why, engine.clock(), payload)
            found.append((made, sum(map(len, ranges))))
    if not found and not before:
        raise RequestError(
            f"Nothing in the quarantine of pipeline {printable(pipeline, 80)} is meant ({selection}); nothing was "
            f"dropped. `eventlog quarantine list` shows what there is."
        )
    for one, _ in found if keep else ():
        deciding.decide(engine, one)
    return {
        "pipeline": pipeline,
        "batches": [
            {
                "batch_id": one.batch_id,
                "generation": one.payload["generation"],
                "records": records,
                "rows": one.payload["rows"],
            }
            for one, records in found
        ],
        "before": before,
        "kept": keep,
    }
