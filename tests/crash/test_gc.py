"""gc and repair are killed at every effect and finish when asked again; gc beside attempts costs them nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import gc, stages
from airflow_provider_eventlog.core.errors import LedgerUnavailableError, RawExpiredError
from airflow_provider_eventlog.core.fsck import fsck
from tests.crash import upkeep, world
from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case, ended
from tests.crash.test_zombies import stated
from tests.support.effects import Effects

WORK = "tests.crash.upkeep"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world that was run, with garbage in it."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    upkeep.prepare(home)
    return home


def damage(home: Path) -> None:
    """One raw file, one part, one manifest and one commit broken or gone."""
    root = home / world.STAGING / "orders"
    sorted(root.glob("epoch=1/raw/*/*"))[0].write_bytes(b"broken")
    sorted(root.glob("epoch=1/manifests/*"))[0].write_bytes(b"{}")
    sorted(root.glob("pipeline=p/*/*/typed/*/*"))[0].unlink()
    sorted(root.glob("pipeline=p/*/*/commit.json"))[0].unlink()


def calm_of(bench: Bench, prepared: Path, **work: Any) -> dict[str, Any]:
    """The undisturbed work on a copy: what it left, and its effects."""

    def one(case: Case) -> Any:
        copy(prepared, case, **work)
        return case.attempt(work=WORK, **work)

    told: dict[str, Any] = bench.case(one)
    assert "world" in told, told
    return told


def copy(prepared: Path, case: Case, **work: Any) -> None:
    shutil.copytree(prepared, case.folder / "home", dirs_exist_ok=True)
    if work.get("repair"):
        damage(case.folder / "home")


def killed_and_asked_again(
    bench: Bench, prepared: Path, calm: dict[str, Any], asked: Sequence[int], mode: str, **work: Any
) -> None:
    def one(case: Case, at: int) -> str | None:
        copy(prepared, case, **work)
        name = calm["effects"]["names"][at - 1]
        if not case.killed(work=WORK, at=at, mode=mode, look=False, **work):
            return f"was not killed at {name}"
        found = difference(case.attempt(work=WORK, **work), calm)
        return found and f"killed {mode} {name}: {found}"

    assert asked
    assert bench.each(one, asked) == []


@pytest.mark.parametrize("mode", ["before", "after"])
def test_gc_killed_anywhere_finishes_when_asked_again(bench: Bench, prepared: Path, mode: str) -> None:
    """The same files are gone and the same decisions stand, once, whichever effect the first call died at."""
    calm = calm_of(bench, prepared)
    names = calm["effects"]["names"]
    assert {"LocalStaging.remove", "SqlPlanning.commit", "LocalStaging.publish_json", "unlink"} <= set(names)
    assert len(calm["world"]["ledger"]["decision"]) == 2
    left = [path for path in calm["world"]["files"] if path.endswith(".parquet")]
    assert left == []
    asked = range(1, len(names) + 1) if mode == "before" else calm["effects"]["coarse"]
    killed_and_asked_again(bench, prepared, calm, asked, mode)


def test_nothing_goes_before_its_decision_is_written_down(bench: Bench, prepared: Path) -> None:
    """In the order of effects: the ledger's commit, the record in staging, and only then the files."""
    remove, commit, record = "LocalStaging.remove", "SqlPlanning.commit", "LocalStaging.publish_json"
    names = [n for n in calm_of(bench, prepared)["effects"]["names"] if n in (remove, commit, record)]
    root = prepared / world.STAGING / "orders"
    raw, parts = len(list(root.glob("epoch=1/raw/*/*"))) - 1, len(list(root.glob("pipeline=p/*/*/typed/*/*")))
    # What was left behind goes first, and needs no decision.
    decided = [commit, record]
    assert names == [remove] * len(upkeep.LEFT) + decided + [remove] * parts + decided + [remove] * raw


