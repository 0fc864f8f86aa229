"""Ledgers for the contract suite: every implementation, and a double that keeps nothing between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.protocols import Ledger
from tests.contract.ledgers import Reopening


@pytest.fixture
def open_handle(tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    """Opens one more handle on the test's ledger, as another process would."""
    handles: list[Ledger] = []

    def opener() -> Ledger:
        handles.append(open_ledger(tmp_path / "state" / "ledger.sqlite"))
        return handles[-1]

    yield opener
    for handle in handles:
        handle.close()


@pytest.fixture(params=["sqlite", "sqlite_reopened"])
def ledger(request: pytest.FixtureRequest, open_handle: Callable[[], Ledger]) -> Ledger:
    """A new ledger: one handle for the whole test, or a fresh handle for each call."""
    return open_handle() if request.param == "sqlite" else cast("Ledger", Reopening(open_handle))
