"""Validation: completeness, balance and checks, and the gate before anything is published.

Reads manifests, ledger and part counts; never the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import accounting, gate, landing, quarantine
from airflow_provider_eventlog.core.checks import measuring
from airflow_provider_eventlog.core.completeness import judging
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import BatchHeldError, NotReadyError
from airflow_provider_eventlog.core.offsets import OffsetRange, PlannedBatch, RunPlan
from airflow_provider_eventlog.core.protocols import GenerationState, PartRecord, SliceRecord
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.declare.pipeline import Pipeline


def validate_run(engine: Engine, pipeline: Pipeline, bound: RunPlan) -> list[dict[str, Any]]:
    """Validate every batch of a run; the ones that are fine are validated even if another is held.

    Raises the BatchHeldError of the first held batch after all were looked at.
    """
    reports = []
    held: list[BatchHeldError] = []
    for planned in bound.batches:
        engine.check_cancelled()
        try:
            reports.append(validate_batch(engine, pipeline, planned))
        except BatchHeldError as error:
            held.append(error)
    if held:
        more = f" {len(held) - 1} more batches of this run are held too." if len(held) > 1 else ""
        raise type(held[0])(f"{held[0]}{more}") from held[0]
    return reports


def validate_batch(engine: Engine, pipeline: Pipeline, planned: PlannedBatch) -> dict[str, Any]:
    """Prove one batch whole, publish its generation's commit record, and return its accounting.

    Raises NotReadyError, AccountingError; BatchHeldError after marking the generation held. A held generation that was
    released goes on.
    """
    batch, number = planned.batch, planned.generation
    slices = landing.verified_slices(engine, batch)
    parts, files = _parts(engine, pipeline, planned, slices)
    figures = measuring.measured(pipeline, figures_of(pipeline, slices, parts), files)
    figures |= judging.figures_of(engine, pipeline, planned)
    stopped = gate.held(pipeline, planned, figures) or judging.held(planned, figures)
    if stopped is not None and not gate.released(engine, pipeline, planned):
        state = engine.ledger.generation(pipeline.name, batch.batch_id, number).state
        if state is not GenerationState.LOADED:
            engine.ledger.advance_generation(
                pipeline.name, batch.batch_id, number, GenerationState.HELD, accounting=figures
            )
        raise stopped
    commit = commit_record(pipeline.name, batch.batch_id, number, pipeline.recipe, parts, figures)
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


def rows_digest(parts: Iterable[PartRecord], kind: str = TYPED) -> str:
    """Digest of a generation's rows: the logical digests of its parts of a kind in partition and offset order."""
    return records.digest([[str(p.range), p.digest] for p in parts if p.kind == kind])


def _parts(
    engine: Engine, pipeline: Pipeline, planned: PlannedBatch, slices: tuple[SliceRecord, ...]
) -> tuple[tuple[PartRecord, ...], list[Path]]:
    """A generation's parts, and the files of the typed ones in order."""
    batch, number = planned.batch, planned.generation
    parts = engine.ledger.parts(pipeline.name, batch.batch_id, number)
    missing = sorted({r.range for r in slices} - {p.range for p in parts if p.kind == TYPED})
    if missing:
        raise NotReadyError(
            f"Batch {batch.batch_id}, generation {number}: {len(missing)} slices are not transformed yet, first "
            f"{missing[0]}. Run or clear its transform tasks."
        )
    files: dict[OffsetRange, Path] = {}
    for part in parts:
        # A read of every byte: nothing is loaded that no longer is what the transform wrote.
        local = engine.staging.open(part.file.path, part.file)
        if part.kind == TYPED:
            files[part.range] = local
    return parts, [files[r.range] for r in slices]


def figures_of(pipeline: Pipeline, slices: tuple[SliceRecord, ...], parts: tuple[PartRecord, ...]) -> dict[str, Any]:
    """A generation's accounting from its landed slices and all of its parts, by the checks of `pipeline`.

    Raises AccountingError where it does not balance.
    """
    typed = {p.range: p for p in parts if p.kind == TYPED}
    stopped = {p.range: p for p in parts if p.kind == quarantine.KIND}
    landed = [accounting.landing_counts(r) for r in slices]
    derived = [accounting.transform_counts(typed[r.range], r) for r in slices]
    figures: dict[str, Any] = {
        "landing": accounting.total(landed, accounting.LANDING),
        "transform": accounting.total(derived, accounting.TRANSFORM),
    }
    codes: Counter[str] = Counter()
    for record in slices:
        codes.update(accounting.quarantined(typed[record.range], stopped.get(record.range)))
    if codes:
        figures["quarantine"] = dict(sorted(codes.items()))
    looked_at = figures["transform"]["passed"] + figures["transform"]["rejected"]
    checks = gate.broken_checks(pipeline, [typed[r.range] for r in slices], looked_at)
    return {**figures, "checks": checks} if checks else figures


def commit_record(
    pipeline: str,
    batch_id: str,
    number: int,
    recipe: str,
    parts: tuple[PartRecord, ...],
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """A generation's commit record: a function of what it is made of alone, and all that a ledger has of it."""
    return {
        "pipeline": pipeline,
        "batch_id": batch_id,
        "generation": number,
        "recipe": recipe,
        "digest": rows_digest(parts),
        "parts": [_part_json(p) for p in parts],
        "accounting": dict(figures),
    }


def _part_json(part: PartRecord) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "range": str(part.range),
        "path": part.file.path,
        "file_bytes": part.file.bytes,
        "sha256": part.file.sha256,
        "digest": part.digest,
        "recipe": part.recipe,
        "counts": dict(part.counts),
        "failures": dict(part.failures),
    }
