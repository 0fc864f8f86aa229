"""The gate: which rules a batch breaks before anything of it is published, and who let it pass all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_eventlog.core import deciding
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import BatchHeldError, CheckFailedError, QuarantineLimitError, RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import PlannedBatch
from airflow_provider_eventlog.core.protocols import Decision, GenerationState, PartRecord
from airflow_provider_eventlog.declare.pipeline import Pipeline

RELEASE = "release"


def broken_checks(pipeline: Pipeline, typed: Sequence[PartRecord], rows: int) -> dict[str, dict[str, Any]]:
    """The checks that any row of a batch breaks: how many do, the first ones, and whether that holds the batch.

    typed  the batch's typed parts in order
    rows   how many rows the checks looked at
    """
    found = {}
    for check in pipeline.checks:
        parts = [p.failures[check.name] for p in typed if check.name in p.failures]
        broken = sum(int(f["rows"]) for f in parts)
        tolerated = check.tolerated(rows)
        if broken:
            found[check.name] = {
                "rows": broken,
                "expression": check.expression,
                "on_fail": check.on_fail,
                "tolerated": tolerated,
                "holds": tolerated is not None and broken > tolerated,
                "first": [offset for f in parts for offset in f["first"]][:5],
            }
    return found


def held(pipeline: Pipeline, planned: PlannedBatch, figures: Mapping[str, Any]) -> BatchHeldError | None:
    """Why the batch must not be published; None if it may.

    figures  the batch's accounting with `checks` as of `broken_checks` and `quarantine` by code
    """
    batch = f"Batch {planned.batch.batch_id}, generation {planned.generation}"
    holding = {name: f for name, f in figures.get("checks", {}).items() if f["holds"]}
    if holding:
        told = "; ".join(_told(name, f) for name, f in holding.items())
        return CheckFailedError(
            f"{batch} is held, nothing of it is loaded: {told}. Correct the check or the transform, then clear the run "
            f"from plan: it is derived again from staging."
        )
    stopped = sum(figures.get("quarantine", {}).values())
    share = stopped / (stopped + figures["transform"]["passed"]) if stopped else 0.0
    if share > pipeline.max_quarantine_ratio:
        codes = ", ".join(f"{count} {code}" for code, count in figures["quarantine"].items())
        return QuarantineLimitError(
            f"{batch} is held, nothing of it is loaded: {stopped} rows ({share:.1%}) are quarantined ({codes}), more "
            f"than max_quarantine_ratio={pipeline.max_quarantine_ratio:g} allows. Look at them with `eventlog "
            f"quarantine show --pipeline {pipeline.name} --batch {planned.batch.batch_id}`; correct the declaration "
            f"and clear the run from plan, or let the rest pass with `eventlog release` and clear validate."
        )
    return None


def _told(name: str, broken: Mapping[str, Any]) -> str:
    what = f"check {name!r} ({broken['expression']})"
    if broken["rows"] is None:
        return f"{what} does not hold for the batch as a whole, its result is {broken['result']}"
    tolerated = f" of {broken['tolerated']} tolerated" if broken["tolerated"] else ""
    first = ", ".join(broken["first"])
    return f"{what} is not true for {broken['rows']} rows{tolerated}, first at partition:offset {first}"


def released(engine: Engine, pipeline: Pipeline, planned: PlannedBatch) -> bool:
    """Whether somebody has let this generation pass."""
    batch = planned.batch
    return (batch.batch_id, planned.generation) in let_pass(engine, batch.stream, pipeline.name)


def let_pass(engine: Engine, stream: str, pipeline: str) -> set[tuple[str, int]]:
    """What of one pipeline somebody has let pass: (batch id, generation), whose numbers other pipelines have too."""
    decided = engine.ledger.decisions(stream, RELEASE)
    return {(str(d.batch_id), int(d.payload["generation"])) for d in decided if d.pipeline == pipeline}


def release(engine: Engine, pipeline: str, batch_id: str, *, who: str, why: str, keep: bool = True) -> dict[str, Any]:
    """Let the newest held generation of a batch pass: what passed its checks loads once validate is run again.

    One that a later generation has overtaken can be released too: runs that are bound to it are held by it. Of several
    the newest that nobody has let pass yet is meant. With keep=False it only says what it would release. Raises
    RequestError for a batch that the pipeline does not have or that is not held; nothing is changed then.
    """
    found = engine.ledger.generations(pipeline, batch_id)
    held = [g for g in found if g.state is GenerationState.HELD]
    if not held:
        state = f"is {found[-1].state.value}" if found else "has no such batch"
        raise RequestError(
            f"Batch {printable(batch_id, 80)} of pipeline {printable(pipeline, 80)} is not held ({state}); nothing was "
            f"released. `eventlog batches --pipeline` shows which are."
        )
    plan, _ = engine.ledger.batch(batch_id)
    passed = let_pass(engine, plan.stream, pipeline)
    newest = next((g for g in reversed(held) if (batch_id, g.generation) not in passed), held[-1])
    figures = dict(newest.accounting or {})
    if keep:
        deciding.decide(
            engine,
            Decision(
                kind=RELEASE,
                stream=plan.stream,
                epoch=plan.epoch,
                pipeline=pipeline,
                batch_id=batch_id,
                who=who,
                why=why,
                at=engine.clock(),
                payload={"generation": newest.generation, "recipe": newest.recipe},
            ),
        )
    return {
        "pipeline": pipeline,
        "batch_id": batch_id,
        "generation": newest.generation,
        "quarantine": figures.get("quarantine", {}),
        "checks": figures.get("checks", {}),
        "kept": keep,
    }
