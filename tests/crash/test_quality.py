"""Gate, release, skip, drop and redrive under kills, zombies and races: a plain retry leaves the undisturbed world."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case, ended
from tests.crash.quality_world import UNITS
from tests.crash.steps import Step, killed, twice, walked
from tests.crash.test_zombies import arrived, stated

WORK = "tests.crash.quality_world"
DECISIONS = ("skip", "release", "drop", "upgrade")


@pytest.fixture(scope="module")
def steps(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The undisturbed world, unit by unit."""
    units = [f"{number}/{unit}" for number, unit in enumerate(UNITS)]
    return walked(bench, tmp_path_factory.mktemp("steps"), WORK, units)


def named(steps: list[Step], *stages: str, key: str = "") -> list[Step]:
    """The units of some stages, of one run or of all."""
    found = [(step, step.unit.split("/")[-1].split(":")) for step in steps]
    return [step for step, (of, stage) in found if stage in stages and of.startswith(key)]


def test_what_the_undisturbed_world_is(steps: list[Step]) -> None:
    """The gate held, the skip, the release, the drop and the redrive took place, and the redriven row is loaded."""
    last = steps[-1].calm["world"]
    assert sorted(d["kind"] for d in last["ledger"]["decision"]) == [
        "drop",
        "redrive",
        "redrive",
        "release",
        "skip",
        "upgrade",
    ]
    causes = {fold["cause"] for fold in last["ledger"]["fold"]}
    assert {"skip", "batch", "outside", "correction"} <= causes
    assert last["shared"]["w_late"] != steps[-2].calm["world"]["shared"]["w_late"]


def test_atomic_decisions_after_a_kill_at_any_effect(bench: Bench, steps: list[Step]) -> None:
    """Release, skip, drop and upgrade, killed anywhere and asked for again: one decision, one record."""
    asked = [(step, at) for step in named(steps, *DECISIONS) for at in step.moments]
    assert {step.unit.split(":")[1] for step, _ in asked} == set(DECISIONS)
    killed(bench, asked, "before", lose_at_end=True)
    killed(bench, [(s, at) for s in named(steps, *DECISIONS) for at in s.calm["effects"]["torn"]], "torn")


def test_deterministic_gate_after_a_kill_at_any_effect(bench: Bench, steps: list[Step]) -> None:
    """Killed while validation holds a batch, or lets it pass after its release: held or validated once."""
    asked = [(step, at) for step in named(steps, "validate") for at in step.moments]
    killed(bench, asked, "before")


def test_deterministic_redrive_after_a_kill_before_any_effect(bench: Bench, steps: list[Step]) -> None:
    """Killed in front of any effect of a redrive's plan, transform and load: parts, folds and tables as undisturbed."""
    asked = [(s, at) for s in named(steps, "plan", key="again") for at in s.moments]
    # The suites of loading and folding have every one of these.
    asked += [(s, at) for s in named(steps, "load", key="again") for at in s.moments[::2]]
    for step in named(steps, "transform", key="again"):
        # Slices have the same effects: of the later ones every fourth.
        first = 1 + step.names.index("SqlLedger.record_part", step.names.index("SqlLedger.record_part") + 1)
        asked += [(step, at) for n, at in enumerate(step.moments) if at <= first or n % 4 == 0]
    killed(bench, asked, "before", twice, lose_at_end=True)


def test_deterministic_redrive_after_torn_effects(bench: Bench, steps: list[Step]) -> None:
    """Files and commits of a redrive that are torn in the middle: a retry makes them whole."""
    asked = []
    for step in named(steps, "plan", "transform", "load", key="again"):
        every = step.calm["effects"]["torn"]
        asked += [(step, at) for at in every if step.names[:at].count(step.names[at - 1]) <= 4]
    torn = {step.names[at - 1] for step, at in asked}
    assert {"write", "target commit", "SqlLedger.record_part"} <= torn
    killed(bench, asked, "torn", twice)


def test_one_effect_of_redrives_at_once(bench: Bench, steps: list[Step]) -> None:
    """Two attempts of a redrive leave a barrier together, stage by stage: one generation, each row once."""
    chosen = named(steps, "plan", "transform", "validate", "load", key="again")

    def one(case: Case, step: Step) -> str | None:
        step.set_up(case)
        barrier = case.folder / "gate"
        with barrier.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            share = {"work": WORK, "units": [step.unit], "patience": 30, "look": False, "gate": str(barrier)}
            started = [case.start(done=f"done-{side}", **share) for side in range(2)]
            if not arrived([Path(f"{barrier}-{pid}") for pid, _ in started]):
                return "the attempts did not arrive at the barrier"
            fcntl.flock(handle, fcntl.LOCK_UN)
        told = [ended(case.forks.wait(pid), result) for pid, result in started]
        found = next((complaint for complaint in map(stated, told) if complaint), None)
        return found or difference(case.attempt(work=WORK, units=[step.unit]), step.calm) or twice(case)

    assert bench.each(one, chosen * 3) == []


def test_immutable_rows_under_a_zombie_of_the_base(bench: Bench, steps: list[Step]) -> None:
    """The base's load, stopped at its commit until the redrive has loaded, changes nothing when it wakes."""
    (base,) = named(steps, "load", key="r1")
    at = next(n for n, name in enumerate(base.names, 1) if "apply_rows" in name)
    later = [step.unit for step in steps[steps.index(base) :]]

    def one(case: Case, _: int) -> str | None:
        base.set_up(case)
        stopped = {"units": [base.unit], "at": at, "mode": "stop", "done": "done-zombie", "patience": 20}
        zombie, result = case.start(work=WORK, look=False, **stopped)
        if not os.WIFSTOPPED(case.forks.wait(zombie, stopped=True)):
            return "did not stop"
        second = case.attempt(work=WORK, units=later, look=False)
        os.kill(zombie, signal.SIGCONT)
        first = ended(case.forks.wait(zombie), result)
        if "effects" not in second:
            return f"a stopped attempt is in the way: {second}"
        return stated(first) or difference(case.attempt(work=WORK, units=[]), steps[-1].calm) or twice(case)

    assert bench.each(one, [0]) == []
