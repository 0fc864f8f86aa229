"""Where the command line finds ledger and staging."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from airflow_provider_eventlog.cli.common import stores


def given(**values: str | None) -> argparse.Namespace:
    return argparse.Namespace(**{"home": None, "staging_root": None, "ledger": None, **values})


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    for name in ("AIRFLOW_CONFIG", "AIRFLOW__EVENTLOG__STAGING_ROOT", "AIRFLOW__EVENTLOG__LEDGER_CONN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_default_lies_below_airflow_home(airflow_home: Path) -> None:
    """Without any setting the defaults of the engine hold."""
    assert stores(given()) == {"home": airflow_home, "staging_root": None, "ledger_url": None}


def test_airflows_file_and_variables_are_read(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[eventlog]` of airflow.cfg counts, a variable goes before it, an argument before both."""
    (airflow_home / "airflow.cfg").write_text("[eventlog]\nstaging_root = /from/file\n")
    assert stores(given())["staging_root"] == "/from/file"
    monkeypatch.setenv("AIRFLOW__EVENTLOG__STAGING_ROOT", "/from/variable")
    assert stores(given())["staging_root"] == "/from/variable"
    assert stores(given(staging_root="/given"))["staging_root"] == "/given"
    assert stores(given(home="/elsewhere"))["staging_root"] is None


def test_the_ledgers_connection_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `ledger_conn_id` the ledger of the tasks is the ledger of the commands."""
    monkeypatch.setenv("AIRFLOW__EVENTLOG__LEDGER_CONN_ID", "the_ledger")
    monkeypatch.setenv("AIRFLOW_CONN_THE_LEDGER", json.dumps({"conn_type": "sqlite", "host": "/data/ledger.sqlite"}))
    assert stores(given())["ledger_url"] == "/data/ledger.sqlite"
    assert stores(given(ledger="/given"))["ledger_url"] == "/given"
