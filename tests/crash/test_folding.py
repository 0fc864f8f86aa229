"""Folding and applying change-sets under kills: whatever was cut off, a plain retry leaves the undisturbed world."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.crash import folding_world as world
from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case, ended
from tests.crash.steps import Step, killed, twice, walked
from tests.crash.test_zombies import arrived, stated

WORK = "tests.crash.folding_world"


@pytest.fixture(scope="module")
def steps(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The undisturbed world, unit by unit."""
    return walked(bench, tmp_path_factory.mktemp("steps"), WORK, world.UNITS)


def units(steps: list[Step], *parts: str) -> list[Step]:
    """The units of some parts, of all runs."""
    return [step for step in steps if step.unit.split(":")[1] in parts]


def shared(asked: list[Step]) -> list[tuple[Step, int]]:
    """All moments of the first run; the later ones have much the same effects, and die in turn of every other one."""
    first, *others = asked
    found = [(first, at) for at in first.moments]
    for number, step in enumerate(others):
        found += [(step, at) for at in step.moments[number :: len(others)]]
    return found


def test_deterministic_folds_after_a_kill_before_any_effect(bench: Bench, steps: list[Step]) -> None:
    """Killed in front of any effect of folding and applying: folds, files and tables as if nothing had been.

    The power fails when the retry is through: it relied on nothing that the killed attempt had left unsynced.
    """
    asked = []
    for output in ("w", "s"):
        asked += shared(units(steps, output))
    killed(bench, asked, "before", twice, lose_at_end=True)


def test_deterministic_partials_after_a_kill_before_any_effect(bench: Bench, steps: list[Step]) -> None:
    """The same for the parts that transform makes, and for validate."""
    asked = [*shared(units(steps, "transform")), *shared(units(steps, "validate"))]
    killed(bench, asked, "before", twice, lose_at_end=True)


def test_deterministic_windows_after_a_kill_behind_any_call(bench: Bench, steps: list[Step]) -> None:
    """Killed when a fold or a change-set stood but its maker did not know yet: a retry finds it done."""
    chosen = [*units(steps, "transform", "validate")[:2], *units(steps, "w", "s")]
    killed(bench, [(step, at) for step in chosen for at in step.calm["effects"]["coarse"]], "after", twice)


def test_atomic_windows_after_a_kill_in_the_middle(bench: Bench, steps: list[Step]) -> None:
    """Half a part, half a fold's file, half a commit's log: none of it is ever taken for the whole."""
    chosen = [*units(steps, "transform", "validate")[:2], *units(steps, "w", "s")]
    asked = [(step, at) for step in chosen for at in step.calm["effects"]["torn"]]
    torn = {step.names[at - 1] for step, at in asked}
    assert {"write", "target commit", "SqlLedger.record_fold", "SqlLedger.open_fold_log"} <= torn
    killed(bench, asked, "torn", twice)


def rest(steps: list[Step], key: str) -> list[str]:
    """Everything from the load of a run on, stage by stage."""
    later = [run for run in world.RUNS if run > key]
    return [f"{key}:load"] + [f"{run}:{stage}" for run in later for stage in world.STAGES]


