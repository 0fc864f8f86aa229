"""The stores as one attempt sees them: the product's own staging and ledger, and the simulated source and target."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.holdings import StoredFile
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.protocols import LogSource, Outcome, StagedFile, Target
from airflow_provider_eventlog.core.staging.local import LocalStaging
from tests.property.world.attempts import Attempt
from tests.property.world.log import SimLog, SimSource
from tests.property.world.target import SimTarget, Table
from tests.support.effects import READS, halve

# A ledger that another attempt holds while it sleeps is given up at once.
PATIENCE_S = 0.01


class SimStaging(LocalStaging):
    """The real staging on a folder, with the simulated clock for the age of files."""

    def __init__(self, root: Path, attempt: Attempt, births: dict[str, int], clock: Callable[[], int]) -> None:
        super().__init__(root)
        self._attempt, self._births, self._clock = attempt, births, clock

    def publish(self, path: str, write: Callable[[Path], Mapping[str, str] | None]) -> tuple[Outcome, StagedFile]:
        def whole(temporary: Path) -> Mapping[str, str] | None:
            self._births[str(temporary.relative_to(self.root))] = self._clock()
            return write(temporary)

        def torn(temporary: Path) -> None:
            whole(temporary)
            halve(temporary)

        def writing(temporary: Path) -> Mapping[str, str] | None:
            return self._attempt.effect("write", lambda: whole(temporary), lambda: torn(temporary))

        def publishing() -> tuple[Outcome, StagedFile]:
            made = super(SimStaging, self).publish(path, writing)
            self._births.setdefault(path, self._clock())
            return made

        return self._attempt.effect("publish", publishing)

    def open(self, path: str, expected: StagedFile | None = None) -> Path:
        return self._attempt.effect("open", lambda: super(SimStaging, self).open(path, expected))

    def stored(self, prefix: str = "") -> Iterator[StoredFile]:
        for file in super().stored(prefix):
            yield replace(file, changed=self._births.get(file.path, 0))

    def remove(self, path: str) -> bool:
        return self._attempt.effect("remove", lambda: super(SimStaging, self).remove(path))


class SimLedger:
    """The real ledger, of which every call that is not known to read only is an effect."""

    def __init__(self, inner: Any, attempt: Attempt) -> None:
        self._inner, self._attempt = inner, attempt

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in READS or not callable(found):
            return found
        return lambda *args, **more: self._attempt.effect("ledger", lambda: found(*args, **more))

    def planning(self, stream: str, declaration: str | None) -> SimPlanning:
        return SimPlanning(self._inner.planning(stream, declaration), self._attempt)


class SimPlanning:
    """A planning transaction: a kill before its commit takes all back, as the database does for a dead process."""

    def __init__(self, inner: Any, attempt: Attempt) -> None:
        self._inner, self._attempt = inner, attempt

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *exc: object) -> None:
        if exc[0] is not None:
            self._inner.__exit__(*exc)
            return
        try:
            self._attempt.effect("commit", self._commit, self._roll_back, self._roll_back)
        finally:
            self._roll_back()

    def _commit(self) -> None:
        inner, self._inner = self._inner, None
        inner.__exit__(None, None, None)

    def _roll_back(self) -> None:
        if self._inner is not None:
            inner, self._inner = self._inner, None
            inner.__exit__(RuntimeError, None, None)


class Faulty:
    """A target whose changes are effects."""

    def __init__(self, inner: Target, attempt: Attempt) -> None:
        self._inner, self._attempt = inner, attempt

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in READS:
            return found
        return lambda *args, **more: self._attempt.effect("target", lambda: found(*args, **more))


def open_world(
    home: Path,
    attempt: Attempt,
    *,
    log: SimLog,
    database: dict[str, Table],
    births: dict[str, int],
    clock: Callable[[], int],
    chunk: int,
) -> Engine:
    """The engine of one attempt."""
    staging: Any = SimStaging(home / "staging", attempt, births, clock)
    ledger: Any = SimLedger(open_ledger(home / "ledger.sqlite", timeout_s=PATIENCE_S), attempt)
    source: LogSource = SimSource(log, attempt.look, chunk)

    def target(output: Any) -> Any:
        return Faulty(SimTarget(database, output.target), attempt)

    os.makedirs(home, exist_ok=True)
    ledger.check_staging(str(staging.root), staging.root_id())
    return Engine(ledger, staging, lambda _: source, target, clock=clock)
