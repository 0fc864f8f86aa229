"""Upkeep of windows: fsck proves logs, files and cursors; a lost ledger comes back with its folds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import gc, stages
from airflow_provider_eventlog.core.auditing import folds
from airflow_provider_eventlog.core.engine import Engine, now_ms, open_target_at
from airflow_provider_eventlog.core.errors import (
    CheckFailedError,
    RequestError,
    StagingCorruptError,
    TargetReplacedError,
)
from airflow_provider_eventlog.core.folding import listing
from airflow_provider_eventlog.core.fsck import fsck
from airflow_provider_eventlog.core.rebuilding.ledger import rebuild_ledger
from airflow_provider_eventlog.core.rebuilding.output import rebuild_outputs
from airflow_provider_eventlog.core.staging.names import StagedName, parse
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import (
    CATCHING_UP,
    MINUTE,
    NOT_NEGATIVE,
    SINCE_LAST,
    T0,
    interval,
    pipeline,
    rows,
    send,
    windows,
)

FOLDS = "s/pipeline=p/folds/w/log=1"


def lived_in(engine: Engine, log: ListLog) -> Pipeline:
    """Three folds, the last one with a late row."""
    made = pipeline(windows(late=DuckDB("w.duckdb", table="late")))
    for number, minutes in enumerate(((0.1, 0.5), (3.5,), (0.2, 6.5))):
        send(log, *(("a", 1, m) for m in minutes))
        stages.run(engine, made, SINCE_LAST, f"r{number}")
    return made


def codes(engine: Engine, **more: Any) -> list[str]:
    """What fsck finds."""
    return [finding["code"] for finding in fsck(engine, "s", **more)["findings"]]


def test_a_clean_log_is_clean(engine: Engine, log: ListLog) -> None:
    """Nothing of a fold is foreign, an orphan or damaged, deeply looked at or not; gc removes none of it."""
    lived_in(engine, log)
    for deep in (False, True):
        found = fsck(engine, "s", deep=deep)
        assert found["findings"] == []
        assert (found["checked"]["folds"], found["checked"]["tables"]) == (3, 2)
        assert found["checked"]["fold files"] >= 7
    before = list(engine.staging.list(""))
    # Files are as old as this machine's clock says.
    engine.clock = lambda: now_ms() + 1000
    gc.collect(engine, grace_ms=0, who="me")
    assert list(engine.staging.list("")) == before


def one_byte(temporary: Path) -> None:
    """Write a file that is none of a fold."""
    temporary.write_bytes(b"x")


def test_files_of_an_overtaken_attempt_are_collected(engine: Engine, log: ListLog) -> None:
    """What fold 2 does not name goes; what might be of a fold that is being made, or is of another log, stays."""
    lived_in(engine, log)
    left = {n: f"{FOLDS}/{n:012d}-delta-{'0' * 16}.parquet" for n in (2, 4)}
    other = left[2].replace("log=1", "log=2")
    for path in (*left.values(), other):
        engine.staging.publish(path, one_byte)
    before = set(engine.staging.list(""))
    assert codes(engine) == ["orphans"]
    engine.clock = lambda: now_ms() + 1000
    dry = gc.collect(engine, grace_ms=0, dry_run=True)
    assert dry["streams"][0]["orphans"]["paths"] == [left[2]]
    assert set(engine.staging.list("")) == before
    gc.collect(engine, grace_ms=0)
    assert before - set(engine.staging.list("")) == {left[2]}
    assert codes(engine) == []


def file_of(engine: Engine, ending: str) -> Path:
    """The one file of a fold whose name holds a text."""
    (found,) = [path for path in engine.staging.list(FOLDS) if ending in path]
    return engine.staging.open(found)


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("ending", "harm", "code"),
    [
        ("0002-delta", remove, "fold_missing"),
        ("0002-upserts", flip, "fold_corrupt"),
        ("0003-late", remove, "fold_missing"),
    ],
)
def test_damaged_files_of_a_fold_are_named(
    engine: Engine, log: ListLog, ending: str, harm: Callable[[Path], None], code: str
) -> None:
    """A missing file and a flipped bit are found by name, with what to do."""
    lived_in(engine, log)
    harm(file_of(engine, ending))
    (finding,) = fsck(engine, "s")["findings"]
    assert (finding["code"], finding["damaged"], finding["pipeline"]) == (code, True, "p")
    assert ending in finding["where"]
    assert "upgrade --rebuild" in finding["mend"]


def test_partial_results_are_proved_and_derived_again(engine: Engine, log: ListLog) -> None:
    """What a fold reads of a slice comes back from raw like its rows, to the byte."""
    made = lived_in(engine, log)
    gone, broken = (engine.staging.open(path) for path in [p for p in engine.staging.list("s") if "/partials" in p][:2])
    before = [path.read_bytes() for path in (gone, broken)]
    remove(gone)
    flip(broken)
    assert codes(engine) == ["part_missing", "part_corrupt"]
    assert fsck(engine, "s", deep=True, repair=True, pipelines=[made])["damaged"] == 0
    assert [path.read_bytes() for path in (gone, broken)] == before
    assert codes(engine, deep=True) == []


@pytest.mark.parametrize(("ending", "harm"), [("000002.json", remove), ("000000.json", remove), ("000001.json", flip)])
def test_records_of_folds_are_written_down_again(
    engine: Engine, log: ListLog, ending: str, harm: Callable[[Path], None]
) -> None:
    """A record that is gone or damaged is made again from the ledger, to the byte."""
    lived_in(engine, log)
    path = file_of(engine, ending)
    before = path.read_bytes()
    harm(path)
    assert fsck(engine, "s")["damaged"] == 1
    assert fsck(engine, "s", repair=True)["damaged"] == 0
    assert path.read_bytes() == before
    assert codes(engine) == []


@pytest.mark.parametrize("comes", [True, False])
def test_the_newest_record_may_be_on_its_way(
    engine: Engine, log: ListLog, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    """A fold that is recorded and not written down yet is waited for; one whose record never comes is damage."""
    lived_in(engine, log)
    path = file_of(engine, "000003.json")
    data = path.read_bytes()
    path.unlink()
    read, looked = engine.staging.read_json, list[str]()

    def late(wanted: str) -> Any:
        looked.append(wanted)
        if comes and looked.count(f"{FOLDS}/000000000003.json") == 3:
            path.write_bytes(data)
        return read(wanted)

    monkeypatch.setattr(engine.staging, "read_json", late)
    if not comes:
        monkeypatch.setattr(folds, "_PATIENCE_S", 0.2)
    assert codes(engine) == ([] if comes else ["fold_record_missing"])
    assert looked.count(f"{FOLDS}/000000000003.json") >= 3
    assert fsck(engine, "s", repair=True)["damaged"] == 0
    assert path.read_bytes() == data


def test_a_record_that_a_later_fold_left_behind_is_not_waited_for(
    engine: Engine, log: ListLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the newest fold may be unfinished: a missing record before it is damage at the first look."""
    lived_in(engine, log)
    file_of(engine, "000002.json").unlink()
    monkeypatch.setattr(engine.cancel, "wait", None)
    assert codes(engine) == ["fold_record_missing"]


