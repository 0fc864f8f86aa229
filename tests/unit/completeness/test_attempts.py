"""Several attempts at one verdict: whoever writes it down first has made it, and a kill behind that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.errors import StagingUnavailableError
from tests.unit.completeness.world import World, counts, interval, of, pipeline, up_to_transformed


class Between:
    """A staging that does something once, before it publishes a path with a word in it."""

    def __init__(self, staging: Any, word: str, act: Callable[[], None]) -> None:
        self._staging, self._word, self._act, self.acted = staging, word, act, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._staging, name)

    def publish(self, path: str, write: Any) -> Any:
        self._meet(path)
        return self._staging.publish(path, write)

    def publish_json(self, path: str, record: Any) -> Any:
        self._meet(path)
        return self._staging.publish_json(path, record)

    def _meet(self, path: str) -> None:
        if self._word in path.rsplit("/", 1)[-1] and not self.acted:
            self.acted = True
            self._act()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A batch that is transformed; its producer has published a count that is too large."""
    made = World(tmp_path)
    made.send(*of("a", 1, 2), at=1)
    made.publish("a", 0, 3)
    with made.engine() as engine:
        up_to_transformed(engine, pipeline(counts(on_fail="warn")), interval(0), "r")
    return made


def validate(world: World, word: str = "", act: Callable[[], None] | None = None) -> tuple[dict[str, Any], bool]:
    """What validate says of completeness, and whether something came between."""
    with world.engine() as engine:
        between = Between(engine.staging, word, act or (lambda: None))
        engine.staging = between
        (report,) = stages.validate(engine, pipeline(counts(on_fail="warn")), "r")["batches"]
        found: dict[str, Any] = report["accounting"]["completeness"]["counts"]["counts"]
        return found, between.acted


def test_the_quicker_attempt_makes_the_verdict(world: World) -> None:
    """An attempt that saw less of the control topic and is overtaken adopts the verdict that stands."""
    quicker: list[dict[str, Any]] = []

    def overtake() -> None:
        world.publish("a", 0, 2)
        quicker.append(validate(world)[0])

    found, overtaken = validate(world, "completeness-", overtake)
    assert overtaken
    assert quicker == [found]
    assert (found["verdicts"], found["published"]["records"]) == ({"complete": 1}, 2)


@pytest.mark.parametrize("word", ["completeness-", "commit.json", ".parquet"])
def test_a_killed_attempt_leaves_nothing_to_clean_up(world: World, word: str) -> None:
    """Killed before or behind the verdict, a retry goes on; once it is written down it goes by it."""
    for file in world.home.rglob("completeness=*/**/*.parquet"):
        file.unlink()

    def killed() -> None:
        raise StagingUnavailableError("killed")

    with pytest.raises(StagingUnavailableError, match="killed"):
        validate(world, word, killed)
    world.publish("a", 0, 2)
    found, _ = validate(world)
    assert found["verdicts"] == ({"short": 1} if word == "commit.json" else {"complete": 1})