@pytest.mark.parametrize("mode", ["before", "after"])
def test_repair_killed_anywhere_finishes_when_asked_again(bench: Bench, prepared: Path, mode: str) -> None:
    """Whichever effect the first repair died at, the second one leaves the world that one repair leaves."""
    calm = calm_of(bench, prepared, repair=True)
    names = calm["effects"]["names"]
    assert {"LocalStaging.set_aside", "LocalStaging.publish", "rename", "link"} <= set(names)
    asked = range(1, len(names) + 1) if mode == "before" else calm["effects"]["coarse"]
    killed_and_asked_again(bench, prepared, calm, asked, mode, repair=True)


def test_gc_beside_a_paused_attempt(bench: Bench, calm_first: dict[str, Any]) -> None:
    """Stopped for longer than the grace period with gc passing by: the attempt wakes up and publishes nothing wrong.

    It ends well or may be tried again, and a retry leaves the world of an undisturbed run. Every third effect is
    enough: the effects of one publish are not a multiple of three, so that all of its steps are met in turn.
    """
    names = calm_first["effects"]["names"]
    taken = []

    def one(case: Case, at: int) -> str | None:
        zombie, result = case.start(runs=["r1"], at=at, mode="stop", done="done-zombie", patience=20)
        if not os.WIFSTOPPED(case.forks.wait(zombie, stopped=True)):
            return f"did not stop at {names[at - 1]}"
        report = case.folder / "report.json"
        collected = case.attempt(work=WORK, report=str(report), look=False)
        if report.exists():
            taken.append(json.loads(report.read_text())["temporary"]["files"])
        os.kill(zombie, signal.SIGCONT)
        first = ended(case.forks.wait(zombie), result)
        found = (
            stated(first) or stated(collected) or difference(case.attempt(runs=["r1"], done="done-again"), calm_first)
        )
        return found and f"stopped at {names[at - 1]}: {found}"

    assert bench.each(one, range(1, len(names) + 1, 3)) == []
    assert sum(taken) > 5


def test_retention_beside_an_attempt(prepared: Path, tmp_path: Path) -> None:
    """Retention lets go all it may in front of each call of a run under a new recipe.

    Before the batch is planned again the run is refused, and the table is as it was; afterwards what the run needs
    stays, and it ends as if nothing had been.
    """
    before = rows(prepared)
    calls, _, _ = beside(tmp_path / "calm", prepared, 0)
    wanted = rows(tmp_path / "calm")
    planned = calls.index("SqlPlanning.commit") + 1
    let_go = 0
    for at in range(1, len(calls) + 1):
        home = tmp_path / str(at)
        _, ended_well, files = beside(home, prepared, at)
        let_go += files
        assert ended_well is (at >= planned), calls[at - 1]
        assert rows(home) == (wanted if ended_well else before), calls[at - 1]
        with world.open_world(home, 0, patience=20) as engine:
            found = fsck(engine, "orders")
        assert found["damaged"] == 0, (calls[at - 1], found["findings"])
        shutil.rmtree(home)
    assert let_go > len(calls) > 20
    assert 1 < planned < len(calls)


def beside(home: Path, prepared: Path, at: int) -> tuple[list[str], bool, int]:
    """Run r1 under a new recipe with gc in front of its call number `at`: the calls, whether it went, files let go."""
    shutil.copytree(prepared, home)
    effects, files = Effects(), 0

    def collect() -> None:
        nonlocal files
        if len(effects.names) == at:
            with world.open_world(home, 0) as engine:
                engine.clock = lambda: upkeep.LATER
                # In front of its commit a plan has the lock that a decision waits for.
                with suppress(LedgerUnavailableError):
                    done = gc.collect(engine)["streams"][0]
                    files += done["raw"]["files"] + sum(p["files"] for p in done["parts"])

    effects.yields = collect
    with world.open_world(home, 0, effects) as engine:
        try:
            stages.run(engine, upkeep.FORGETFUL.replace(version="2"), world.RUNS["r1"], "r1")
        except RawExpiredError:
            return effects.names, False, files
    return effects.names, True, files


def rows(home: Path) -> list[Any]:
    """What the table holds."""
    found: list[Any] = world.look(home)["rows"]
    return found
