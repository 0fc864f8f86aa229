"""Which earlier batches a verdict is about: the unbroken run of landed chain batches that the pipeline has taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import BatchState
from airflow_provider_eventlog.declare.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Reach:
    """Chain batches before one, in order.

    since  the instant (ms) from which all up to that batch is there; None: from the beginning of the log
    why    what stops it there, for people
    """

    batches: tuple[BatchPlan, ...]
    since: int | None
    why: str


def before(engine: Engine, pipeline: Pipeline, batch: BatchPlan, enough: Callable[[BatchPlan], bool]) -> Reach:
    """The batches before a chain batch, back to the first of which `enough` is true, which is left out.

    A hole, and a batch that is not landed or that the pipeline has not taken, ends it too: what lies before cannot be
    counted. Then, and at the beginning of the chain, `since` is where the run begins.
    """
    assert batch.from_instant is not None
    chain = [(b, state) for b, state in engine.ledger.batches(batch.stream, batch.epoch) if b.kind == "chain"]
    by_end = {b.to_instant: (b, state) for b, state in chain}
    taken = {g.batch_id for g in engine.ledger.generations(pipeline.name)}
    found: list[BatchPlan] = []
    since: int | None = batch.from_instant
    why = ""
    while since in by_end:
        one, state = by_end[since]
        if enough(one):
            break
        if state is not BatchState.LANDED or one.batch_id not in taken:
            what = "not landed yet" if state is not BatchState.LANDED else "not taken by this pipeline"
            why = f"batch {one.batch_id}, which ends at {when(since or 0)}, is {what}"
            break
        found.append(one)
        since = one.from_instant
    else:
        first = all(b.from_instant is None or b.from_instant >= (since or 0) for b, _ in chain)
        if first and batch.epoch == 1 and pipeline.stream.start == "earliest":
            since = None
        elif first:
            why = f"the chain begins at {when(since or 0)}"
        else:
            why = f"a hole ends at {when(since or 0)}"
    return Reach(tuple(reversed(found)), since, why)
