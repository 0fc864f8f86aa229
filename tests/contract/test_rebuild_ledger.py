"""A ledger is rebuilt into every kind of database, whatever kind the lost one was in."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.ledger import open_ledger
from tests.support import livedin
from tests.support.livedin import CORRECTED, answers, asked, interval
from tests.support.upkept import LEDGER


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a world that was lived in; its ledger is in SQLite."""
    home = tmp_path_factory.mktemp("livedin") / "home"
    livedin.live(home)
    return home


def test_rebuilt_ledger_answers_wherever_it_is(
    original: Path, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same answers come from a new ledger in SQLite or PostgreSQL, and the next run plans as in the old one."""
    before = answers(capsys, original)
    made = livedin.copied(original, tmp_path / "home")
    (made.home / LEDGER).unlink()
    asked(capsys, "ledger", "rebuild", "--home", str(made.home), "--ledger", address)
    assert answers(capsys, made.home, "--ledger", address) == before
    assert not (made.home / LEDGER).exists()
    ledger = open_ledger(address)
    with made.engine() as engine:
        engine.ledger.close()
        engine.ledger = ledger
        again = stages.run(engine, CORRECTED, interval(1), "again")
        following = stages.run(engine, CORRECTED, interval(2), "p-2")
    assert [b["generation"] for b in again["run"]["batches"]] == [2]
    assert [(b["generation"], b["offsets"]) for b in following["run"]["batches"]] == [(1, 5)]


def test_rebuilding_over_a_ledger_is_refused(original: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A ledger that stands is left alone in either database."""
    with_id = open_ledger(address)
    with_id.close()
    assert main(["ledger", "rebuild", "--home", str(original), "--ledger", address]) == 1
    assert "exists" in capsys.readouterr().err
    ledger = open_ledger(address)
    assert (ledger.ledger_id, ledger.streams()) == (with_id.ledger_id, ())
    ledger.close()
