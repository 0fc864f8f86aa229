"""`eventlog ledger rebuild`: a lost ledger comes back from staging and the targets."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.adopting import adopt
from airflow_provider_eventlog.core.engine import open_target_at
from airflow_provider_eventlog.core.errors import (
    AccountingError,
    ContentMismatchError,
    LedgerConfigError,
    NotReadyError,
    ReadCancelledError,
)
from airflow_provider_eventlog.core.offsets import TopicIdentity
from airflow_provider_eventlog.core.rebuilding import verifying
from airflow_provider_eventlog.core.rebuilding.ledger import rebuild_ledger
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging.local import LocalStaging
from tests.support import livedin
from tests.support.livedin import (
    CHECKED,
    CORRECTED,
    FIRST,
    REDRIVEN,
    LivedIn,
    answers,
    asked,
    copied,
    interval,
    offsets,
)
from tests.support.upkept import LEDGER, STAGING, TARGET, flip, standing

# What a rebuilt ledger does not have, or has of its own.
APART = {"run", "run_batch", "meta"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the world that was lived in; nobody changes it."""
    home = tmp_path_factory.mktemp("livedin") / "home"
    livedin.live(home)
    return home


@pytest.fixture
def kept(original: Path, tmp_path: Path) -> LivedIn:
    """A copy with its ledger."""
    return copied(original, tmp_path / "kept")


@pytest.fixture
def lost(original: Path, tmp_path: Path) -> LivedIn:
    """A copy without."""
    made = copied(original, tmp_path / "lost")
    lose(made)
    return made


def lose(made: LivedIn) -> None:
    """Delete the ledger with all that belongs to its file."""
    found = list((made.home / LEDGER).parent.glob("ledger.sqlite*"))
    assert found
    for file in found:
        file.unlink()


def rebuilt(capsys: pytest.CaptureFixture[str], made: LivedIn, *more: str) -> dict[str, Any]:
    """Rebuild by the command, which finds nothing to complain of."""
    document = asked(capsys, "ledger", "rebuild", "--home", str(made.home), *more)
    assert document["problems"] == []
    return document


def tried(capsys: pytest.CaptureFixture[str], made: LivedIn, *more: str) -> tuple[int, dict[str, Any]]:
    """Rebuild by the command; its exit code and document."""
    capsys.readouterr()
    code = main(["ledger", "rebuild", "--home", str(made.home), "--output", "json", *more])
    return code, json.loads(capsys.readouterr().out)


def rows(made: LivedIn) -> dict[str, list[Any]]:
    """All that the ledger holds, without the numbers that the database gives and what is documented as lost."""
    with made.database() as connection:
        connection.row_factory = sqlite3.Row
        names = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')] for name in names}
    instants = {row["cut_id"]: (row["stream"], row["epoch"], row["instant"]) for row in found["cut"]}
    for name, of in found.items():
        for row in of:
            for column in ("cut_id", "from_cut", "to_cut"):
                if row.get(column) is not None:
                    row[column] = instants[row[column]]
            row.pop("revision", None)
            if "declaration" in row:
                row["declaration"] = forgetful(row["declaration"])
        found[name] = sorted(of, key=str)
    return {name: of for name, of in found.items() if name not in APART}


def forgetful(declaration: str) -> Any:
    """A declaration without its retention, which a rebuilt ledger waits for the next plan to bring."""
    value = json.loads(declaration)
    return {
        k: forgetful(json.dumps(v)) if k == "stream" and isinstance(v, dict) else v
        for k, v in value.items()
        if "retention" not in k
    }


