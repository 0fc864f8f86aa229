"""Verifying many files: a few at a time, in order, with progress. Hashing holds no lock of the interpreter."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.protocols import StagedFile

T = TypeVar("T")
WORKERS = max(1, min(4, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Wanted(Generic[T]):
    """A file as it is recorded, what else to prove of it once its bytes are right, and whose it is."""

    file: StagedFile
    prove: Callable[[Path], None] | None
    of: T


class Verifier:
    """Counts the bytes of all its calls towards `total`, and reports them as progress."""

    def __init__(self, engine: Engine, total: int) -> None:
        self._engine, self._total, self.done = engine, total, 0

    def each(self, wanted: Iterable[Wanted[T]]) -> Iterator[tuple[Wanted[T], EventLogError | None]]:
        """Every file with what is wrong with it, in order; at most a few are ahead of what was asked for.

        Raises ReadCancelledError between two files.
        """
        waiting: deque[tuple[Wanted[T], Future[EventLogError | None]]] = deque()
        pool = ThreadPoolExecutor(WORKERS)
        try:
            for one in wanted:
                waiting.append((one, pool.submit(self._verify, one)))
                if len(waiting) > 2 * WORKERS:
                    yield self._ended(*waiting.popleft())
            while waiting:
                yield self._ended(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _verify(self, one: Wanted[T]) -> EventLogError | None:
        try:
            local = self._engine.staging.open(one.file.path, one.file)
            if one.prove is not None:
                one.prove(local)
        except EventLogError as error:
            return error
        return None

    def _ended(self, one: Wanted[T], future: Future[EventLogError | None]) -> tuple[Wanted[T], EventLogError | None]:
        self._engine.check_cancelled()
        error = future.result()
        self.done += one.file.bytes
        self._engine.progress("verified bytes", self.done, max(self._total, self.done))
        return one, error
