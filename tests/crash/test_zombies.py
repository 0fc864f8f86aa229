"""An attempt that was taken for dead wakes up after another one has finished its work; two attempts run at once."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case, ended

ROUNDS = 20


def stated(told: dict[str, Any]) -> str | None:
    """Why an attempt ended neither with success nor with a stated, retriable error."""
    if "effects" in told or told.get("error", {}).get("retriable"):
        return None
    return f"ended with {told.get('crash') or told.get('error') or told}"


def test_immutable_under_a_zombie(bench: Bench, calm_first: dict[str, Any]) -> None:
    """Stopped in front of any effect, woken after a second attempt is through: it ends well and changes nothing.

    Where it was stopped with a lock in its hands, the second attempt says that it may be tried again, and it may.
    """
    names = calm_first["effects"]["names"]
    refused = []

    def one(case: Case, at: int) -> str | None:
        zombie, result = case.start(runs=["r1"], at=at, mode="stop", done="done-zombie", patience=20)
        if not os.WIFSTOPPED(case.forks.wait(zombie, stopped=True)):
            return f"did not stop at {names[at - 1]}"
        second = case.attempt(runs=["r1"], look=False)
        os.kill(zombie, signal.SIGCONT)
        first = ended(case.forks.wait(zombie), result)
        if "error" in second:
            refused.append(names[at - 1])
        found = stated(first) or stated(second)
        if not found and ("error" in second or "error" in first):
            first = case.attempt(runs=["r1"], done="done-again")
        found = found or difference(first, calm_first)
        return found and f"woken at {names[at - 1]}: {found}"

    assert bench.each(one, range(1, len(names) + 1)) == []
    assert set(refused) <= {"ledger commit", "SqlPlanning.commit"} | {n for n in names if n.startswith("target")}
    assert refused


@pytest.mark.parametrize("delays", ["none", "seeded"])
def test_one_effect_of_two_attempts_at_once(bench: Bench, calm: dict[str, Any], delays: str) -> None:
    """Two attempts leave a barrier together: each ends well or may be tried again, and the world is as after one."""

    def one(case: Case, number: int) -> str | None:
        gate = case.folder / "gate"
        with gate.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            jitter = [2 * number + 1, 2 * number + 2] if delays == "seeded" else [0, 0]
            started = [
                case.start(gate=str(gate), done=f"done-{side}", patience=20, jitter=jitter[side], look=False)
                for side in range(2)
            ]
            if not arrived([Path(f"{gate}-{pid}") for pid, _ in started]):
                return "the attempts did not arrive at the barrier"
            fcntl.flock(handle, fcntl.LOCK_UN)
        told = [ended(case.forks.wait(pid), result) for pid, result in started]
        found = stated(told[0]) or stated(told[1])
        return found or difference(case.attempt(done="done-again"), calm)

    assert bench.each(one, range(ROUNDS // 2)) == []


def arrived(marks: list[Path]) -> bool:
    """Whether all marks stand before half a minute is over."""
    deadline = time.monotonic() + 30
    while not all(mark.exists() for mark in marks):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
