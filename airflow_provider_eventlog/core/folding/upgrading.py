"""Upgrading: what becomes of the windows of a pipeline whose recipe has changed. Everything comes from staged raw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_eventlog.core import deciding, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.folding import files, head, logs, recipes
from airflow_provider_eventlog.core.folding.head import Head
from airflow_provider_eventlog.core.folding.partials import window_plan, windows_of
from airflow_provider_eventlog.core.folding.recipes import NEXT, REBUILD, REOPEN
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import Decision, FoldLog
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import frames, state
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

MODES = (NEXT, REOPEN, REBUILD)


def upgrade(engine: Engine, pipeline: Pipeline, mode: str, *, who: str, why: str, keep: bool = True) -> dict[str, Any]:
    """Let the windows go by the pipeline's recipe from now on; stopped, the same call goes on.

    from-next-batch       what is planned from now on has the new recipe, what has entered stays
    reopen-open-windows   also batches whose rows may lie in open windows are derived again; final windows stay
    rebuild               a new log takes every batch again, derived again; each window begins at revision 1

    With keep=False it only says what it would do. Raises RequestError where there is nothing to decide, and for changed
    windows in any mode but rebuild; then nothing is changed. Raises what the stages raise.
    """
    decided = next(reversed(recipes.upgrades(engine, pipeline.name, pipeline.stream.name)), None)
    if decided is not None and (decided.payload["to"], decided.payload["mode"]) == (pipeline.recipe, mode):
        payload: Mapping[str, Any] = decided.payload
        if keep:
            # A call that was killed may have decided without writing it down.
            deciding.write_down(engine, pipeline.stream.name)
    else:
        payload = _payload(engine, pipeline, mode)
        if keep:
            stream, name = pipeline.stream.name, pipeline.name
            deciding.decide(
                engine, Decision(recipes.UPGRADE, stream, None, name, None, who, why, engine.clock(), payload)
            )
    batches = [engine.ledger.batch(batch_id)[0] for batch_id in payload["batches"]]
    if keep:
        for output in windows_of(pipeline):
            number, (epoch, origin) = payload["logs"][output.name], payload["origins"][output.name]
            log = FoldLog(pipeline.name, output.name, number, epoch, origin, pipeline.recipe, mode)
            logs.open_log(engine, pipeline.stream.name, log)
        for done, batch in enumerate(batches, 1):
            engine.check_cancelled()
            stages.run(engine, pipeline, _request(batch), f"upgrade/{pipeline.recipe[:24]}/{batch.batch_id}")
            engine.progress("batches derived again", done, len(batches))
    return {
        "pipeline": pipeline.name,
        **{name: payload[name] for name in ("mode", "from", "to", "changes", "logs")},
        "batches": len(batches),
        "offsets": sum(batch.length for batch in batches),
        "kept": keep,
    }


def _payload(engine: Engine, pipeline: Pipeline, mode: str) -> dict[str, Any]:
    now = recipes.current(engine, pipeline)
    if now is None:
        raise RequestError(
            f"Pipeline {pipeline.name!r} has no windows that are folded yet: they go by its recipe as it is."
        )
    if now == pipeline.recipe:
        raise RequestError(
            f"The windows of pipeline {pipeline.name!r} go by its recipe already ({now[:12]}); nothing was decided."
        )
    old = json.loads(engine.ledger.audit(pipeline.stream.name).declarations(pipeline.name)[now])
    heads = {output.name: _head(engine, pipeline, output) for output in windows_of(pipeline)}
    known = [one for one in heads.values() if one is not None]
    if mode != REBUILD:
        _refuse_other_windows(engine, pipeline, old, heads)
    numbers, origins = {}, {}
    for name, found in heads.items():
        if mode == REBUILD:
            first = found or known[0]
            numbers[name] = 1 if found is None else found.log.log + 1
            origins[name] = [first.log.epoch, first.log.origin]
        else:
            # An output that is new begins where the others stand.
            numbers[name] = 1 if found is None else found.log.log
            furthest = max(known, key=lambda one: (one.epoch, one.instant))
            origins[name] = [furthest.epoch, furthest.instant]
    return {
        "mode": mode,
        "from": now,
        "to": pipeline.recipe,
        "changes": recipes.difference(old, pipeline.canonical()),
        "logs": numbers,
        "origins": origins,
        "batches": _again(engine, pipeline, mode, known),
    }


def _head(engine: Engine, pipeline: Pipeline, output: Windows) -> Head | None:
    log = logs.newest(engine, pipeline.name, output.name)
    if log is None:
        return None
    last = engine.ledger.last_fold(log.pipeline, log.output, log.log)
    return logs.begin(pipeline, log) if last is None else head.after(log, last)


def _refuse_other_windows(
    engine: Engine, pipeline: Pipeline, old: Mapping[str, Any], heads: Mapping[str, Head | None]
) -> None:
    """Raise RequestError where what is folded does not fit what would be folded from now on."""
    before = {o["windows"]["name"]: o for o in old["outputs"] if "windows" in o}
    with session(threads=1) as connection:
        for output in windows_of(pipeline):
            at = heads[output.name]
            if at is None:
                continue
            plan = window_plan(connection, pipeline, output)
            folds = engine.ledger.folds(pipeline.name, output.name, at.log.log)
            kinds = {files.STATE: plan.state, files.DELTA: state.delta_schema(plan)}
            found = [
                (kind, table.schema)
                for fold in folds[-1:]
                for kind in kinds
                for table in files.read(engine, fold, kind)
            ]
            other = [kind for kind, schema in found if not schema.equals(kinds[kind])]
            if other or before.get(output.name) != output.canonical():
                raise RequestError(
                    f"Output {output.name!r} of pipeline {pipeline.name!r} has other windows, keys, aggregates or a "
                    f"table other than before: what is folded does not go on from there. Use --{REBUILD}, or give the "
                    f"changed output another name. Nothing was decided."
                )


def _again(engine: Engine, pipeline: Pipeline, mode: str, heads: list[Head]) -> list[str]:
    """Ids of the batches that are derived again, in chain order, those outside of the chain behind them."""
    if mode == NEXT:
        return []
    taken = {generation.batch_id for generation in engine.ledger.generations(pipeline.name)}
    if mode == REOPEN:
        taken &= {batch_id for at in heads for batch_id in _in_open_windows(engine, pipeline, at)}
    return [b.batch_id for b, _ in engine.ledger.batches(pipeline.stream.name) if b.batch_id in taken]


def _in_open_windows(engine: Engine, pipeline: Pipeline, at: Head) -> list[str]:
    """Batches of which a row may lie in a window that is open."""
    output = next(o for o in windows_of(pipeline) if o.name == at.log.output)
    with session(threads=1) as connection:
        plan = window_plan(connection, pipeline, output)
        found = head.state_of(engine, connection, plan, at.log, at.n)
    open_ones = frames.number(found, "_kind") == state.OPEN
    starts = frames.number(found, "_start")[open_ones]
    if not len(starts):
        return []
    oldest = int(starts.min()) // 1000
    entered = head.current(engine.ledger.folds(pipeline.name, at.log.output, at.log.log))
    return [
        batch_id
        for batch_id, fold in entered.items()
        if fold.accounting["times"] and fold.accounting["times"]["greatest"] >= oldest
    ]


def _request(batch: BatchPlan) -> RunRequest:
    if batch.from_instant is not None and batch.to_instant is not None:
        return RunRequest("interval", (batch.from_instant, batch.to_instant))
    return RunRequest("offsets", ranges=batch.ranges, epoch=batch.epoch)
