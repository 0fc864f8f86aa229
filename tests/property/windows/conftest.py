"""What the property tests of windows share."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from airflow_provider_eventlog.core.session import session


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """One session for all examples."""
    with session(threads=1) as opened:
        yield opened
