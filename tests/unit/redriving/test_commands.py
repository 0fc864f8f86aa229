"""`eventlog redrive` and `eventlog quarantine drop`: what they take, say and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.cli import redrive
from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
from tests.support.listlog import FIRST_MS, ListLog, engine_over

DECLARED = """
from airflow_provider_eventlog.declare import *
p = Pipeline("p", stream=Stream("orders", name="s", start="earliest", decode=Json({"id": "BIGINT"})),
             outputs=[Rows(DuckDB("out.duckdb", table="t"))], max_quarantine_ratio=1.0,
             checks=[Check("small", "id < %d", on_fail="quarantine")])
"""
Call = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A batch of four records: two were stopped by the check, one does not decode."""
    log = ListLog([*(json.dumps({"id": i}).encode() for i in (1, 20, 30)), b"x"])
    ticks = iter(range(10**9))
    with engine_over(log, tmp_path, lambda: FIRST_MS + 10_000_000 + next(ticks)) as made:
        stream = Stream("orders", name="s", start="earliest", decode=Json({"id": "BIGINT"}))
        checks = [Check("small", "id < 10", on_fail="quarantine")]
        outputs = [Rows(DuckDB("out.duckdb", table="t"))]
        first = Pipeline("p", stream=stream, outputs=outputs, checks=checks, max_quarantine_ratio=1.0)
        stages.run(made, first, RunRequest("since_last"), "r")
        yield made


@pytest.fixture
def call(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command over the engine's stores; exit code, JSON document, what was said."""
    (tmp_path / "p.py").write_text(DECLARED % 25)
    monkeypatch.setattr(redrive, "engine_of", lambda *_, **__: engine)
    monkeypatch.setattr(Engine, "close", lambda _: None)
    where = ["--ledger", str(tmp_path / "ledger.sqlite"), "--staging-root", str(tmp_path / "staging")]

    def run(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main([*words, *where, "--output", "json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def loaded(home: Path) -> list[int]:
    with duckdb.connect(str(home / "out.duckdb"), read_only=True) as connection:
        return [i for (i,) in connection.execute("select id from t order by id").fetchall()]


def test_a_dry_run_tells_and_a_run_does(call: Call, engine: Engine, tmp_path: Path) -> None:
    """Dry, the command says which records of which batches; then it runs them, and says who and why afterwards."""
    where = f"{tmp_path}/p.py:p"
    code, told, _ = call("redrive", "--pipeline", where, "--why", "limit", "--dry-run")
    batch = engine.ledger.generations("p")[0].batch_id
    assert (code, told["records"]) == (0, [{"batch_id": batch, "records": 3, "rows": 3}])
    assert (told["run"]["batches"][0]["mode"], engine.ledger.decisions("s")) == ("redrive", ())
    words = ("--pipeline", where, "--check", "small", "--batch", batch, "--why", "limit", "--who", "eve")
    code, done, _ = call("redrive", *words)
    assert (code, done["load"]["batches"][0]["generation"], loaded(tmp_path)) == (0, 2, [1, 20])
    (decision,) = engine.ledger.decisions("s", "redrive")
    assert (decision.who, decision.why, decision.payload["ranges"]) == ("eve", "limit", "0:1-3")


def test_what_is_shown_to_people(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As text a dry run ends with the sentence that nothing was changed, and a run shows what was loaded."""
    where = ["redrive", "--pipeline", f"{tmp_path}/p.py:p", "--why", "limit"]
    call("quarantine", "list", "--pipeline", "p")
    assert main([*where, "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("dry run: nothing was changed\n")
    assert main(where) == 0
    assert "loaded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch", "none"), "has no batch"),
        (("--offsets", "7"), "Cannot read the offset range"),
        (("--offsets", "0:0-1"), "Nothing in the quarantine"),
        (("--dag-id", "d"), "--dag-id goes with --in-airflow"),
    ],
    ids=str,
)
def test_wrong_words_change_nothing(
    call: Call, engine: Engine, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    """Unknown batches and offsets, and words without meaning, end with code 2 and a sentence."""
    code, _, said = call("redrive", "--pipeline", f"{tmp_path}/p.py:p", "--why", "w", *words)
    assert (code, message in said) == (2, True), said
    assert (len(engine.ledger.generations("p")), engine.ledger.decisions("s")) == (1, ())


def test_dropping_is_an_act_with_a_reason(call: Call, engine: Engine) -> None:
    """Drop needs a reason, tells first if asked to, and its rows show under --dropped only."""
    assert call("quarantine", "drop", "--pipeline", "p", "--reason", "not_json")[0] == 2
    words = ("--pipeline", "p", "--reason", "not_json")
    assert call("quarantine", "drop", *words, "--why", "noise", "--dry-run")[1]["kept"] is False
    assert engine.ledger.decisions("s") == ()
    code, told, _ = call("quarantine", "drop", *words, "--why", "noise", "--who", "eve")
    assert (code, told["batches"][0]["records"]) == (0, 1)
    (listed,) = call("quarantine", "list", "--pipeline", "p")[1]["batches"]
    assert (listed["codes"], listed["dropped"]) == ({"check": 2}, 1)
    shown = [call("quarantine", "show", "--pipeline", "p", *more)[1]["rows"] for more in ((), ("--dropped",))]
    assert [[r["_offset"] for r in rows] for rows in shown] == [[1, 2], [3]]
    assert call("quarantine", "drop", *words, "--why", "noise")[1]["before"] == 1
    assert call("quarantine", "drop", *words[:3], "too_deep", "--why", "noise")[0] == 2
