"""What the crash suite drives beside runs: gc and fsck over a world that was run before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import gc, stages
from airflow_provider_eventlog.core.fsck import fsck
from tests.crash import world
from tests.support.effects import Effects

# Of files that were made today all are old then; a fixed instant, since it stands in decisions.
LATER = 4_102_444_800_000
FORGETFUL = world.PIPELINE.replace(stream=replace(world.ORDERS, raw_retention="1 hour"), derived_retention="1 hour")
LEFT = (
    ".tmp/0123456789abcdef0123456789abcdef",
    "orders/epoch=1/raw/partition=0/0000000000000000500-0000000000000000600.parquet",
)


def prepare(home: Path) -> None:
    """Both runs, under a pipeline with retention, and files that somebody left behind."""
    for key, request in world.RUNS.items():
        with world.open_world(home, 0, patience=20) as engine:
            stages.run(engine, FORGETFUL, request, key)
    for path in LEFT:
        file = home / world.STAGING / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"left behind")


def drive(case: dict[str, Any], effects: Effects) -> None:
    """Collect, or mend; what was found is written down if the case names a report."""
    home = Path(case["home"])
    with world.open_world(home, 0, effects, case.get("patience", world.PATIENCE_S)) as engine:
        engine.clock = lambda: LATER
        if case.get("repair"):
            told = fsck(engine, "orders", repair=True, pipelines=[FORGETFUL], who="me")
        else:
            told = gc.collect(engine, who="me")
    if "report" in case:
        Path(case["report"]).write_text(json.dumps(told))
