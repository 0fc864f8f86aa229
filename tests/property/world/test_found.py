"""What the simulated world has found, each in its smallest form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from airflow_provider_eventlog.core.errors import BatchHeldError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import RunRequest
from tests.property.world.declared import HELD, T0
from tests.property.world.world import Run, World


@pytest.fixture
def world(shared_sessions: None) -> Iterator[World]:
    """A topic with six records in one partition."""
    made = World(Counter())
    made.log.create(1)
    for number in range(6):
        made.append(0, made.now, {"k": "a", "v": number, "ms": T0}, None)
    yield made
    made.close()


def test_no_loss_of_a_forgotten_back_fill(world: World) -> None:
    """Offsets of a back-fill that a lost ledger alone knew are named, by rebuild and audit, until they are taken."""
    asked = RunRequest("offsets", ranges=(OffsetRange(0, 1, 3),))
    assert world.go(world.staged(Run("fill", "rows", asked), "plan", 0)).error is None
    assert world.go(world.staged(Run("rest", "rows", RunRequest("since_last")), "all", 0)).error is None
    made = world.rebuild()
    assert made is not None
    assert [problem["mend"].partition("--offsets ")[2] for problem in made["problems"]] == ['"0:1-3"']
    assert [f["code"] for f in world.fsck()["findings"] if f["damaged"]] == ["gap"]
    assert world.go(world.staged(Run("fill", "rows", asked), "all", 0)).error is None
    assert [f["code"] for f in world.fsck()["findings"] if f["damaged"]] == []
    assert sum(map(len, world.database["t"].rows.values())) == 5


def test_windows_pass_an_adopted_topic_of_which_nothing_was_planned(world: World) -> None:
    """Two adoptions with no run between them: windows go on with the topic of the second one."""
    since = RunRequest("since_last")
    assert world.go(world.staged(Run("first", "windows", since), "all", 0)).error is None
    for _ in range(2):
        world.recreate(same=True)
        assert world.adopt("earliest").error is None
    assert world.go(world.staged(Run("second", "windows", since), "all", 0)).error is None
    shown = world.database["w"].windows.values()
    assert {row["k"]: row["n"] for row in shown} == {"a": 5, "other": 6}


def test_a_held_generation_that_was_overtaken_can_be_released(world: World) -> None:
    """A run that is bound to a held generation finishes after its release, also where a later generation is held."""
    world.append(0, world.now, {"k": "a", "v": HELD, "ms": T0}, None)
    first = Run("first", "windows", RunRequest("offsets", ranges=(OffsetRange(0, 0, 7),)))
    again = Run("again", "windows", RunRequest("offsets", ranges=(OffsetRange(0, 0, 7),), recompute=True))
    for run in (first, again):
        assert isinstance(world.go(world.staged(run, "all", 0)).error, BatchHeldError)
    assert [attempt.result["generation"] for attempt in world.release()] == [2, 1]
    for run in (again, first):
        assert world.go(world.staged(run, "all", 0)).error is None
    assert [f for f in world.fsck()["findings"] if f["damaged"]] == []
