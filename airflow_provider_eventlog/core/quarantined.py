"""Reading the quarantine of a pipeline: the newest generation of each batch, over ledger and staging alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import arrow, partfile, quarantine
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import GenerationRecord, Ledger, PartRecord, Staging
from airflow_provider_eventlog.core.redriving import decided
from airflow_provider_eventlog.core.selection import Selection, inside

if TYPE_CHECKING:
    import pyarrow as pa


def summary(ledger: Ledger, staging: Staging, pipeline: str, batch_id: str | None = None) -> list[dict[str, Any]]:
    """Batches that have anything in quarantine: generation, state, rows, and rows by code.

    Rows of records that were dropped for good are not among them; `dropped` says how many there are. Raises
    StagingMissingError, StagingCorruptError where their files must be looked at.
    """
    found = []
    gone = _dropped(ledger, pipeline)
    for generation in newest(ledger, pipeline, batch_id):
        codes: Counter[str] = Counter()
        dropped = 0
        for part in _parts(ledger, generation):
            codes.update({code: int(rows) for code, rows in part.counts.items()})
            if generation.batch_id in gone:
                table = partfile.read_table(staging.open(part.file.path, part.file))
                out = table.filter(arrow.flags(inside(table, gone[generation.batch_id])))
                codes.subtract(out.column("code").to_pylist())
                dropped += out.num_rows
        if codes:
            found.append(
                {
                    "batch_id": generation.batch_id,
                    "generation": generation.generation,
                    "state": generation.state.value,
                    "rows": sum(codes.values()),
                    "codes": {code: rows for code, rows in sorted(codes.items()) if rows},
                    "dropped": dropped,
                }
            )
    return found


def tables(
    ledger: Ledger, staging: Staging, pipeline: str, selection: Selection | None = None, *, dropped: bool = False
) -> Iterator[pa.Table]:
    """The quarantined rows in `quarantine.SCHEMA`, a slice at a time, by batch and position; only what is selected.

    dropped  rows of records that were dropped for good, and only those

    Raises StagingMissingError, StagingCorruptError.
    """
    wanted = selection or Selection()
    gone = _dropped(ledger, pipeline)
    for generation in newest(ledger, pipeline, wanted.batch_id):
        for part in _parts(ledger, generation):
            if wanted.codes and not set(wanted.codes) & set(part.counts):
                continue
            table = partfile.read_table(staging.open(part.file.path, part.file))
            out = inside(table, gone.get(generation.batch_id, ()))
            yield table.filter(arrow.flags(wanted.mask(table) & (out if dropped else ~out)))


def newest(ledger: Ledger, pipeline: str, batch_id: str | None) -> list[GenerationRecord]:
    """The newest generation of each batch of a pipeline, or of the one batch."""
    last: dict[str, GenerationRecord] = {}
    for generation in ledger.generations(pipeline, batch_id):
        last[generation.batch_id] = generation
    return list(last.values())


def _dropped(ledger: Ledger, pipeline: str) -> dict[str, tuple[OffsetRange, ...]]:
    streams = {stream for name, stream, _, _ in ledger.pipelines() if name == pipeline}
    found: dict[str, tuple[OffsetRange, ...]] = {}
    for stream in sorted(streams):
        found |= decided.dropped(ledger, stream, pipeline)
    return found


def _parts(ledger: Ledger, generation: GenerationRecord) -> list[PartRecord]:
    stored = ledger.parts(generation.pipeline, generation.batch_id, generation.generation)
    return [part for part in stored if part.kind == quarantine.KIND]
