"""Two warm processes for a machine of two cores, a folder on memory where there is one, and the undisturbed run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.crash.forks import Forks

WORKERS = 2


class Case:
    """One world in a folder of its own, and the attempts made in it."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.forks = folder, forks
        (folder / "home").mkdir(parents=True)
        self._attempts = count()

    def start(self, **case: Any) -> tuple[int, Path]:
        """Start an attempt; its process id, and where it tells how it ended."""
        number = next(self._attempts)
        result = self.folder / f"result-{number}.json"
        told = {"home": str(self.folder / "home"), "result": str(result), "attempt": number, **case}
        return self.forks.start(told), result

    def attempt(self, **case: Any) -> dict[str, Any]:
        """An attempt to its end; what it told, and under `status` how its process ended."""
        pid, result = self.start(**case)
        return ended(self.forks.wait(pid), result)

    def killed(self, **case: Any) -> bool:
        """An attempt with a fault that kills; whether it was really killed by it."""
        told = self.attempt(**case)
        return os.WIFSIGNALED(told["status"]) and os.WTERMSIG(told["status"]) == signal.SIGKILL and bool(told["killed"])


def ended(status: int, result: Path) -> dict[str, Any]:
    """What an attempt told before it ended with a wait status."""
    return {**json.loads(result.read_text()), "status": status}


class Bench:
    """Runs cases two at a time, each in a folder that goes away with it."""

    def __init__(self, root: Path) -> None:
        self._root, self._numbers = root, count()
        self._forks = [Forks() for _ in range(WORKERS)]
        self._free: SimpleQueue[Forks] = SimpleQueue()
        for forks in self._forks:
            self._free.put(forks)

    def case(self, test: Callable[[Case], Any]) -> Any:
        """Run one test on a world of its own."""
        forks = self._free.get()
        folder = self._root / str(next(self._numbers))
        try:
            return test(Case(folder, forks))
        finally:
            self._free.put(forks)
            shutil.rmtree(folder)

    def each(self, test: Callable[[Case, Any], str | None], asked: Iterable[Any]) -> list[str]:
        """Run a test for every element, two at a time; the complaints."""

        def one(element: Any) -> str | None:
            found: str | None = self.case(lambda case: test(case, element))
            return found and f"{element}: {found}"

        with ThreadPoolExecutor(WORKERS) as pool:
            return [complaint for complaint in pool.map(one, asked) if complaint]

    def close(self) -> None:
        """End the warm processes."""
        for forks in self._forks:
            forks.close()


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """The bench of the session; its files are in memory, where syncing them is free."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="eventlog-crash-", dir=memory if os.access(memory, os.W_OK) else None))
    made = Bench(root)
    yield made
    made.close()
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def calm(bench: Bench) -> dict[str, Any]:
    """The undisturbed run: what it left, and the effects that it had."""
    told: dict[str, Any] = bench.case(lambda case: case.attempt())
    assert "world" in told, told
    return told


@pytest.fixture(scope="session")
def calm_first(bench: Bench) -> dict[str, Any]:
    """The same for the first run alone."""
    told: dict[str, Any] = bench.case(lambda case: case.attempt(runs=["r1"]))
    assert "world" in told, told
    return told