def test_logs_of_outputs_that_are_no_longer_declared_are_looked_after(
    engine: Engine, log: ListLog, tmp_path: Path
) -> None:
    """Their files and records are proved and mended as before; their tables are nobody's any more."""
    made = lived_in(engine, log)
    send(log, ("a", 1, 9))
    stages.run(engine, made.replace(outputs=[Rows(DuckDB("w.duckdb", table="r"))]), SINCE_LAST, "rows")
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute("DROP TABLE w")
    assert fsck(engine, "s", deep=True)["checked"]["folds"] == 3
    assert codes(engine) == []
    flip(file_of(engine, "0002-upserts"))
    file_of(engine, "000002.json").unlink()
    assert codes(engine) == ["fold_record_missing", "fold_corrupt"]
    assert codes(engine, repair=True) == ["fold_record_missing", "fold_corrupt"]
    assert codes(engine) == ["fold_corrupt"]


def waiting(engine: Engine) -> list[tuple[str, bool]]:
    """What fsck finds, and whether it is damage."""
    return [(finding["code"], finding["damaged"]) for finding in fsck(engine, "s")["findings"]]


def test_what_windows_wait_for_is_told_once(engine: Engine, log: ListLog) -> None:
    """A frontier at a held batch or a hole is a note beside it; one at a batch under way, or not taken yet, is none."""
    made = pipeline(checks=[NOT_NEGATIVE])
    for number, value in enumerate((1, -1, 2)):
        send(log, ("a", value, 10 * number + 1))
    stages.run(engine, made, interval(0), "r0")
    stages.plan(engine, made, interval(1), "r1")
    assert waiting(engine) == []
    with pytest.raises(CheckFailedError):
        stages.run(engine, made, interval(1), "r1")
    assert waiting(engine) == [("held", False), ("windows_waiting", False)]
    (_, told) = fsck(engine, "s")["findings"]
    assert (told["where"], told["pipeline"]) == ("pipeline p, windows w, log 1", "p")
    assert "folded up to 2024-01-01T00:10:00" in told["what"]
    assert "which the gate holds" in told["what"]


