"""Accounting of windows: every row of a batch is in a window, late or outside, and pairs are counted apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.declare import DuckDB, Hopping, Rows
from tests.support.listlog import ListLog
from tests.unit.folding.world import CATCHING_UP, interval, pipeline, send, up_to_validated, windows


def _asked(capsys: pytest.CaptureFixture[str], home: Path, *more: str) -> Any:
    capsys.readouterr()
    where = ["--ledger", str(home / "ledger.sqlite"), "--staging-root", str(home / "staging")]
    assert main(["accounting", "--pipeline", "p", *where, *more, "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_late_for_all_windows_and_pairs(
    engine: Engine, log: ListLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What passed is placed or late, batch by batch; a batch that is not folded has no figures; pairs count windows."""
    send(log, ("a", 1, 1.0), ("a", 2, 9.0))
    # Of two windows of four minutes the first row is late for both, the second for one.
    send(log, ("a", 3, 2.0), ("a", 4, 6.5), ("a", 5, 15.0), recorded=12)
    sliding = windows(window=Hopping("4 minutes", "2 minutes"))
    made = pipeline(Rows(DuckDB("w.duckdb", table="t")), sliding, stream=CATCHING_UP)
    for number in (0, 1):
        stages.run(engine, made, interval(number), f"r{number}")
    up_to_validated(engine, made, interval(2), "r2")
    document = _asked(capsys, tmp_path)
    told = [batch["windows"]["w"] for batch in document["batches"]]
    assert told[2] is None
    names = ("rows", "placed", "late", "outside", "late_pairs", "generation")
    assert [[figures[name] for name in names] for figures in told[:2]] == [[2, 2, 0, 0, 0, 1], [3, 2, 1, 0, 3, 1]]
    for batch in document["batches"][:2]:
        figures = batch["windows"]["w"]
        passed = batch["accounting"]["transform"]["passed"]
        assert passed == figures["rows"] == figures["placed"] + figures["late"] + figures["outside"]
    one = document["batches"][1]["batch_id"]
    assert _asked(capsys, tmp_path, "--batch", one)["batches"] == [document["batches"][1]]
    where = ["--ledger", str(tmp_path / "ledger.sqlite"), "--staging-root", str(tmp_path / "staging")]
    assert main(["accounting", "--pipeline", "p", *where]) == 0
    assert "rows = placed + late + outside" in capsys.readouterr().out