def test_rebuilt_ledger_gives_the_same_answers(
    kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status, batches and accounting say of two pipelines what they said, held and unfinished work included."""
    before = answers(capsys, kept.home)
    states = {(b["generation"], b["state"]) for of in ("p", "checked") for b in before[f"batches {of}"]["batches"]}
    assert {(1, "held"), (1, "validated"), (3, "planned"), (2, "loaded"), (1, "loaded")} <= states
    assert before["status"]["streams"][0]["lost"] == 3
    document = rebuilt(capsys, lost)
    assert answers(capsys, lost.home) == before
    assert document["decisions"] == {"drop": 1, "loss": 1, "recompute": 1, "redrive": 1, "release": 1}
    assert document["ledger_id_from"] == "the targets"
    assert any("bound" in text for text in document["lost"])


def test_rebuilt_ledger_has_every_row_but_the_documented(
    kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row by row the rebuilt ledger is the lost one, but for runs, its counters, and retention; and it has its id."""
    rebuilt(capsys, lost)
    assert rows(lost) == rows(kept)
    assert len(rows(kept)["part"]) > 20
    ids = [made.ledger("SELECT value FROM meta WHERE key = 'ledger_id'") for made in (kept, lost)]
    assert ids[0] == ids[1]
    assert 'retention_ms":null' in lost.ledger("SELECT declaration FROM stream")[0][0]


def carry_on(made: LivedIn) -> list[dict[str, Any]]:
    """What a user does next: a new interval, an old one again, offsets across batches, what is left, on two recipes."""
    made.now += 5000
    asked_ = [
        (CORRECTED, interval(2), "p-2"),
        (FIRST, interval(1), "p-1"),
        (CORRECTED, interval(0), "p-0"),
        (CORRECTED, RunRequest("since_last"), "rest"),
        (REDRIVEN, RunRequest("interval", interval=interval(0).interval), "checked-0"),
    ]
    told = []
    with made.engine() as engine:
        for pipeline, request, key in asked_:
            told.append(stages.run(engine, pipeline, request, key))
    told.append(offsets(made, CORRECTED, "0:7-19,1:0-9", "wide"))
    # What the run found by its request it may have been bound to before: that is what was lost.
    for document in told:
        document["run"].pop("notes")
        for batch in document["run"]["batches"]:
            batch.pop("mode")
    return told


def test_rebuilt_ledger_goes_on_where_the_lost_one_was(
    kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next runs take the same batches and generations, read the same offsets once, and load the same rows."""
    rebuilt(capsys, lost)
    assert carry_on(lost) == carry_on(kept)
    assert lost.log.reads == kept.log.reads > 0
    assert rows(lost) == rows(kept)
    assert standing(lost.home) == standing(kept.home)
    for table in ("t", "u", "u_quarantine", "_eventlog_load"):
        asking = f"SELECT * EXCLUDE ({'table_uuid' if table[0] == '_' else '_batch_id'}) FROM {table} ORDER BY ALL"
        assert lost.table(asking) == kept.table(asking)
    assert lost.table("SELECT count(*) - count(DISTINCT (_partition, _offset, _row)) FROM t") == [(0,)]
    assert lost.fsck()["damaged"] == kept.fsck()["damaged"] == 0


def test_a_dry_run_proves_all_and_keeps_nothing(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what the real one says, and leaves no ledger and no file."""
    before = sorted(lost.home.rglob("*"))
    dry = rebuilt(capsys, lost, "--dry-run")
    assert sorted(lost.home.rglob("*")) == before
    real = rebuilt(capsys, lost)
    assert {**dry, "kept": True} == real
    assert [s["batches"] for s in real["streams"]] == [3]


def test_an_existing_ledger_is_refused(kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a ledger, nor the log of one whose file is gone, nor a foreign database is ever written to."""
    for made in (kept, lost):
        if made is lost:
            rebuilt(capsys, lost)
        before = (made.home / LEDGER).read_bytes()
        for more in ((), ("--dry-run",)):
            code, document = tried(capsys, made, *more)
            assert (code, document["error"]["type"]) == (1, "LedgerConfigError")
        assert (made.home / LEDGER).read_bytes() == before
    lose(lost)
    log = lost.home / f"{LEDGER}-wal"
    log.write_bytes(b"what was committed last")
    code, document = tried(capsys, lost)
    assert (code, document["error"]["type"]) == (1, "LedgerConfigError")
    assert "may hold what was committed last" in document["error"]["message"]
    assert log.read_bytes() == b"what was committed last"
    assert not (lost.home / LEDGER).exists()


def test_nothing_is_made_from_an_empty_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong folder is no staging root: it is refused, and stays as it was."""
    code, document = tried(capsys, LivedIn(tmp_path))
    assert (code, document["error"]["type"]) == (2, "RequestError")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "pattern",
    ["orders/epoch=1/manifests/*", "orders/pipeline=*/*/*/commit.json", "orders/decisions/*/*", "orders/*/recipes/*"],
)
def test_damaged_records_are_all_named(lost: LivedIn, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    """One flipped bit in a record stops the rebuild before anything is made; the message has every damaged record."""
    damaged = sorted((lost.home / STAGING).glob(pattern))[:2]
    for file in damaged:
        flip(file)
    code, document = tried(capsys, lost)
    assert (code, document["error"]["type"]) == (1, "StagingCorruptError")
    assert damaged
    assert all(file.name in document["error"]["message"] for file in damaged)
    assert not (lost.home / LEDGER).exists()


def test_a_record_under_another_name_is_refused(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """A sound record that stands where another one belongs is not taken for that one."""
    first, second, *_ = sorted((lost.home / STAGING).glob("orders/epoch=1/manifests/*"))
    second.write_bytes(first.read_bytes())
    code, document = tried(capsys, lost)
    assert (code, document["error"]["type"]) == (1, "StagingCorruptError")
    assert second.name in document["error"]["message"]


def test_a_failure_at_the_end_leaves_no_ledger(
    lost: LivedIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not give its manifests back is not kept, and the next attempt begins anew."""
    seen = []

    def differs(*args: Any) -> None:
        seen.append(args)
        raise AccountingError("differs")

    with monkeypatch.context() as patched:
        patched.setattr(verifying, "manifest", differs)
        code, _ = tried(capsys, lost)
    assert (code, len(seen)) == (1, 1)
    assert lost.ledger("SELECT name FROM sqlite_master") == []
    rebuilt(capsys, lost)
    assert len(rows(lost)["batch"]) == 3


def test_a_rebuild_can_be_stopped(lost: LivedIn) -> None:
    """Told to stop, it ends with an error and no ledger; progress was told until then."""
    stop, told = Event(), list[str]()

    def progress(what: str, done: int, total: int) -> None:
        told.append(f"{what} {done} of {total}")
        if what == "written batches":
            stop.set()

    with pytest.raises(ReadCancelledError):
        rebuild_ledger(
            LocalStaging(lost.home / STAGING),
            lambda output: open_target_at(lost.home, output),
            lost.home / LEDGER,
            root=str(lost.home / STAGING),
            cancel=stop,
            progress=progress,
        )
    assert told[-1] == "written batches 3 of 3"
    assert lost.ledger("SELECT name FROM sqlite_master") == []


def test_rows_without_a_manifest_are_said(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that a table holds and no manifest tells of would be loaded twice: the command says so and fails."""
    manifest = sorted((lost.home / STAGING).glob("orders/epoch=1/manifests/*"))[0]
    manifest.unlink()
    code, document = tried(capsys, lost)
    assert code == 1
    said = [p["what"] for p in document["problems"]]
    assert any("no manifest" in what and manifest.stem in what and "'p'" in what for what in said)
    assert any("generation of a batch that has no manifest" in what for what in said)
    assert len(rows(lost)["batch"]) == 2


def test_a_loaded_generation_without_its_commit_stays_loaded(
    kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts and table agree: it comes back as it was, and the missing record is said and mended by fsck."""
    batch = kept.ledger("SELECT batch_id FROM generation WHERE pipeline = 'p' AND gen = 2 ORDER BY 1")[0][0]
    commit = lost.root / f"orders/pipeline=p/batch={batch}/gen=2/commit.json"
    content = commit.read_bytes()
    commit.unlink()
    code, document = tried(capsys, lost)
    assert code == 1
    assert ["commit record" in p["what"] for p in document["problems"]] == [True]
    assert rows(lost) == rows(kept)
    lost.repair(CORRECTED)
    assert commit.read_bytes() == content


def test_a_number_that_a_table_holds_is_never_given_away(
    kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all files of a loaded generation gone its number stays taken: the next one is above it and is visible."""
    batch = kept.ledger("SELECT batch_id FROM batch WHERE kind = 'off_chain'")[0][0]
    for file in sorted((lost.root / f"orders/pipeline=p/batch={batch}").rglob("*.*")):
        file.unlink()
    (decided,) = (lost.root / "orders/decisions/recompute").glob("*")
    decided.unlink()
    code, document = tried(capsys, lost)
    assert code == 1
    assert any("generation 2 of batch" in p["what"] for p in document["problems"])
    told = offsets(lost, CORRECTED, "0:16-18", "later")
    assert told["run"]["batches"][0]["generation"] == 3
    assert told["load"]["batches"][0]["outputs"]["t"]["superseded"] is False
    assert lost.table("SELECT gen FROM _eventlog_load WHERE batch_id = '" + batch + "'")[0] == (3,)


def test_what_only_the_recompute_decision_tells_of_stays_planned(
    kept: LivedIn, lost: LivedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generation that was asked for anew and has no file yet keeps its number and the run that it belongs to."""
    for made in (kept, lost):
        batch = kept.ledger("SELECT batch_id FROM batch WHERE kind = 'off_chain'")[0][0]
        for file in (made.root / f"orders/pipeline=p/batch={batch}/gen=2").rglob("*.*"):
            file.unlink()
        made.table(f"UPDATE _eventlog_load SET gen = 1 WHERE batch_id = '{batch}'")
    rebuilt(capsys, lost)
    asking = "SELECT gen, state, inputs FROM generation WHERE batch_id = ? AND pipeline = 'p' ORDER BY gen"
    told, known = lost.ledger(asking, batch), kept.ledger(asking, batch)
    assert [(gen, inputs) for gen, _, inputs in told] == [(gen, inputs) for gen, _, inputs in known]
    assert [state for _, state, _ in told] == ["loaded", "planned"]


def test_a_dropped_table_counts_as_not_loaded(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """What a table that is gone had loaded is validated again, and the command names the way back."""
    lost.table("DROP TABLE u")
    code, document = tried(capsys, lost)
    assert code == 1
    assert [("gone" in p["what"], "eventlog rebuild" in p["mend"]) for p in document["problems"]] == [(True, True)]
    checked = next(p for p in document["pipelines"] if p["pipeline"] == "checked")
    assert checked["batches"] == {"planned": 0, "held": 1, "validated": 2, "loaded": 0}
    assert next(p for p in document["pipelines"] if p["pipeline"] == "p")["batches"]["loaded"] == 2


def test_tables_of_two_ledgers_need_a_choice(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables that name two ledgers are not mixed; the one that is named is rebuilt, the other's stays refused."""
    (mine,) = lost.table("SELECT DISTINCT ledger_id FROM _eventlog_output")[0]
    lost.table("UPDATE _eventlog_output SET ledger_id = 'other' WHERE table_name <> 't'")
    code, document = tried(capsys, lost)
    assert (code, document["error"]["type"]) == (2, "RequestError")
    assert mine in document["error"]["message"]
    assert "other" in document["error"]["message"]
    code, document = tried(capsys, lost, "--ledger-id", "third")
    assert (code, document["error"]["type"]) == (2, "RequestError")
    code, document = tried(capsys, lost, "--ledger-id", mine)
    assert (code, document["ledger_id"]) == (1, mine)
    assert len(document["problems"]) == 2


def test_without_tables_the_ledger_is_new(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """With the target's file gone too, a new id is said, and loading starts from staging."""
    (lost.home / TARGET).unlink()
    document = rebuilt(capsys, lost)
    assert document["ledger_id_from"].startswith("new")
    reads = lost.log.reads
    told = offsets(lost, CORRECTED, "0:16-18", "once more")
    assert told["load"]["batches"][0]["outputs"]["t"]["outcome"] == "landed"
    assert lost.log.reads == reads
    assert lost.table("SELECT count(*) FROM t") == [(told["load"]["batches"][0]["outputs"]["t"]["rows"],)]


def test_batches_never_landed_are_planned_again(kept: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a batch that was landed in part nothing comes back but its files, which its next plan takes as they are."""
    kept.now += 1000
    with kept.engine() as engine:
        stages.plan(engine, CORRECTED, interval(2), "p-2")
        stages.land(engine, CORRECTED, "p-2", 0)
    reads = kept.log.reads
    assert reads > 0
    with kept.engine() as engine, pytest.raises(NotReadyError):
        stages.validate(engine, CORRECTED, "p-2")
    lose(kept)
    document = rebuilt(capsys, kept)
    assert document["raw_files_unnamed"] == reads
    assert [s["batches"] for s in document["streams"]] == [3]
    told = kept.run(2, CORRECTED)
    slices = sum(report["slices"] for report in told["land"])
    assert kept.log.reads == slices > reads
    assert kept.table("SELECT count(*) - count(DISTINCT (_partition, _offset, _row)) FROM t") == [(0,)]
    assert kept.fsck()["damaged"] == 0


def test_parts_of_another_recipe_are_never_adopted(kept: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch derived before it was landed whole leaves parts under its number: another recipe refuses them."""
    kept.now += 1000
    with kept.engine() as engine:
        stages.plan(engine, FIRST, interval(2), "p-2")
        for group in (0, 1):
            stages.land(engine, FIRST, "p-2", group)
        stages.transform(engine, FIRST, "p-2", 0)
    (landed,) = kept.ledger("SELECT batch_id FROM run_batch WHERE run_key = 'p-2'")
    (kept.root / f"orders/epoch=1/manifests/{landed[0]}.json").unlink()
    lose(kept)
    code, document = tried(capsys, kept)
    assert code == 1
    assert ["has no manifest" in p["what"] for p in document["problems"]] == [True]
    with kept.engine() as engine, pytest.raises(ContentMismatchError, match="another one"):
        stages.run(engine, CORRECTED, interval(2), "p-2")


def test_adopted_epochs_come_back(kept: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """An epoch that was adopted and has landed nothing yet is pinned as before, with its first cut."""
    kept.log.identity = TopicIdentity("cluster", "orders", "another")
    with kept.engine() as engine:
        adopt(engine, CORRECTED.stream, "latest", who="me", why="restored")
    before = rows(kept)
    assert len(before["epoch"]) == 2
    answered = answers(capsys, kept.home)
    lose(kept)
    rebuilt(capsys, kept)
    assert rows(kept) == before
    assert answers(capsys, kept.home) == answered


def test_a_pipeline_without_a_recipe_record_is_said(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Its generations keep their numbers, and its next plan registers it."""
    for file in (lost.root / "orders/pipeline=checked/recipes").glob("*"):
        file.unlink()
    code, document = tried(capsys, lost)
    assert code == 1
    assert any("'checked' has generations" in p["what"] for p in document["problems"])
    assert [p["pipeline"] for p in document["pipelines"]] == ["p"]
    told = lost.run(0, CHECKED)
    assert told["run"]["batches"][0]["generation"] == 1
    assert told["load"]["batches"][0]["outputs"]["u"]["outcome"] == "existed"


def test_the_command_shows_it_to_people(lost: LivedIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Text names the ledger, what came back, and what is lost."""
    assert main(["ledger", "rebuild", "--home", str(lost.home)]) == 0
    out = capsys.readouterr().out
    assert "lost: what each run was bound to" in out
    assert "1 recompute" in out
    with pytest.raises(LedgerConfigError, match="exists"):
        rebuild_ledger(
            LocalStaging(lost.home / STAGING),
            lambda output: open_target_at(lost.home, output),
            lost.home / LEDGER,
            root="x",
        )
