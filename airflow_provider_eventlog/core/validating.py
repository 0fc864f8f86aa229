"""Validation: completeness, balance and checks, and the gate before anything is published.

Reads manifests, ledger and part counts; never the target.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_eventlog.core import accounting, landing
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, NotReadyError
from airflow_provider_eventlog.core.offsets import PlannedBatch, RunPlan
from airflow_provider_eventlog.core.protocols import GenerationState, PartRecord, SliceRecord
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.declare.pipeline import Pipeline


def validate_run(engine: Engine, pipeline: Pipeline, bound: RunPlan) -> list[dict[str, Any]]:
    """Validate every batch of a run; the ones that are fine are validated even if another is held.

    Raises CheckFailedError for the first held batch after all were looked at.
    """
    reports, held = [], []
    for planned in bound.batches:
        engine.check_cancelled()
        try:
            reports.append(validate_batch(engine, pipeline, planned))
        except CheckFailedError as error:
            held.append(error)
    if held:
        more = f" {len(held) - 1} more batches of this run are held too." if len(held) > 1 else ""
        raise CheckFailedError(f"{held[0]}{more}") from held[0]
    return reports


def validate_batch(engine: Engine, pipeline: Pipeline, planned: PlannedBatch) -> dict[str, Any]:
    """Prove one batch whole, publish its generation's commit record, and return its accounting.

    Raises NotReadyError, AccountingError; CheckFailedError after marking the generation held.
    """
    batch, number = planned.batch, planned.generation
    slices = landing.verified_slices(engine, batch)
    parts = _parts(engine, pipeline, planned, slices)
    figures = _accounting(slices, parts)
    failures = _failures(pipeline, parts)
    state = engine.ledger.generation(pipeline.name, batch.batch_id, number).state
    if failures:
        if state is not GenerationState.LOADED:
            engine.ledger.advance_generation(
                pipeline.name, batch.batch_id, number, GenerationState.HELD, accounting={**figures, "checks": failures}
            )
        raise CheckFailedError(_complaint(planned, failures))
    commit = _commit(pipeline, planned, parts, figures)
    engine.staging.publish_json(paths.commit(batch.stream, pipeline.name, batch.batch_id, number), commit)
    engine.ledger.advance_generation(
        pipeline.name,
        batch.batch_id,
        number,
        GenerationState.VALIDATED,
        digest=rows_digest(parts),
        accounting=figures,
    )
    return {"batch_id": batch.batch_id, "generation": number, "accounting": figures}


def rows_digest(parts: tuple[PartRecord, ...]) -> str:
    """Digest of a generation's rows: its parts' logical digests in partition and offset order."""
    return records.digest([[str(p.range), p.digest] for p in parts])


def _parts(
    engine: Engine, pipeline: Pipeline, planned: PlannedBatch, slices: tuple[SliceRecord, ...]
) -> tuple[PartRecord, ...]:
    batch, number = planned.batch, planned.generation
    parts = tuple(p for p in engine.ledger.parts(pipeline.name, batch.batch_id, number) if p.kind == TYPED)
    missing = sorted({r.range for r in slices} - {p.range for p in parts})
    if missing:
        raise NotReadyError(
            f"Batch {batch.batch_id}, generation {number}: {len(missing)} slices are not transformed yet, first "
            f"{missing[0]}. Run or clear its transform tasks."
        )
    for part in parts:
        # A read of every byte: nothing is loaded that no longer is what the transform wrote.
        engine.staging.open(part.file.path, part.file)
    return parts


def _accounting(slices: tuple[SliceRecord, ...], parts: tuple[PartRecord, ...]) -> dict[str, Any]:
    by_range = {p.range: p for p in parts}
    landed = [accounting.landing_counts(r) for r in slices]
    derived = [accounting.transform_counts(by_range[r.range], r) for r in slices]
    return {
        "landing": accounting.total(landed, accounting.LANDING),
        "transform": accounting.total(derived, accounting.TRANSFORM),
    }


def _failures(pipeline: Pipeline, parts: tuple[PartRecord, ...]) -> dict[str, Any]:
    failures: dict[str, Any] = {}
    for check in pipeline.checks:
        found = [p.failures[check.name] for p in parts if check.name in p.failures]
        rows = sum(int(f["rows"]) for f in found)
        if rows:
            failures[check.name] = {
                "rows": rows,
                "expression": check.expression,
                "first": [offset for f in found for offset in f["first"]][:5],
            }
    return failures


def _complaint(planned: PlannedBatch, failures: dict[str, Any]) -> str:
    told = "; ".join(
        f"check {name!r} ({f['expression']}) is not true for {f['rows']} rows, first at partition:offset "
        f"{', '.join(f['first'])}"
        for name, f in failures.items()
    )
    return (
        f"Batch {planned.batch.batch_id}, generation {planned.generation} is held, nothing of it is loaded: {told}. "
        f"Correct the check or the transform, then clear the run from plan: it is derived again from staging."
    )


def _commit(
    pipeline: Pipeline, planned: PlannedBatch, parts: tuple[PartRecord, ...], figures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "pipeline": pipeline.name,
        "batch_id": planned.batch.batch_id,
        "generation": planned.generation,
        "recipe": pipeline.recipe,
        "digest": rows_digest(parts),
        "parts": [
            {"kind": p.kind, "range": str(p.range), "path": p.file.path, "sha256": p.file.sha256, "digest": p.digest}
            for p in parts
        ],
        "accounting": figures,
    }
