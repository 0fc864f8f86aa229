"""What the ledger knows, put together for people: read only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_eventlog.core import accounting
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange
from airflow_provider_eventlog.core.planning.chain import LOSS
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import GenerationRecord, GenerationState, Ledger


def status(ledger: Ledger) -> dict[str, Any]:
    """Streams with their chains and holes, pipelines with how many batches stand in which state."""
    streams = [_stream(ledger, name) for name, _ in ledger.streams() if ledger.epochs(name)]
    pipelines = []
    for name, stream, recipe, _ in ledger.pipelines():
        standing = ledger.standing(name, stream)
        states = {state.value: standing.get(state, 0) for state in GenerationState}
        not_taken = ledger.totals(stream)[0] - sum(states.values())
        batches = {**states, "not taken": not_taken}
        pipelines.append({"pipeline": name, "stream": stream, "recipe": recipe, "batches": batches})
    return {"streams": streams, "pipelines": pipelines}


def _stream(ledger: Ledger, name: str) -> dict[str, Any]:
    epoch = ledger.epochs(name)[-1]
    count, length = ledger.totals(name, epoch.epoch)
    newest = ledger.newest_instant(name, epoch.epoch)
    losses = ledger.losses(name, epoch.epoch)
    return {
        "stream": name,
        "epoch": epoch.epoch,
        "topic": epoch.identity.topic,
        "topic_id": epoch.identity.topic_id,
        "cluster_id": epoch.identity.cluster_id,
        "batches": count,
        "offsets": length,
        "newest_cut": None if newest is None else when(newest),
        "holes": [_hole(*hole) for hole in ledger.holes(name, epoch.epoch)],
        "lost": sum(map(len, losses)),
        "losses": [str(r) for r in losses],
        "recorded_losses": [{"at": when(d.at), "why": d.why} for d in ledger.decisions(name, LOSS)],
    }


def _hole(low: Cut, high: Cut, rest: Sequence[OffsetRange]) -> dict[str, Any]:
    return {
        "from": when(low.instant),
        "to": when(high.instant),
        "offsets": sum(map(len, rest)),
        "ranges": [str(r) for r in rest],
    }


def batches(ledger: Ledger, pipeline: str, batch_id: str | None = None) -> list[dict[str, Any]]:
    """Batches of the pipeline's stream, chain first, each with the newest generation that this pipeline has of it.

    batch_id  only this one of them, or none if it is not of the stream
    """
    stream = next(s for p, s, _, _ in ledger.pipelines() if p == pipeline)
    newest: dict[str, GenerationRecord] = {}
    for generation in ledger.generations(pipeline, batch_id):
        newest[generation.batch_id] = generation
    plans = [plan for plan, _ in ledger.batches(stream)] if batch_id is None else _one(ledger, stream, batch_id)
    return [_batch(plan, newest.get(plan.batch_id)) for plan in plans]


def _one(ledger: Ledger, stream: str, batch_id: str) -> list[BatchPlan]:
    try:
        plan, _ = ledger.batch(batch_id)
    except KeyError:
        return []
    return [plan] if plan.stream == stream else []


def _batch(plan: BatchPlan, generation: GenerationRecord | None) -> dict[str, Any]:
    return {
        "batch_id": plan.batch_id,
        "epoch": plan.epoch,
        "kind": plan.kind,
        "from": None if plan.from_instant is None else when(plan.from_instant),
        "to": None if plan.to_instant is None else when(plan.to_instant),
        "offsets": plan.length,
        "ranges": [str(r) for r in plan.ranges],
        "generation": generation.generation if generation else None,
        "recipe": generation.recipe if generation else None,
        "state": generation.state.value if generation else "not taken",
        "accounting": generation.accounting if generation else None,
    }


_FOLDED = ("rows", "placed", "late", "outside", "late_pairs", "corrected_late", "late_gone")


def folded(
    ledger: Ledger, pipeline: str, outputs: Iterable[str], batch_id: str | None = None
) -> dict[str, dict[str, dict[str, int]]]:
    """What became of batches in each windows output, by batch and output; a batch that was not folded is left out.

    rows = placed + late + outside, of the generation that entered first: rows in a window on time, late for all of
    theirs, in no session. late_pairs counts rows with each window that they are late for; corrections change it.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for output in outputs:
        log = max((one.log for one in ledger.fold_logs(pipeline, output)), default=None)
        if log is None:
            continue
        if batch_id is None:
            folds = ledger.folds(pipeline, output, log)
        else:
            folds = ledger.folds_about(pipeline, output, log, batch_id)
        for fold in folds:
            if fold.about is None or "generation" not in fold.accounting:
                continue
            figures = found.setdefault(fold.about, {}).setdefault(output, dict.fromkeys(_FOLDED, 0))
            figures["generation"] = int(fold.accounting["generation"])
            for name in _FOLDED:
                figures[name] += int(fold.accounting.get(name, 0))
    return found


def totals(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Sums over the batches that have figures."""
    figures = [b["accounting"] for b in found if b["accounting"]]
    return {
        "landing": accounting.total((f["landing"] for f in figures), accounting.LANDING),
        "transform": accounting.total((f["transform"] for f in figures), accounting.TRANSFORM),
    }
