"""Skipping: the frontier is let past a hole, or past a batch that is not validated; an act with a reason, for good."""

from __future__ import annotations

from typing import Any

from airflow_provider_eventlog.core import deciding
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.folding import frontier, head, logs
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import Decision


def skip(
    engine: Engine,
    pipeline: str,
    stream: str,
    outputs: list[str],
    *,
    batch_id: str | None = None,
    hole: int | None = None,
    who: str,
    why: str,
    keep: bool = True,
) -> dict[str, Any]:
    """Decide that windows do not wait for a batch, or for the hole that begins at an instant (ms).

    The next load of any run goes on behind it, and so does `eventlog resume`. What is landed of the segment later
    enters as what lies outside of the chain. With keep=False it only says what it would decide. Raises RequestError for
    a batch that the pipeline's windows have taken or can take, and for an instant at which no frontier meets a hole.
    """
    epoch, since, until = (
        _of_batch(engine, pipeline, stream, outputs, batch_id)
        if batch_id
        else _of_hole(engine, pipeline, stream, outputs, hole)
    )
    decision = Decision(
        frontier.SKIP, stream, epoch, pipeline, batch_id, who, why, engine.clock(), {"from": since, "to": until}
    )
    if keep:
        deciding.decide(engine, decision)
    return {
        "pipeline": pipeline,
        "batch_id": batch_id,
        "from": when(since),
        "to": when(until),
        "why": why,
        "kept": keep,
    }


def _of_batch(engine: Engine, pipeline: str, stream: str, outputs: list[str], batch_id: str) -> tuple[int, int, int]:
    found = {b.batch_id: b for b, _ in engine.ledger.batches(stream)}.get(batch_id)
    named = f"Batch {printable(batch_id, 80)}"
    if found is None or found.from_instant is None or found.to_instant is None:
        raise RequestError(f"{named} is no chain batch of stream {stream!r}; nothing was skipped.")
    if any(g.state in frontier.READY for g in engine.ledger.generations(pipeline, batch_id)):
        raise RequestError(f"{named} is validated: windows take it, there is nothing to skip.")
    return found.epoch, found.from_instant, found.to_instant


def _of_hole(engine: Engine, pipeline: str, stream: str, outputs: list[str], hole: int | None) -> tuple[int, int, int]:
    met = []
    for output in outputs:
        log = logs.newest(engine, pipeline, output)
        last = None if log is None else engine.ledger.last_fold(pipeline, output, log.log)
        if log is None or last is None:
            continue
        at = head.after(log, last)
        following = next(iter(engine.ledger.chain_from(stream, at.epoch, at.instant)), None)
        if following is not None and following.from_instant is not None and following.from_instant > at.instant:
            met.append((at.epoch, at.instant, following.from_instant))
    for epoch, since, until in met:
        if since == hole:
            return epoch, since, until
    told = ", ".join(when(since) for _, since, _ in met) or "none"
    raise RequestError(
        f"No windows of pipeline {pipeline!r} wait at a hole that begins at "
        f"{'no instant' if hole is None else when(hole)}; they wait at: {told}. Nothing was skipped."
    )
