"""A ledger is rebuilt into every kind of database, whatever kind the lost one was in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import deciding, retention, stages
from airflow_provider_eventlog.core.engine import open_target_at
from airflow_provider_eventlog.core.folding import listing
from airflow_provider_eventlog.core.fsck import fsck
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.protocols import Decision, Ledger, Target
from airflow_provider_eventlog.core.rebuilding.ledger import rebuild_ledger
from airflow_provider_eventlog.declare import Rows
from tests.support import livedin
from tests.support.listlog import ListLog, engine_over
from tests.support.livedin import CORRECTED, answers, asked, interval
from tests.support.postgres import Postgres
from tests.support.upkept import LEDGER
from tests.unit.folding.test_upkeep import lived_in
from tests.unit.folding.world import MINUTE, SINCE_LAST, T0, rows, send


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


def test_rebuilt_ledger_is_searched_as_the_lost_one(
    original: Path, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What plans search by is made again too: open cuts, unlanded slices, batches whose raw files went, what waits."""
    made = livedin.copied(original, tmp_path / "home")
    with made.engine() as engine:
        first = engine.ledger.batches("orders")[0][0]
        payload = retention.raw_payload([first.batch_id], files=1, size=1, retention_ms=1)
        deciding.decide(engine, Decision(retention.EXPIRED, "orders", 1, None, None, "gc", "test", 1, payload))
        before = _searched(engine.ledger)
    assert first.batch_id in before["gone"]
    (made.home / LEDGER).unlink()
    asked(capsys, "ledger", "rebuild", "--home", str(made.home), "--ledger", address)
    ledger = open_ledger(address)
    assert _searched(ledger) == before
    ledger.close()


def test_folds_come_back_into_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    """Logs, folds, watermark and frontier of a lost SQLite ledger stand in the new one; the next batch folds on."""
    log, address = ListLog([], []), postgres.new_schema()
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE) as engine:
        made, staging = lived_in(engine, log), engine.staging
        before = _folded(engine.ledger), listing.overview(engine, "p", made.canonical())
    (tmp_path / "ledger.sqlite").unlink()

    def target(output: Rows) -> Target:
        return open_target_at(tmp_path, output)

    report = rebuild_ledger(staging, target, address, root=str(tmp_path / "staging"))
    assert (report["folds"], report["problems"]) == (3, [])
    with engine_over(log, tmp_path, lambda: T0 + 601 * MINUTE) as engine:
        engine.ledger.close()
        engine.ledger = open_ledger(address)
        assert (_folded(engine.ledger), listing.overview(engine, "p", made.canonical())) == before
        assert fsck(engine, "s", deep=True)["findings"] == []
        send(log, ("a", 1, 9))
        assert stages.run(engine, made, SINCE_LAST, "r9")["load"]["windows"]["w"]["folded"][0]["n"] == 4
        assert fsck(engine, "s", deep=True)["findings"] == []
    assert len(rows(tmp_path)) == 4


def _folded(ledger: Ledger) -> Any:
    return ledger.ledger_id, ledger.fold_logs("p", "w"), ledger.folds("p", "w", 1)


def _searched(ledger: Ledger) -> dict[str, Any]:
    ids = [plan.batch_id for plan, _ in ledger.batches("orders")]
    with ledger.planning("orders", None) as tx:
        waiting = {name: tx.waiting(name, 1) for name in ("p", "checked", "nobody")}
        gone = tx.gone(ids)
    return {
        "gone": gone,
        "waiting": {name: (found.batches, found.gone, found.first_gone) for name, found in waiting.items()},
        "unlanded": ledger.unlanded("orders", 1, {0: 100, 1: 100}),
        "unwritten": ledger.unwritten("orders"),
    }


def test_rebuilding_over_a_ledger_is_refused(original: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A ledger that stands is left alone in either database."""
    with_id = open_ledger(address)
    with_id.close()
    assert main(["ledger", "rebuild", "--home", str(original), "--ledger", address]) == 1
    assert "exists" in capsys.readouterr().err
    ledger = open_ledger(address)
    assert (ledger.ledger_id, ledger.streams()) == (with_id.ledger_id, ())
    ledger.close()
