"""The undisturbed world of a module that is driven in units, step by step, and kills at the effects of a step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import folding_world
from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case


@dataclass(frozen=True)
class Step:
    """A unit of the undisturbed world: what stood before it, what it did and what it left."""

    work: str
    unit: str
    before: Path = field(repr=False)
    applied: list[str] = field(repr=False)
    calm: dict[str, Any] = field(repr=False)

    def attempt(self, case: Case, **more: Any) -> dict[str, Any]:
        """The unit as a worker does it, with a fault or without."""
        return case.attempt(work=self.work, units=[self.unit], **more)

    def set_up(self, case: Case) -> None:
        """Put what stood before into a case, all of it synced."""
        home = case.folder / "home"
        shutil.copytree(self.before, home, dirs_exist_ok=True)
        (case.folder / "disk.json").write_text(json.dumps(folding_world.settled(home)))
        (case.folder / "applied").write_text("".join(f"{one}\n" for one in self.applied))

    @property
    def names(self) -> list[str]:
        """The effects of the unit."""
        found: list[str] = self.calm["effects"]["names"]
        return found

    @property
    def moments(self) -> list[int]:
        """The effects in front of which something else stands on the disk than in front of the one before.

        A call of a protocol does nothing before the first effect within it, and a statement nothing before its commit.
        """
        within = ("target CREATE", "target COMMENT", "target DELETE", "target INSERT")
        coarse = self.calm["effects"]["coarse"]
        return [at for at, name in enumerate(self.names, 1) if at not in coarse and name not in within]


def walked(bench: Bench, folder: Path, work: str, units: Sequence[str]) -> list[Step]:
    """The undisturbed world, unit by unit."""

    def walk(case: Case) -> list[Step]:
        found = []
        for number, unit in enumerate(units):
            before, applied = folder / str(number), folding_world.applied(case.folder)
            shutil.copytree(case.folder / "home", before)
            told = case.attempt(work=work, units=[unit])
            assert "world" in told, told
            found.append(Step(work, unit, before, applied, told))
        return found

    made: list[Step] = bench.case(walk)
    return made


def killed(
    bench: Bench,
    asked: Iterable[tuple[Step, int]],
    mode: str,
    also: Callable[[Case], str | None] = lambda _: None,
    **retry: Any,
) -> None:
    """Kill at each of the effects; retry; compare. A kill that did not happen is a failure too."""

    def one(case: Case, where: tuple[Step, int]) -> str | None:
        step, at = where
        name = f"{step.unit} killed {mode} {at} {step.names[at - 1]}"
        step.set_up(case)
        told = step.attempt(case, at=at, mode=mode, look=False)
        if told.get("killed") is None:
            return f"{name}: was not killed"
        found = difference(step.attempt(case, **retry), step.calm) or also(case)
        return found and f"{name}: {found}"

    chosen = list(asked)
    assert chosen
    complaints = bench.each(one, chosen)
    assert complaints == [], complaints[0][:3000]


def twice(case: Case) -> str | None:
    """Change-sets that attempts were told of as taken more than once."""
    taken = folding_world.applied(case.folder)
    again = sorted({one for one in taken if taken.count(one) > 1})
    return f"taken twice: {', '.join(again)}" if again else None