def test_windows_that_wait_at_a_hole_are_no_second_damage(engine: Engine, log: ListLog) -> None:
    """The hole is the damage, the windows behind it a note; so are those behind a batch that was not taken."""
    made = pipeline(stream=CATCHING_UP)
    for number in range(4):
        send(log, ("a", 1, 10 * number + 1))
    stages.run(engine, made, interval(0, gap="hole"), "r0")
    stages.run(engine, made, interval(2, gap="hole"), "r2")
    assert waiting(engine) == [("hole", True), ("windows_waiting", False)]
    other = made.replace(name="q", outputs=[Rows(DuckDB("w.duckdb", table="r"))])
    stages.run(engine, other, interval(1, gap="hole"), "q1")
    assert waiting(engine) == [("windows_waiting", False)]
    stages.run(engine, made, interval(1, gap="hole"), "r1")
    stages.run(engine, other, interval(3, gap="hole"), "q3")
    assert waiting(engine) == []


def test_a_fold_that_the_ledger_has_lost_is_named(engine: Engine, log: ListLog) -> None:
    """A ledger from an older copy lacks a fold of which the record stands: that is damage, told before others fold."""
    lived_in(engine, log)
    record = engine.ledger.folds("p", "w", 1)[-1]
    assert gc.Folds(engine, "s").known(parsed(record.n))
    assert not gc.Folds(engine, "s").known(parsed(record.n + 1))
    engine.staging.publish_json(f"{FOLDS}/{record.n + 1:012d}.json", {"n": record.n + 1})
    engine.staging.publish_json(f"{FOLDS.replace('log=1', 'log=2')}/{0:012d}.json", {"log": 2})
    assert waiting(engine) == [("fold_unknown", True), ("fold_unknown", True)]


def parsed(n: int) -> StagedName:
    """The name of a fold's record."""
    found = parse(f"{FOLDS}/{n:012d}.json")
    assert found is not None
    return found