def test_immutable_windows_under_a_zombie(bench: Bench, steps: list[Step]) -> None:
    """Stopped between a fold's files, its record and its change-set, while others finish and fold what comes later.

    Woken then, the attempt ends well or may be tried again: numbers, files and tables stay as they are.
    """
    asked = []
    for key in ("r1", "r2"):
        before = next(step for step in steps if step.unit == f"{key}:t")
        calm = bench.case(partial(loaded, before, key))
        names = calm["effects"]["names"]
        for name in ("SqlLedger.record_fold", "JournaledTarget.apply_changes"):
            asked += [(before, key, at, name) for at in calm["effects"]["coarse"] if names[at - 1] == name]
        # In front of an output's first file.
        folds = [at for at, name in enumerate(names, 1) if name == "SqlLedger.record_fold"]
        files = [at for at, name in enumerate(names, 1) if name == "LocalStaging.publish"]
        for low, high in zip([0, *folds], folds, strict=False):
            asked.append((before, key, next(at for at in files if low < at < high), "LocalStaging.publish"))
    assert len(asked) == 2 * (2 + 3 + 2)

    def one(case: Case, where: tuple[Step, str, int, str]) -> str | None:
        before, key, at, name = where
        before.set_up(case)
        stopped = {"units": [f"{key}:load"], "at": at, "mode": "stop", "done": "done-zombie", "patience": 20}
        zombie, result = case.start(work=WORK, **stopped)
        if not os.WIFSTOPPED(case.forks.wait(zombie, stopped=True)):
            return f"did not stop at {name}"
        second = case.attempt(work=WORK, units=rest(steps, key), look=False)
        os.kill(zombie, signal.SIGCONT)
        first = ended(case.forks.wait(zombie), result)
        if "effects" not in second:
            return f"{key} stopped at {at} {name} is in the way: {second}"
        found = stated(first) or difference(case.attempt(work=WORK, units=[]), steps[-1].calm) or twice(case)
        return found and f"{key} stopped at {at} {name}: {found}"

    assert bench.each(one, asked) == []


def loaded(before: Step, key: str, case: Case) -> dict[str, Any]:
    """The undisturbed load of a run as a whole."""
    before.set_up(case)
    told = case.attempt(work=WORK, units=[f"{key}:load"])
    assert "world" in told, told
    return told


@pytest.fixture(scope="module")
def caught_up(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Twelve intervals that are transformed, and what validating and loading them one by one makes of them."""
    folder = tmp_path_factory.mktemp("caught_up") / "home"

    def walk(case: Case) -> dict[str, Any]:
        prepared = [f"{key}:{stage}" for key in world.CATCH_UP for stage in ("plan", "transform")]
        told = case.attempt(work=WORK, units=prepared)
        assert "world" in told, told
        shutil.copytree(case.folder / "home", folder)
        return case.attempt(work=WORK, units=[f"{key}:{s}" for key in world.CATCH_UP for s in ("validate", "load")])

    calm = bench.case(walk)
    assert "world" in calm, calm
    numbers = [fold["n"] for fold in calm["world"]["ledger"]["fold"] if fold["output"] == "w"]
    assert sorted(numbers) == list(range(1, world.INTERVALS + 1))
    return folder, calm


@pytest.mark.parametrize(("processes", "delays"), [(4, "seeded"), (6, "none")])
def test_one_log_of_loads_at_once(
    bench: Bench, caught_up: tuple[Path, dict[str, Any]], processes: int, delays: str
) -> None:
    """A catch-up's intervals are validated and loaded in random order by many processes that leave a barrier together.

    One log with consecutive numbers, the same files, the same tables as one by one, and no change-set twice.
    """
    prepared, calm = caught_up

    def one(case: Case, seed: int) -> str | None:
        shutil.copytree(prepared, case.folder / "home", dirs_exist_ok=True)
        order = random.Random(seed).sample(list(world.CATCH_UP), world.INTERVALS)
        shares = [
            {"units": [f"{key}:{s}" for key in order[side::processes] for s in ("validate", "load")],
             "done": f"done-{side}", "patience": 30, "work": WORK, "look": False}
            for side in range(processes)
        ]  # fmt: skip
        gate = case.folder / "gate"
        with gate.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            started = [
                case.start(gate=str(gate), jitter=seed + side if delays == "seeded" else 0, **share)
                for side, share in enumerate(shares)
            ]
            if not arrived([Path(f"{gate}-{pid}") for pid, _ in started]):
                return "the attempts did not arrive at the barrier"
            fcntl.flock(handle, fcntl.LOCK_UN)
        told = [ended(case.forks.wait(pid), result) for pid, result in started]
        found = next((complaint for complaint in map(stated, told) if complaint), None)
        for share, one_told in zip(shares, told, strict=True):
            if found is None and "error" in one_told:
                found = stated(case.attempt(**share))
        return found or difference(case.attempt(work=WORK, units=[]), calm) or twice(case)

    assert bench.each(one, [1000 * processes]) == []
