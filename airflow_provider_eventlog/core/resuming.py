"""Going on with what was left: a release or a skip that a run brings, and generations that were never loaded."""

from __future__ import annotations

from typing import Any

from airflow_provider_eventlog.core import gate
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.folding import frontier, partials, skipping
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.core.quarantined import newest
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare.pipeline import Pipeline


def decide(engine: Engine, pipeline: Pipeline, request: RunRequest) -> None:
    """Release or skip what the request names; one that stands already is not decided twice.

    Raises what `gate.release` and `skipping.skip` raise; nothing is decided then.
    """
    act = request.act
    if act is None:
        return
    stream = pipeline.stream.name
    told: dict[str, Any] = {"who": request.who, "why": request.why}
    if act.kind == "release":
        assert act.batch_id is not None
        found = engine.ledger.generations(pipeline.name, act.batch_id)
        released = gate.let_pass(engine, stream, pipeline.name)
        # An attempt that was killed before it was planned may have decided.
        if not found or (act.batch_id, found[-1].generation) not in released:
            gate.release(engine, pipeline.name, act.batch_id, **told)
        return
    outputs = [output.name for output in partials.windows_of(pipeline)]
    if not outputs:
        raise RequestError(f"Pipeline {pipeline.name!r} has no windows; nothing waits in it, nothing was skipped.")
    for decision in engine.ledger.decisions(stream, frontier.SKIP):
        same = decision.batch_id == act.batch_id and (act.hole is None or decision.payload["from"] == act.hole)
        if decision.pipeline == pipeline.name and same:
            return
    skipping.skip(engine, pipeline.name, stream, outputs, batch_id=act.batch_id, hole=act.hole, **told)


def left(engine: Engine, pipeline: Pipeline) -> list[tuple[BatchPlan, int]]:
    """Batches whose newest generation, of the recipe of now, is validated, or held and released, by chain order."""
    released = gate.let_pass(engine, pipeline.stream.name, pipeline.name)
    ready = {
        g.batch_id: g.generation
        for g in newest(engine.ledger, pipeline.name, None)
        if g.recipe == pipeline.recipe
        and (
            g.state is GenerationState.VALIDATED
            or (g.state is GenerationState.HELD and (g.batch_id, g.generation) in released)
        )
    }
    if not ready:
        return []
    batches = engine.ledger.batches(pipeline.stream.name)
    return [(batch, ready[batch.batch_id]) for batch, _ in batches if batch.batch_id in ready]
