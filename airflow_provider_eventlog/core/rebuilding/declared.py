"""Declarations of pipelines: registered in the ledger, written down in staging once for each recipe.

A record holds what the pipeline declared when a plan first saw the recipe, and which one in order it was: the highest
number is the recipe that a rebuilt ledger takes for the current one. Later changes of what is not part of the recipe
(retention, max_quarantine_ratio, the stream's own knobs) stand in the ledger only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.declare.pipeline import Pipeline


def register(engine: Engine, pipeline: Pipeline, *, replay: bool) -> None:
    """Register a pipeline under its recipe, written down first: what the ledger has registered stands in staging.

    replay  the run was planned before: a recipe that is known but not the current one came back with a cleared run, and
            does not become the current one again

    Raises the staging and ledger errors of `core.errors`; a retry does what is missing.
    """
    stream, name, recipe, text = pipeline.stream.name, pipeline.name, pipeline.recipe, pipeline.serialize()
    path = paths.recipe(stream, name, recipe)
    written = engine.staging.exists(path)
    # Every plan passes here, and nearly always finds this.
    if written and (name, stream, recipe, text) in engine.ledger.pipelines():
        return
    known = engine.ledger.audit(stream).declarations(name)
    if not written or recipe not in known:
        _write_down(engine, path, pipeline, len(known.keys() | {recipe}), text)
    if not (replay and recipe in known):
        engine.ledger.register_pipeline(name, stream, recipe, text)


def _write_down(engine: Engine, path: str, pipeline: Pipeline, number: int, text: str) -> None:
    data = records.dump(declaration_record(pipeline.name, pipeline.stream.name, pipeline.recipe, number, text))

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    # Not compared with a record that stands: the same recipe may be declared with another retention.
    engine.staging.publish(path, write)


def declaration_record(pipeline: str, stream: str, recipe: str, number: int, text: str) -> Mapping[str, Any]:
    """The record of a recipe; `text` is `Pipeline.serialize()`."""
    return {
        "pipeline": pipeline,
        "stream": stream,
        "recipe": recipe,
        "number": number,
        "declaration": json.loads(text),
    }