def test_where_tables_stand_is_told(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A table behind its log is said and brought up by the next load; one ahead of it is damage."""
    made = lived_in(engine, log)
    send(log, ("a", 1, 8))
    real = engine.open_target
    engine.open_target = lambda output: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        stages.run(engine, made, SINCE_LAST, "r3")
    engine.open_target = real
    assert codes(engine) == ["windows_behind", "windows_behind"]
    stages.fold(engine, made)
    assert codes(engine) == []
    last = engine.ledger.last_fold
    engine.ledger.last_fold = lambda *of: next(iter(engine.ledger.folds(*of)), None)  # type: ignore[method-assign]
    assert codes(engine) == ["windows_ahead", "windows_ahead"]
    assert last("p", "w", 1) is not None


def test_a_lost_ledger_comes_back_with_its_folds(log: ListLog, tmp_path: Path) -> None:
    """Logs, folds, watermark and frontier are those of before; the next batch folds on, into the same tables."""

    def answers(engine: Engine) -> Any:
        return (
            engine.ledger.ledger_id,
            engine.ledger.fold_logs("p", "w"),
            engine.ledger.folds("p", "w", 1),
            listing.overview(engine, "p", made.canonical()),
        )

    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE) as engine:
        made = lived_in(engine, log)
        before, staging = answers(engine), engine.staging
    for file in tmp_path.glob("ledger.sqlite*"):
        file.unlink()

    def rebuild() -> dict[str, Any]:
        return rebuild_ledger(
            staging,
            lambda output: open_target_at(tmp_path, output),
            tmp_path / "ledger.sqlite",
            root=str(tmp_path / "staging"),
        )

    report = rebuild()
    assert (report["folds"], report["problems"]) == (3, [])
    with engine_over(log, tmp_path, lambda: T0 + 601 * MINUTE) as engine:
        assert answers(engine) == before
        assert codes(engine) == []
        send(log, ("a", 1, 9))
        assert stages.run(engine, made, SINCE_LAST, "r9")["load"]["windows"]["w"]["folded"][0]["n"] == 4
    assert len(rows(tmp_path)) == 4


def test_a_rebuild_without_a_record_says_what_it_leaves_out(log: ListLog, tmp_path: Path) -> None:
    """Folds behind a missing record count for nothing, by name; a damaged record stops the rebuild."""
    with engine_over(log, tmp_path, lambda: T0 + 600 * MINUTE) as engine:
        lived_in(engine, log)
        staging = engine.staging
    folder = tmp_path / "staging" / FOLDS
    for file in tmp_path.glob("ledger.sqlite*"):
        file.unlink()
    (folder / "000000000002.json").unlink()

    def rebuild(keep: bool) -> dict[str, Any]:
        return rebuild_ledger(
            staging,
            lambda output: open_target_at(tmp_path, output),
            tmp_path / "ledger.sqlite",
            root=str(tmp_path / "staging"),
            keep=keep,
        )

    report = rebuild(keep=False)
    assert report["folds"] == 1
    assert [problem["where"].rsplit("/", 1)[1] for problem in report["problems"]] == ["000000000003.json"]
    flip(folder / "000000000001.json")
    with pytest.raises(StagingCorruptError):
        rebuild(keep=True)
    assert not (tmp_path / "ledger.sqlite").exists()


def test_tables_of_windows_are_made_anew(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Dropped or replaced, a table and that of late rows come back from change-sets alone; loads then go on."""
    made = lived_in(engine, log)
    before = [rows(tmp_path, table=name) for name in ("w", "late")]
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute("DROP TABLE w")
    with pytest.raises(TargetReplacedError, match="eventlog rebuild"):
        stages.fold(engine, made)
    engine.open_source = None  # type: ignore[assignment]
    engine._sources.clear()
    dry = rebuild_outputs(engine, made, "w", keep=False)["outputs"]
    assert [(one["output"], one["found"], one["batches"]) for one in dry] == [("w", "gone", 3)]
    rebuild_outputs(engine, made, "w")
    with pytest.raises(RequestError, match="--replace"):
        rebuild_outputs(engine, made, "w.late")
    (report,) = rebuild_outputs(engine, made, "w.late", replace=True)["outputs"]
    assert report["replaced"] == "late__replaced_1"
    assert [rows(tmp_path, table=name) for name in ("w", "late")] == before
    assert rows(tmp_path, table="late__replaced_1") == before[1]
    assert codes(engine) == []


def test_folds_that_are_made_meanwhile_are_in_the_new_table(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A load into the table in use, while the new one is made, is taken over before the two change places."""
    made = lived_in(engine, log)

    def load_once(what: str, done: int, total: int) -> None:
        if what == "change-sets of w" and not raced:
            raced.append(done)
            send(log, ("a", 1, 9))
            stages.run(engine, made, SINCE_LAST, "meanwhile")

    raced: list[int] = []
    engine.progress = load_once
    rebuild_outputs(engine, made, "w", replace=True)
    assert raced == [1]
    assert rows(tmp_path) == rows(tmp_path, table="w__replaced_1")
    assert len(rows(tmp_path)) == 4
    assert codes(engine) == []
