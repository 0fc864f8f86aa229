"""Recipes of windows: a changed one waits for a decision, since what is folded under two of them is a mixture.

`upgrade` is that decision. Generations of a recipe that a log does not know never enter it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RecipeChangedError
from airflow_provider_eventlog.core.folding import logs
from airflow_provider_eventlog.core.folding.partials import windows_of
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.protocols import Decision, FoldLog
from airflow_provider_eventlog.declare.pipeline import Pipeline

UPGRADE = "upgrade"
NEXT, REOPEN, REBUILD = "from-next-batch", "reopen-open-windows", "rebuild"
_SHOWN = 160


def upgrades(engine: Engine, pipeline: str, stream: str) -> list[Decision]:
    """The decisions of a pipeline in order."""
    return [d for d in engine.ledger.decisions(stream, UPGRADE) if d.pipeline == pipeline]


def accepted(engine: Engine, stream: str, log: FoldLog) -> tuple[str, ...]:
    """The recipes whose generations enter a log, the newest one last."""
    later = [
        str(d.payload["to"])
        for d in upgrades(engine, log.pipeline, stream)
        if d.payload["logs"].get(log.output) == log.log and d.payload["to"] != log.recipe
    ]
    return (log.recipe, *later)


def current(engine: Engine, pipeline: Pipeline) -> str | None:
    """The recipe that the pipeline's windows go by now; None before the first fold log."""
    decided = upgrades(engine, pipeline.name, pipeline.stream.name)
    if decided:
        return str(decided[-1].payload["to"])
    found = [logs.newest(engine, pipeline.name, output.name) for output in windows_of(pipeline)]
    return next((log.recipe for log in found if log is not None), None)


def refuse_change(engine: Engine, pipeline: Pipeline, *, bound: bool) -> None:
    """Raise RecipeChangedError, with the difference, for windows whose recipe has changed and nobody has decided on it.

    bound  the run was planned before: one that comes back with an older recipe, as a cleared run does, changes nothing
    """
    if not windows_of(pipeline):
        return
    now = current(engine, pipeline)
    if now is None or now == pipeline.recipe:
        return
    known = engine.ledger.audit(pipeline.stream.name).declarations(pipeline.name)
    if bound and pipeline.recipe in known:
        return
    told = "; ".join(difference(json.loads(known[now]), pipeline.canonical())) if now in known else "it is not known"
    raise RecipeChangedError(
        f"Pipeline {pipeline.name!r} has windows and another recipe than they go by ({now[:12]}): {told}. Decide what "
        f"becomes of them: eventlog upgrade --pipeline FILE.py:VARIABLE --{NEXT} (what comes goes by the new one), "
        f"--{REOPEN} (open windows too) or --{REBUILD} (all, from staging). Nothing was planned."
    )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In what two declarations differ, one line for each part of the recipe."""
    apart = ("derived_retention_ms", "max_quarantine_ratio", "stream")
    lines = []
    for part in sorted((old.keys() | new.keys()) - set(apart)):
        before, after = _text(old.get(part)), _text(new.get(part))
        if before != after:
            lines.append(f"{part} was {printable(before, _SHOWN)} and is {printable(after, _SHOWN)}")
    return lines or ["its stream has another name"]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
