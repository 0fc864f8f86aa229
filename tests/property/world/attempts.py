"""Attempts that take turns: each is a thread that stops at every effect until it is told to go on.

Only one thread runs at a time, and which one is decided by the test alone, so that an example runs the same twice. An
attempt that dies is never woken again while the example lasts: none of its own cleaning up happens, as after SIGKILL.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from airflow_provider_eventlog.core.errors import EventLogError

T = TypeVar("T")
DEADLINE_S = 60
# How a fault is named, and at which kinds of points it can happen.
EFFECTS = ("write", "publish", "remove", "ledger", "commit", "target")
FAULTS: dict[str, tuple[str, ...]] = {
    "killed before": EFFECTS,
    "killed after": EFFECTS,
    "torn": ("write", "commit", "reading"),
    "stopped": (*EFFECTS, "look", "read", "reading"),
    "disk full": ("write",),
    "EIO in a write": ("write",),
    "EIO after a publish": ("publish",),
    "EIO in a read": ("open",),
    "target busy": ("target",),
    "target not reached": ("target",),
    "target's answer lost": ("target",),
    "ledger not reached": ("ledger", "commit"),
    "ledger's answer lost": ("ledger", "commit"),
    "Kafka not reached": ("look", "read", "reading"),
}


class Killed(BaseException):
    """Unwinds the thread of a dead attempt when its world is thrown away."""


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th point at which it can, counted from 1."""

    name: str
    at: int


@dataclass
class Attempt:
    """One process's work; it runs only inside `advance`.

    result  what the work gave; error what it raised; dead or stopped otherwise
    """

    name: str
    work: Callable[[Attempt], Any]
    fault: Fault | None
    counts: Counter[str]
    result: Any = None
    error: BaseException | None = None
    done: bool = False
    dead: bool = False
    points: list[str] = field(default_factory=list)
    _met: int = 0
    _budget: int | None = None
    _unwinding: bool = False
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _thread: threading.Thread | None = None

    def advance(self, points: int | None = None) -> Attempt:
        """Let it run: to its end or its fault, or until it has passed so many points."""
        assert not self.done
        assert not self.dead
        self._budget = points
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        assert self._back.acquire(timeout=DEADLINE_S), f"{self.name} hangs behind {self.points[-3:]}"
        return self

    def _run(self) -> None:
        try:
            self.result = self.work(self)
        except BaseException as error:  # a thread has nobody to raise to
            self.error = error
        self.done = True
        self._back.release()

    @property
    def running(self) -> bool:
        """Whether it stands at a point and can go on."""
        return self._thread is not None and not self.done and not self.dead

    @property
    def failed(self) -> str | None:
        """The class of the error it ended with."""
        return None if self.error is None else type(self.error).__name__

    def throw_away(self) -> None:
        """Unwind the thread of an attempt that will not go on."""
        if self._thread is None or self.done:
            return
        self._unwinding = True
        self._go.release()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), f"{self.name} does not end"

    # What follows runs in the attempt's own thread.

    def effect(
        self,
        kind: str,
        do: Callable[[], T],
        torn: Callable[[], object] | None = None,
        undo: Callable[[], object] | None = None,
    ) -> T:
        """Do an effect of a kind, or what the fault makes of it; `undo` is what others see to when this one dies."""
        fault = self._arrive(kind)
        if fault is None:
            return do()
        self.counts[fault] += 1
        if fault == "torn" and torn is not None:
            torn()
        if fault == "killed before" and undo is not None:
            undo()
        if fault == "killed after":
            do()
        if fault in ("killed before", "killed after", "torn"):
            self._die()
        if fault == "stopped":
            self._wait()
            return do()
        if fault.endswith("lost") or fault == "EIO after a publish":
            do()
        raise refusal(fault)

    def look(self, name: str) -> None:
        """A request to Kafka, which may find nobody, or the attempt asleep."""
        self.effect(name if name in ("read", "reading") else "look", lambda: None)

    def _arrive(self, kind: str) -> str | None:
        if self._unwinding:
            raise Killed
        self.points.append(kind)
        if self._budget is not None:
            if self._budget == 0:
                self._wait()
            if self._budget is not None:
                self._budget -= 1
        if self.fault is None or kind not in FAULTS[self.fault.name]:
            return None
        self._met += 1
        return self.fault.name if self._met == self.fault.at else None

    def _wait(self) -> None:
        self._back.release()
        self._go.acquire()
        if self._unwinding:
            raise Killed

    def _die(self) -> NoReturn:
        self.dead = True
        self._wait()
        raise AssertionError("a dead attempt was woken")


def refusal(fault: str) -> Exception:
    """What the world says where a fault is."""
    from airflow_provider_eventlog.core import errors

    made: dict[str, Exception] = {
        "disk full": OSError(errno.ENOSPC, "No space left on device"),
        "EIO in a write": OSError(errno.EIO, "Input/output error"),
        "EIO after a publish": errors.StagingUnavailableError("The folder could not be synced: EIO."),
        "EIO in a read": errors.StagingUnavailableError("The staging store failed a read: EIO."),
        "target busy": errors.TargetBusyError("Somebody else has the target."),
        "target not reached": errors.TargetUnavailableError("The target does not answer."),
        "target's answer lost": errors.TargetUnavailableError("The connection broke."),
        "ledger not reached": errors.LedgerUnavailableError("The ledger does not answer."),
        "ledger's answer lost": errors.LedgerUnavailableError("The connection broke."),
        "Kafka not reached": errors.SourceUnavailableError("Kafka does not answer."),
    }
    return made[fault]


def stated(error: BaseException | None) -> bool:
    """Whether an attempt ended as one may: well, or with an error that the package states."""
    return error is None or isinstance(error, EventLogError)
