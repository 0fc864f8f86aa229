"""The rows of a redriven generation: those of its base that stay, and those of the records that are run again.

Both depend on the base's parts, the chosen records and the recipe alone. Neither Kafka nor raw files are needed: the
quarantine has the records as Kafka gave them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow, partfile, quality, quarantine, retention
from airflow_provider_eventlog.core.accounting import TRANSFORM
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import ContentMismatchError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import PartRecord
from airflow_provider_eventlog.core.rawfile import RAW_SCHEMA
from airflow_provider_eventlog.core.redriving.decided import Redrive, parts_digest
from airflow_provider_eventlog.core.selection import inside
from airflow_provider_eventlog.core.transforming import TransformResult, count_checks, part_schema, transform_slice
from airflow_provider_eventlog.declare.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Remade:
    """A slice of a redriven generation.

    typed    its rows with their accounting; broken checks are those of the recipe of now, over all of them
    stopped  rows in `quarantine.SCHEMA`, counted by code; None for none
    stamps   by kind of part: the one time of all rows of the base's partial results, where they have one
    """

    typed: TransformResult
    stopped: TransformResult | None
    stamps: Mapping[str, int | None]


def remake(engine: Engine, pipeline: Pipeline, redrive: Redrive, generation: int, wanted: OffsetRange) -> Remade:
    """Make one slice of a redriven generation.

    Raises StagingMissingError where retention or somebody has removed what the base holds, StagingCorruptError,
    ContentMismatchError for a base with other parts than were chosen from, and the errors of the transform.
    """
    parts = _base(engine, pipeline.name, redrive, wanted)
    typed = parts[partfile.TYPED]
    rows = _read(engine, pipeline.name, redrive, typed)
    found = parts.get(quarantine.KIND)
    stopped = arrow.empty_table(quarantine.SCHEMA) if found is None else _read(engine, pipeline.name, redrive, found)
    replaced, again = inside(rows, redrive.ranges), inside(stopped, redrive.ranges)
    counts = {name: int(typed.counts[name]) for name in TRANSFORM}
    left, last = stopped.filter(arrow.flags(~again)), stopped.filter(arrow.flags(again))
    if last.num_rows:
        made = transform_slice(pipeline, records_of(last))
        counts = _counted(counts, rows, replaced, last, made)
        rows = _ordered(part_schema(pipeline), rows.filter(arrow.flags(~replaced)), made.table)
        if made.stopped is not None:
            batch, last_made = redrive.batch, made.stopped.table()
            fresh = quarantine.addressed(last_made, engine.topic(batch), batch.batch_id, generation, pipeline.recipe)
            left = _ordered(quarantine.SCHEMA, left, _with_earlier(fresh, last))
    failures = {**count_checks(pipeline, rows), **_stops(pipeline, left)}
    codes = dict(sorted(Counter(left.column("code").to_pylist()).items()))
    return Remade(
        TransformResult(rows, counts, failures),
        TransformResult(left, codes) if left.num_rows else None,
        {kind: part.counts.get("stamp") for kind, part in parts.items()},
    )


def records_of(stopped: pa.Table) -> pa.Table:
    """The records that quarantined rows of one partition come from, once each, by offset, as they were landed."""
    offsets = arrow.joined(stopped.column("_offset"))
    _, first = np.unique(offsets, return_index=True)
    rows = stopped.take(arrow.fixed(first.astype(np.int64), pa.int64()))
    named = {"partition": "_partition", "offset": "_offset"}
    columns = [rows.column(named.get(name, name)) for name in RAW_SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=RAW_SCHEMA)


def _base(engine: Engine, pipeline: str, redrive: Redrive, wanted: OffsetRange) -> dict[str, PartRecord]:
    parts = engine.ledger.parts(pipeline, redrive.batch.batch_id, redrive.base)
    if parts_digest(parts) != redrive.base_digest:
        raise ContentMismatchError(
            f"Generation {redrive.base} of batch {redrive.batch.batch_id} has other parts than the records were chosen "
            f"from; nothing of it is used. `eventlog fsck` says more; ask for the redrive again."
        )
    return {part.kind: part for part in parts if part.range == wanted}


def _read(engine: Engine, pipeline: str, redrive: Redrive, part: PartRecord) -> pa.Table:
    if not engine.staging.exists(part.file.path):
        of = (redrive.batch.stream, pipeline, redrive.batch.batch_id, redrive.base)
        raise retention.missing_part(engine, *of, part.file.path)
    return partfile.read_table(engine.staging.open(part.file.path, part.file))


def _counted(
    counts: Mapping[str, int], rows: pa.Table, replaced: npt.NDArray[np.bool_], last: pa.Table, made: TransformResult
) -> dict[str, int]:
    """The slice's accounting, with what the records gave before taken out and what they give now put in."""
    numbers, offsets = (arrow.joined(last.column(name)) for name in ("_row", "_offset"))
    undecodable = int(np.count_nonzero(numbers < 0))
    typed = len(np.unique(offsets[numbers >= 0]))
    rejected, passed = last.num_rows - undecodable, int(np.count_nonzero(replaced))
    before = {
        "landed": undecodable + typed,
        "undecodable": undecodable,
        "typed": typed,
        # Each of these records has at least the row that was stopped, so that none of them was filtered.
        "exploded": rejected + passed - typed,
        "rejected": rejected,
        "passed": passed,
    }
    return {name: count - before.get(name, 0) + made.counts[name] for name, count in counts.items()}


def _ordered(schema: pa.Schema, one: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of both by position."""
    both = pa.concat_tables([pa.Table.from_arrays(t.columns, schema=schema) for t in (one, other)])
    order = np.lexsort([arrow.joined(both.column(name)) for name in ("_row", "_offset", "_partition")])
    return both.take(arrow.fixed(order.astype(np.int64), pa.int64()))


def _with_earlier(fresh: pa.Table, last: pa.Table) -> pa.Table:
    """What was stopped again, with why its record had been stopped before."""
    told: dict[int, dict[str, None]] = {}
    names = ("_offset", "generation", "code", "check", "reason", "earlier")
    for offset, generation, code, check, reason, earlier in zip(
        *(last.column(name).to_pylist() for name in names), strict=True
    ):
        of_record = told.setdefault(offset, {})
        if earlier:
            of_record[earlier] = None
        of_record[f"generation {generation}: {code}{f' {check}' if check else ''}: {reason}"] = None
    texts = ["; ".join(told[offset]) for offset in fresh.column("_offset").to_pylist()]
    return fresh.set_column(fresh.schema.get_field_index("earlier"), "earlier", arrow.strings(texts))


def _stops(pipeline: Pipeline, stopped: pa.Table) -> dict[str, dict[str, Any]]:
    """The rows that checks keep out, as `TransformResult.failures` tells of them."""
    names = np.array(stopped.column("check").to_pylist(), object)
    partitions, offsets = (arrow.joined(stopped.column(name)) for name in ("_partition", "_offset"))
    found = {}
    for check in pipeline.checks:
        mine = names == check.name
        if check.on_fail == "quarantine" and mine.any():
            at = np.unique(offsets[mine])[: quality.FIRST].tolist()
            first = [f"{partitions[0]}:{offset}" for offset in at]
            found[check.name] = {"rows": int(np.count_nonzero(mine)), "first": first}
    return found
