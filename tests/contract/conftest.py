"""Ledgers for the contract suite: every kind of database, and a double that keeps nothing between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest

from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.protocols import Ledger
from tests.contract.ledgers import Reopening
from tests.support.postgres import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL."""
    with running() as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives the address of a ledger that does not exist yet, at each call another."""
    if request.param == "sqlite":
        return lambda: str(tmp_path_factory.mktemp("ledger") / "state" / "ledger.sqlite")
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_schema


@pytest.fixture
def address(new_address: Callable[[], str]) -> str:
    """Where the test's ledger is."""
    return new_address()


@pytest.fixture
def open_handle(address: str) -> Iterator[Callable[[], Ledger]]:
    """Opens one more handle on the test's ledger, as another process would."""
    handles: list[Ledger] = []

    def opener() -> Ledger:
        handles.append(open_ledger(address))
        return handles[-1]

    yield opener
    for handle in handles:
        handle.close()


@pytest.fixture(params=["kept", "reopened"])
def ledger(request: pytest.FixtureRequest, open_handle: Callable[[], Ledger]) -> Ledger:
    """A new ledger: one handle for the whole test, or a fresh handle for each call."""
    return open_handle() if request.param == "kept" else cast("Ledger", Reopening(open_handle))
