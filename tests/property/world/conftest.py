"""What makes steps of the simulated world cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import stages, transforming
from airflow_provider_eventlog.core.folding import advancing, partials
from tests.support.effects import SharedSession


def once(patch: pytest.MonkeyPatch, module: Any, name: str, of: Callable[..., Any]) -> None:
    """Let a function of a declaration alone say what it said before; `of` tells the declaration in its arguments."""
    function, known = getattr(module, name), dict[str, Any]()

    def asked(*given: Any) -> Any:
        key = repr(of(*given))
        if key not in known:
            known[key] = function(*given)
        return known[key]

    patch.setattr(module, name, asked)


@pytest.fixture
def shared_sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions are of one engine, and declarations are analysed once: both take longer than all else in a step."""
    connect, shared = duckdb.connect, list[duckdb.DuckDBPyConnection]()

    def connecting(file: str = ":memory:", **more: object) -> object:
        assert file == ":memory:", "the target of this world is no DuckDB file"
        shared[:] = shared or [connect(**more)]  # type: ignore[arg-type]
        return SharedSession(shared[0].cursor())

    monkeypatch.setattr(duckdb, "connect", connecting)
    once(monkeypatch, stages, "check", lambda pipeline: pipeline)
    once(monkeypatch, transforming, "_analyze", lambda _, pipeline: pipeline)
    for module in (partials, advancing):
        once(monkeypatch, module, "window_plan", lambda _, pipeline, output: (pipeline, output))
    yield
    for connection in shared:
        connection.close()
