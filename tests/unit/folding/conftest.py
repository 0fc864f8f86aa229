"""What the tests of folding share: a topic, a clock that stands, an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_eventlog.core.engine import Engine
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import MINUTE, T0


@pytest.fixture
def log() -> ListLog:
    """Two partitions without records."""
    return ListLog([], [])


@pytest.fixture
def engine(log: ListLog, tmp_path: Path) -> Iterator[Engine]:
    """An engine ten hours after T0; every question of the time is a millisecond later."""
    ticks = iter(range(10**9))
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE + next(ticks)) as made:
        yield made
