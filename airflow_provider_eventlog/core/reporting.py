"""What the ledger knows, put together for people: read only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from airflow_provider_eventlog.core import accounting
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, between, subtract
from airflow_provider_eventlog.core.planning.chain import LOSS
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import GenerationRecord, Ledger


def status(ledger: Ledger) -> dict[str, Any]:
    """Streams with their chains and holes, pipelines with how many batches stand in which state."""
    streams = [_stream(ledger, name) for name, _ in ledger.streams() if ledger.epochs(name)]
    pipelines = []
    for name, stream, recipe, _ in ledger.pipelines():
        states = Counter(b["state"] for b in batches(ledger, name))
        pipelines.append(
            {
                "pipeline": name,
                "stream": stream,
                "recipe": recipe,
                "batches": {s: states[s] for s in ("planned", "held", "validated", "loaded", "not taken")},
            }
        )
    return {"streams": streams, "pipelines": pipelines}


def _stream(ledger: Ledger, name: str) -> dict[str, Any]:
    epoch = ledger.epochs(name)[-1]
    found = [plan for plan, _ in ledger.batches(name, epoch.epoch)]
    cuts = ledger.cuts(name, epoch.epoch)
    losses = ledger.losses(name, epoch.epoch)
    return {
        "stream": name,
        "epoch": epoch.epoch,
        "topic": epoch.identity.topic,
        "topic_id": epoch.identity.topic_id,
        "cluster_id": epoch.identity.cluster_id,
        "batches": len(found),
        "offsets": sum(b.length for b in found),
        "newest_cut": when(cuts[-1].instant) if cuts else None,
        "holes": holes(cuts, found),
        "lost": sum(map(len, losses)),
        "losses": [str(r) for r in losses],
        "recorded_losses": [{"at": when(d.at), "why": d.why} for d in ledger.decisions(name, LOSS)],
    }


def holes(cuts: Iterable[Cut], found: Iterable[BatchPlan]) -> list[dict[str, Any]]:
    """Segments that no chain batch has taken, with the offsets that off-chain batches do not cover either."""
    plans = list(found)
    taken = {b.from_instant for b in plans if b.kind == "chain"}
    covered = [r for b in plans for r in b.ranges]
    result = []
    for low, high in pairwise(cuts):
        if low.instant in taken:
            continue
        rest = subtract(between(low, high), covered)
        result.append(
            {
                "from": when(low.instant),
                "to": when(high.instant),
                "offsets": sum(map(len, rest)),
                "ranges": [str(r) for r in rest],
            }
        )
    return result


def batches(ledger: Ledger, pipeline: str) -> list[dict[str, Any]]:
    """Every batch of the pipeline's stream, chain first, with the newest generation that this pipeline has of it."""
    stream = next(s for p, s, _, _ in ledger.pipelines() if p == pipeline)
    newest: dict[str, GenerationRecord] = {}
    for generation in ledger.generations(pipeline):
        newest[generation.batch_id] = generation
    return [_batch(plan, newest.get(plan.batch_id)) for plan, _ in ledger.batches(stream)]


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


def totals(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Sums over the batches that have figures."""
    figures = [b["accounting"] for b in found if b["accounting"]]
    return {
        "landing": accounting.total((f["landing"] for f in figures), accounting.LANDING),
        "transform": accounting.total((f["transform"] for f in figures), accounting.TRANSFORM),
    }
