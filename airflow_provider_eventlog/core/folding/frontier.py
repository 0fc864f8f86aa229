"""What enters the windows next: the chain batch at the frontier, or what the frontier waits for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import recipes
from airflow_provider_eventlog.core.folding.head import Head
from airflow_provider_eventlog.core.folding.partials import kind_of
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import Decision, FoldLog, GenerationRecord, GenerationState

SKIP = "skip"
READY = (GenerationState.VALIDATED, GenerationState.LOADED)


@dataclass(frozen=True, slots=True)
class Enter:
    """A chain batch that is validated."""

    batch: BatchPlan
    generation: GenerationRecord


@dataclass(frozen=True, slots=True)
class Pass:
    """A segment that somebody decided to pass: a hole, or a batch that is not validated."""

    batch: BatchPlan | None
    epoch: int
    since: int
    until: int
    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can enter; `why` is for people, and empty if there simply is no more."""

    why: str = ""
    batch_id: str | None = None


def next_of(engine: Engine, stream: str, head: Head) -> Enter | Pass | Wait:
    """What the frontier meets; chain batches of a later epoch follow the last one of the epoch before."""
    pipeline = head.log.pipeline
    epoch, instant = head.epoch, head.instant
    batch = _first(engine, stream, epoch, instant)
    later = [e.epoch for e in engine.ledger.epochs(stream) if e.epoch > epoch] if batch is None else []
    for following in later:
        # What was never planned of a topic that is gone can never come; the adopted one begins where it was adopted.
        batch = _first(engine, stream, following, 0)
        if batch is not None and batch.from_instant is not None:
            epoch, instant = following, batch.from_instant
            break
    if batch is None or batch.from_instant is None or batch.to_instant is None:
        return Wait()
    if batch.from_instant > instant:
        skip = _decided(engine, pipeline, stream, epoch, instant, batch.from_instant)
        if skip is not None:
            return Pass(None, epoch, instant, batch.from_instant, skip.why)
        return Wait(
            f"a hole from {when(instant)} to {when(batch.from_instant)} that no run has planned. Run its intervals "
            f"(eventlog backfill --holes), or let the windows pass it: eventlog skip --hole {when(instant)}"
        )
    ready = newest(engine, stream, head.log, batch.batch_id)
    if ready is not None:
        return Enter(batch, ready)
    skip = _decided(engine, pipeline, stream, epoch, batch.from_instant, batch.to_instant, batch.batch_id)
    if skip is not None:
        return Pass(batch, epoch, batch.from_instant, batch.to_instant, skip.why)
    return Wait(_waits_for(engine, pipeline, batch), batch.batch_id)


def newest(engine: Engine, stream: str, log: FoldLog, batch_id: str) -> GenerationRecord | None:
    """The newest generation of a batch that may enter: validated, of a recipe that the log knows, with its results."""
    known = recipes.accepted(engine, stream, log)
    ready = [g for g in engine.ledger.generations(log.pipeline, batch_id) if g.state in READY and g.recipe in known]
    if not ready:
        return None
    parts = engine.ledger.parts(log.pipeline, batch_id, ready[-1].generation)
    kinds = Counter(part.kind for part in parts)
    # One of a recipe without this output has typed rows alone.
    return ready[-1] if kinds[kind_of(log.output)] == kinds[TYPED] else None


def _first(engine: Engine, stream: str, epoch: int, instant: int) -> BatchPlan | None:
    return next(iter(engine.ledger.chain_from(stream, epoch, instant)), None)


def _decided(
    engine: Engine, pipeline: str, stream: str, epoch: int, since: int, until: int, batch_id: str | None = None
) -> Decision | None:
    """The decision to pass a segment: of this batch, or of a span that holds it all."""
    for decision in engine.ledger.decisions(stream, SKIP):
        if decision.pipeline != pipeline:
            continue
        if decision.batch_id is not None:
            if decision.batch_id == batch_id:
                return decision
        elif decision.epoch == epoch and decision.payload["from"] <= since and until <= decision.payload["to"]:
            return decision
    return None


def _waits_for(engine: Engine, pipeline: str, batch: BatchPlan) -> str:
    assert batch.from_instant is not None
    assert batch.to_instant is not None
    named = f"batch {batch.batch_id} ({when(batch.from_instant)} to {when(batch.to_instant)})"
    generations = engine.ledger.generations(pipeline, batch.batch_id)
    if not generations:
        return (
            f"{named}, which pipeline {pipeline} has not taken. Run it (eventlog run --since-last takes all that is "
            f"left), or let the windows pass it: eventlog skip --batch {batch.batch_id}"
        )
    if generations[-1].state is GenerationState.HELD:
        return (
            f"{named}, which the gate holds. Correct it, release it (eventlog release), or let the windows pass it: "
            f"eventlog skip --batch {batch.batch_id}"
        )
    if generations[-1].state in READY:
        return f"{named}, which was derived under another recipe; clear its run from plan"
    return f"{named}, which is {generations[-1].state.value} and not validated yet"
