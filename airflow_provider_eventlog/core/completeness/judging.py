"""The verdict on a generation: made once, written down before anything acts on it, and read by every later attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import gate
from airflow_provider_eventlog.core.completeness import control, counts, sequences, tally
from airflow_provider_eventlog.core.completeness.plan import CompletenessPlan, plan_of
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import BatchHeldError, CountsPendingError, IncompleteError
from airflow_provider_eventlog.core.offsets import BatchPlan, PlannedBatch
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.declare.pipeline import Pipeline

FIGURES = "completeness"


def figures_of(engine: Engine, pipeline: Pipeline, planned: PlannedBatch) -> dict[str, Any]:
    """{"completeness": ...} for a landed batch's accounting; nothing where the pipeline declares no rule.

    A generation that is committed keeps what it was committed with, one that was judged keeps its verdict: neither
    Kafka nor a table is asked again. Where a count is awaited (on_missing="hold") nothing is written down, unless
    the batch was released. Raises CompletenessDefinitionError, the source and the staging errors, and
    CountsUnavailableError.
    """
    batch, number = planned.batch, planned.generation
    if not pipeline.completeness:
        return {}
    commit = engine.staging.read_json(paths.commit(batch.stream, pipeline.name, batch.batch_id, number))
    if commit is not None:
        return {FIGURES: commit["accounting"][FIGURES]} if FIGURES in commit["accounting"] else {}
    plan = plan_of(pipeline)
    path = paths.completeness(batch.stream, pipeline.name, batch.batch_id, number, plan.declared)
    standing: Mapping[str, Any] | None = engine.staging.read_json(path)
    if standing is None:
        made = _judge(engine, pipeline, planned, plan)
        if _pending(made["figures"]) and not gate.released(engine, pipeline, planned):
            return {FIGURES: made["figures"]}
        standing = _freeze(engine, path, made)
    return {FIGURES: standing["figures"]}


def _freeze(engine: Engine, path: str, made: Mapping[str, Any]) -> Mapping[str, Any]:
    data = records.dump(made)

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    # Not compared with one that stands: another attempt may have seen less or more of the control topic.
    engine.staging.publish(path, write)
    standing = engine.staging.read_json(path)
    assert standing is not None
    return standing


def _judge(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, plan: CompletenessPlan) -> dict[str, Any]:
    batch = planned.batch
    own = tally.batch_tally(engine, pipeline.name, batch, engine.ledger.slices(batch.batch_id), plan)
    figures: dict[str, Any] = {"rules": plan.declared[:24], "counted": plan.tally[:24]}
    entries: dict[str, list[dict[str, Any]]] = {}
    chained = batch.from_instant is not None and batch.to_instant is not None and batch.kind == "chain"
    if plan.counts:
        figures["counts"] = {}
        for rule in plan.counts:
            engine.check_cancelled()
            if not chained:
                figures["counts"][rule.name] = _apart()
                continue
            judged = counts.judge(engine, pipeline, batch, plan, rule, own)
            figures["counts"][rule.name] = judged.figures
            entries[rule.name] = [one.to_json() for one in judged.entries]
    if plan.sequences:
        figures["sequences"] = _sequences(engine, pipeline, batch, plan, own, chained=chained)
    return {"batch_id": batch.batch_id, "generation": planned.generation, "figures": figures, "entries": entries}


def _apart() -> dict[str, Any]:
    """A batch outside of the chain ends at no instant, so that no interval is due with it."""
    return {"intervals": 0, "verdicts": {}, "share": None, "holds": 0, "pending": 0, "first": [], "outside": True}


def _sequences(
    engine: Engine, pipeline: Pipeline, batch: BatchPlan, plan: CompletenessPlan, own: Any, *, chained: bool
) -> dict[str, Any]:
    if chained:
        before, after = sequences.states(engine, pipeline, batch, plan, own)
    else:
        before = sequences.State(own.slice(0, 0), None)
        after = sequences.State(sequences.compose(own), batch.from_instant)
    found = {}
    with session(threads=1) as connection:
        for rule in plan.sequences:
            # Where the chain was broken nobody knows what the first number should have been.
            known = rule if after.since is None and chained else replace(rule, start=None)
            added = sequences.added(connection, known, before.rows, after.rows, own)
            found[rule.name] = {**sequences.verdict(rule, added, proved=chained), "since": after.since}
    return found


def _pending(figures: Mapping[str, Any]) -> bool:
    return any(one["pending"] for one in figures.get("counts", {}).values())


def held(planned: PlannedBatch, figures: Mapping[str, Any]) -> BatchHeldError | None:
    """Why a batch must not be published, by its accounting; None if it may."""
    found: Mapping[str, Any] = figures.get(FIGURES, {})
    batch = f"Batch {planned.batch.batch_id}, generation {planned.generation}, is held, nothing of it is loaded"
    told = [_short(name, one) for name, one in found.get("counts", {}).items() if one["holds"]]
    told += [_gaps(name, one) for name, one in found.get("sequences", {}).items() if one["holds"]]
    if told:
        return IncompleteError(
            f"{batch}: {'; '.join(told)}. The verdict stands for this generation. Let it pass with `eventlog release` "
            f"and clear validate, or run it again with recompute, which compares with what is published by then."
        )
    if not _pending(found):
        return None
    waits = [(name, one) for name, one in found["counts"].items() if one["pending"]]
    told = [
        f"rule {name!r} waits for the counts of {one['pending']} intervals, {_named(one['first'])}"
        for name, one in waits
    ]
    return CountsPendingError(
        f"{batch} yet: {'; '.join(told)}. A retry of validate looks again; `eventlog release` lets it pass without."
    )


def _short(name: str, one: Mapping[str, Any]) -> str:
    unread = f"; {one['unread']} records of the batch name no producer or time" if one["unread"] else ""
    published = control.told(one["published"])
    return (
        f"rule {name!r}: {one['holds']} of {one['intervals']} intervals are not complete ({_named(one['first'])}); "
        f"landed {one['found']} of {one['expected']} published{unread}{'; ' + published if published else ''}"
    )


def _named(entries: list[Mapping[str, Any]]) -> str:
    said = [
        f"{e['producer'] if e['producer'] is not None else 'all'!r} {e['start']} to {e['end']}: {e['verdict']}, "
        f"{e['found']} of {'unknown' if e['expected'] is None else e['expected']}"
        for e in entries[:3]
    ]
    return "; ".join(said)


def _gaps(name: str, one: Mapping[str, Any]) -> str:
    first = "; ".join(f"{g['key']} {g['low']} to {g['high']}" for g in one["first"][:3])
    return f"sequence {name!r}: {one['missing']} numbers are missing ({first}), {one['new']} are new"
