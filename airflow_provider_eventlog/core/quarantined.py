"""Reading the quarantine of a pipeline: the newest generation of each batch, over ledger and staging alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import arrow, partfile, quarantine
from airflow_provider_eventlog.core.protocols import GenerationRecord, Ledger, PartRecord, Staging

if TYPE_CHECKING:
    import pyarrow as pa


def summary(ledger: Ledger, pipeline: str, batch_id: str | None = None) -> list[dict[str, Any]]:
    """Batches that have anything in quarantine: generation, state, rows, and rows by code."""
    found = []
    for generation in newest(ledger, pipeline, batch_id):
        codes: dict[str, int] = {}
        for part in _parts(ledger, generation):
            for code, rows in part.counts.items():
                codes[code] = codes.get(code, 0) + int(rows)
        if codes:
            found.append(
                {
                    "batch_id": generation.batch_id,
                    "generation": generation.generation,
                    "state": generation.state.value,
                    "rows": sum(codes.values()),
                    "codes": dict(sorted(codes.items())),
                }
            )
    return found


def tables(
    ledger: Ledger, staging: Staging, pipeline: str, batch_id: str | None = None, codes: Collection[str] = ()
) -> Iterator[pa.Table]:
    """The quarantined rows in `quarantine.SCHEMA`, a slice at a time, by batch and position; only these codes if any.

    Raises StagingMissingError, StagingCorruptError.
    """
    import numpy as np

    for generation in newest(ledger, pipeline, batch_id):
        for part in _parts(ledger, generation):
            if codes and not set(codes) & set(part.counts):
                continue
            table = partfile.read_table(staging.open(part.file.path, part.file))
            if codes:
                wanted = np.array([code in codes for code in table.column("code").to_pylist()], bool)
                table = table.filter(arrow.flags(wanted))
            yield table


def newest(ledger: Ledger, pipeline: str, batch_id: str | None) -> list[GenerationRecord]:
    """The newest generation of each batch of a pipeline, or of the one batch."""
    last: dict[str, GenerationRecord] = {}
    for generation in ledger.generations(pipeline, batch_id):
        last[generation.batch_id] = generation
    return list(last.values())


def _parts(ledger: Ledger, generation: GenerationRecord) -> list[PartRecord]:
    stored = ledger.parts(generation.pipeline, generation.batch_id, generation.generation)
    return [part for part in stored if part.kind == quarantine.KIND]
