"""The crash suite's world of the gate: a batch that is held, skipped and released, records dropped and redriven.

Driven in units, as `folding_world` does, whose topic and engine it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import BatchHeldError
from airflow_provider_eventlog.core.folding.skipping import skip
from airflow_provider_eventlog.core.folding.upgrading import upgrade
from airflow_provider_eventlog.core.offsets import parse_ranges
from airflow_provider_eventlog.core.redriving import dropping
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.selection import Selection
from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline, Rows, Tumbling, Windows
from tests.crash import folding_world, world
from tests.crash.folding_world import SHARED, interval, look, open_world, rated
from tests.support.effects import Effects

__all__ = ["RUNS", "UNITS", "drive", "look"]

WORDS = {"who": "eve", "why": "a test"}
NO_FIVE = Check("five", "v <> 5", on_fail="quarantine", tolerance=0)
FEW = Check("few", "v < 4", on_fail="quarantine")
PIPELINE = Pipeline(
    "p",
    stream=folding_world.PIPELINE.stream,
    transform=rated,
    schema={"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"},
    event_time="ts",
    checks=[NO_FIVE, FEW],
    max_quarantine_ratio=1.0,
    quarantine=DuckDB(SHARED, table="w_late"),
    outputs=[
        Rows(DuckDB(SHARED, table="t")),
        Windows(
            Tumbling("1 minute"),
            by=["k"],
            aggregates={"n": "count(*)", "s": "sum(v)"},
            on_late="amend",
            target=DuckDB(SHARED, table="w"),
        ),
    ],
)
# The first interval has a five, which holds it; the other check was too narrow.
ONE_FIVE = Check("five", "v <> 5", on_fail="quarantine", tolerance=1)
RELAXED = PIPELINE.replace(checks=[ONE_FIVE, Check("few", "v < 6", on_fail="quarantine")])
RUNS = {"r1": interval(0), "r2": interval(1), "r3": interval(2)}
REDRIVE = RunRequest("redrive", selection=Selection(checks=("few",)), parallelism=2, **WORDS)
UNITS = [
    "r1:derive", "r1:validate", "r2:derive", "r2:validate", "r2:load", "r1:skip", "r2:resume", "r1:release",
    "r1:validate", "r1:load", "r1:drop", "again:upgrade", "again:plan", "again:transform", "again:validate",
    "again:load",
]  # fmt: skip


def drive(case: dict[str, Any], effects: Effects) -> None:
    """Do what of the case's units is not done yet; a unit is named by its place, since some come twice."""
    home = Path(case["home"])
    done = home.parent / case.get("done", "done")
    for unit in case["units"]:
        if unit in world.finished(done):
            continue
        with open_world(home, effects, case.get("patience", world.PATIENCE_S)) as engine:
            work(engine, unit.split("/")[-1])
        with done.open("a") as handle:
            handle.write(f"{unit}\n")


def work(engine: Engine, unit: str) -> None:
    """One unit."""
    key, stage = unit.split(":")
    made = RELAXED if key == "again" else PIPELINE
    request = REDRIVE if key == "again" else RUNS[key]
    if stage in ("derive", "plan"):
        stages.plan(engine, made, request, key)
    if stage in ("derive", "transform", "plan"):
        for group in range(len(engine.ledger.run_plan(key, made.name).groups)):
            if stage != "transform":
                stages.land(engine, made, key, group)
            if stage != "plan":
                stages.transform(engine, made, key, group)
    elif stage == "validate":
        validate(engine, made, key)
    elif stage == "load":
        stages.load(engine, made, key)
    elif stage == "resume":
        stages.fold(engine, made)
    else:
        act(engine, stage)


def validate(engine: Engine, made: Pipeline, key: str) -> None:
    """Validate; that the first interval is held the first time is what is wanted."""
    released = engine.ledger.decisions(made.stream.name, gate.RELEASE)
    try:
        stages.validate(engine, made, key)
    except BatchHeldError:
        if key != "r1" or released:
            raise
    else:
        assert key != "r1" or released


def act(engine: Engine, stage: str) -> None:
    """What somebody decides."""
    batch = engine.ledger.run_plan("r1", "p").batches[0].batch.batch_id
    if stage == "skip":
        skip(engine, "p", "orders", ["w"], batch_id=batch, **WORDS)
    elif stage == "release":
        gate.release(engine, "p", batch, **WORDS)
    elif stage == "drop":
        dropping.drop(engine, "p", "orders", Selection(batch_id=batch, ranges=parse_ranges("1:1-2")), **WORDS)
    else:
        upgrade(engine, RELAXED, "from-next-batch", **WORDS)
