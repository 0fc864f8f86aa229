"""fsck on tables of windows: behind, ahead, busy or gone, and row by row against what their change-sets add up to."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import TargetBusyError
from airflow_provider_eventlog.core.fsck import fsck
from airflow_provider_eventlog.declare import DuckDB, Pipeline
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.test_upkeep import lived_in
from tests.unit.folding.world import MINUTE, SINCE_LAST, T0, Event, pipeline, rows, send, windows

MADE = pipeline(windows(late=DuckDB("w.duckdb", table="late")))
LATER = T0 + 600 * MINUTE


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ListLog]:
    """A home with three folds, the last one with a late row, and its topic."""
    home, log = tmp_path_factory.mktemp("calm") / "home", ListLog([], [])
    home.mkdir()
    with engine_over(log, home, lambda: LATER) as engine:
        assert lived_in(engine, log) == MADE
    return home, log


@pytest.fixture
def home(calm: tuple[Path, ListLog], tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(calm[0], tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def log(calm: tuple[Path, ListLog]) -> ListLog:
    """Its topic."""
    return copy.deepcopy(calm[1])


@pytest.fixture
def engine(home: Path, log: ListLog) -> Iterator[Engine]:
    """An engine over the copy; every question of the time is a millisecond later."""
    ticks = iter(range(1, 10**9))
    with engine_over(log, home, lambda: LATER + next(ticks)) as made:
        yield made


def change(home: Path, statement: str) -> None:
    """Write to the tables as somebody else would."""
    with duckdb.connect(str(home / "w.duckdb")) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(statement).fetchall()


def found(engine: Engine, **more: Any) -> list[tuple[str, str]]:
    """Code and table of each finding."""
    return [(f["code"], f["where"].rsplit(".", 1)[1]) for f in fsck(engine, "s", **more)["findings"]]


def tables(home: Path) -> list[Any]:
    """The rows of both tables."""
    return [rows(home, table=name) for name in ("w", "late")]


def killed(*_: Any) -> None:
    """A process that dies."""
    raise KeyboardInterrupt


HARMS = {
    "UPDATE w SET s = s + 1 WHERE n = 2": "The table differs from what change-sets 1 to 3 of log 1 add up to, in 1 "
    "key. changed: 'a', '2024-01-01 00:00:00+00'.",
    "DELETE FROM w WHERE n = 2": "missing: 'a', '2024-01-01 00:00:00+00'",
    "INSERT INTO w SELECT * REPLACE (NULL AS k) FROM w WHERE n = 2": "not ours: NULL, '2024-01-01",
    "INSERT INTO w SELECT * FROM w WHERE n = 2": "not ours: 'a', '2024-01-01 00:00:00+00'",
    "UPDATE late SET v = NULL": "changed: '0', '3', '0', '2024-01-01 00:00:00+00'",
}


def test_rows_that_somebody_changed_are_named(engine: Engine, home: Path) -> None:
    """A changed, missing, strange or doubled row is found deeply, by its key, with the command that mends it."""
    file = home / "w.duckdb"
    good = file.read_bytes()
    assert fsck(engine, "s", deep=True)["checked"]["compared tables"] == 2
    for statement, said in HARMS.items():
        change(home, statement)
        (finding,) = fsck(engine, "s", deep=True)["findings"]
        assert (finding["code"], finding["damaged"], finding["repairable"]) == ("windows_differ", True, True)
        assert said in finding["what"]
        assert f"--output-name {'w.late' if ' late ' in statement else 'w'} --replace" in finding["mend"]
        file.write_bytes(good)


def test_changed_tables_are_made_again_and_kept(engine: Engine, home: Path) -> None:
    """Repair gives back the rows that change-sets add up to, and keeps what it found; a dry run changes nothing."""
    before = tables(home)
    for statement in HARMS:
        change(home, statement)
    harmed = tables(home)
    assert found(engine) == []
    dry = fsck(engine, "s", deep=True, repair=True, dry_run=True)
    assert (dry["damaged"], dry["failed"], tables(home)) == (2, 0, harmed)
    mended = fsck(engine, "s", deep=True, repair=True)
    assert (mended["damaged"], mended["mended"], tables(home)) == (0, 2, before)
    assert [rows(home, table=f"{name}__replaced_1") for name in ("w", "late")] == harmed
    assert found(engine, deep=True) == []


def test_all_that_differ_are_counted_and_a_few_named(engine: Engine, home: Path) -> None:
    """Twenty strange rows are one finding that names the first five of them."""
    keys = "'x' || lpad(i::VARCHAR, 2, '0') AS k"
    change(home, f"INSERT INTO w SELECT * EXCLUDE (i) REPLACE ({keys}) FROM (FROM w LIMIT 1), range(20) r(i)")
    (finding,) = fsck(engine, "s", deep=True)["findings"]
    assert "in 20 keys." in finding["what"]
    assert finding["what"].count("not ours") == 5
    assert "'x04'" in finding["what"]
    assert finding["what"].endswith("and 15 more.")


def test_changed_columns_are_damage_that_is_mended(engine: Engine, home: Path) -> None:
    """A column that somebody added would fail the next load: found deeply, gone from what repair makes."""
    before = tables(home)
    change(home, "ALTER TABLE w ADD COLUMN note VARCHAR")
    (finding,) = fsck(engine, "s", deep=True)["findings"]
    assert finding["code"] == "windows_columns"
    assert "- note VARCHAR (only in the table)" in finding["what"]
    assert fsck(engine, "s", deep=True, repair=True)["damaged"] == 0
    assert tables(home) == before


def test_a_table_is_not_held_against_damaged_files(engine: Engine, home: Path) -> None:
    """What is known to be damaged is told once: the file, and not the table as well."""
    path = next((home / "staging").rglob("*0002-upserts-*.parquet"))
    path.unlink()
    assert found(engine, deep=True) == [("fold_missing", "parquet")]


def behind(engine: Engine, log: ListLog) -> None:
    """Fold once more, and die in front of the tables."""
    send(log, ("a", 1, 8))
    real = engine.open_target
    engine.open_target = killed  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        stages.run(engine, MADE, SINCE_LAST, "r3")
    engine.open_target = real


def test_repair_applies_missing_change_sets(engine: Engine, log: ListLog, home: Path) -> None:
    """A table that lacks the newest fold, or all of them since its file is gone, is brought up; a dry run says how."""
    behind(engine, log)
    dry = fsck(engine, "s", repair=True, dry_run=True)
    assert [f["result"] for f in dry["findings"]] == ["would apply change-sets 4 to 4"] * 2
    assert found(engine, repair=True) == [("windows_behind", "w"), ("windows_behind", "late")]
    assert found(engine, deep=True) == []
    before = tables(home)
    assert len(before[0]) == 4
    (home / "w.duckdb").unlink()
    mended = fsck(engine, "s", repair=True)
    assert [f["result"] for f in mended["findings"]] == ["applied 4 change-sets"] * 2
    assert (mended["damaged"], mended["failed"], mended["mended"]) == (0, 0, 2)
    assert tables(home) == before
    assert found(engine, deep=True) == []
    stages.fold(engine, MADE)
    assert tables(home) == before


def test_a_late_table_without_late_rows_is_brought_up_too(tmp_path: Path) -> None:
    """Where no fold has late rows, the table itself tells its columns; one that was never made lacks nothing."""
    log = ListLog([], [])
    with engine_over(log, tmp_path, lambda: LATER) as engine:
        send(log, ("a", 1, 1))
        stages.run(engine, MADE, SINCE_LAST, "r0")
        behind(engine, log)
        assert found(engine, repair=True) == [("windows_behind", "w"), ("windows_behind", "late")]
        assert found(engine, deep=True) == []
        (tmp_path / "w.duckdb").unlink()
        assert found(engine, repair=True) == [("windows_behind", "w")]
        assert found(engine, deep=True) == []
        stages.fold(engine, MADE)
        assert found(engine, deep=True) == []


def once(engine: Engine, act: Callable[[], Any], method: str = "") -> list[int]:
    """Let something happen when a target is opened, or in front of a call to it; the list tells that it did."""
    real, happened = engine.open_target, list[int]()

    def happen() -> None:
        if not happened:
            happened.append(1)
            act()

    def opened(output: Any) -> Any:
        target = real(output)
        if not method:
            happen()
            return target
        asked = getattr(target, method)

        def behind(*of: Any) -> Any:
            happen()
            return asked(*of)

        setattr(target, method, behind)
        return target

    engine.open_target = opened
    return happened


@pytest.mark.parametrize("method", ["", "differing"])
def test_a_load_beside_the_audit_is_no_damage(engine: Engine, log: ListLog, home: Path, method: str) -> None:
    """A load that ends while tables are looked at makes none of them look ahead of its log, or unlike it."""
    real = engine.open_target

    def load() -> None:
        engine.open_target = real
        send(log, ("a", 1, 8))
        stages.run(engine, MADE, SINCE_LAST, "meanwhile")

    happened = once(engine, load, method)
    assert fsck(engine, "s", deep=True)["findings"] == []
    assert happened == [1]
    assert len(rows(home)) == 4


def test_a_table_that_moves_all_the_time_is_told_and_not_damaged(engine: Engine) -> None:
    """Where each comparison finds the table elsewhere, it ends after a few with a word about it."""
    real = engine.open_target

    def opened(output: Any) -> Any:
        target = real(output)
        target.differing = lambda *of: None  # type: ignore[method-assign]
        return target

    engine.open_target = opened
    document = fsck(engine, "s", deep=True)
    assert [(f["code"], f["damaged"]) for f in document["findings"]] == [("table_unchecked", False)] * 2


def test_a_busy_table_is_not_called_replaced(engine: Engine) -> None:
    """A file that others hold is said to be unchecked, to be looked at again."""

    def busy(_: Any) -> Any:
        raise TargetBusyError("held by others")

    engine.open_target = busy
    document = fsck(engine, "s")
    assert [f["code"] for f in document["findings"]] == ["table_unchecked"] * 2
    assert {f["mend"] for f in document["findings"]} == {"Run `eventlog fsck` again when the target is free."}


def test_tables_that_are_gone_name_their_rebuild(engine: Engine, home: Path) -> None:
    """The command in the cure is the one that makes that very table anew."""
    change(home, "DROP TABLE w")
    change(home, "DROP TABLE late")
    findings = fsck(engine, "s", deep=True)["findings"]
    assert [(f["code"], f["damaged"]) for f in findings] == [("table_replaced", True)] * 2
    for finding, name in zip(findings, ("w", "w.late"), strict=True):
        assert f"eventlog rebuild --pipeline FILE.py:VARIABLE --output-name {name}`" in finding["mend"]


def test_null_keys_and_lists_are_compared(tmp_path: Path) -> None:
    """A NULL in a key is a key like any other, and values that are lists or floating numbers equal themselves."""
    made: Pipeline = pipeline(windows(by=["K"], aggregates={"vs": "list(v ORDER BY v)", "m": "avg(v)"}))
    log = ListLog([], [])
    with engine_over(log, tmp_path, lambda: LATER) as engine:
        batches: list[list[Event]] = [[(None, 1, 0.5), ("a", None, 0.6)], [(None, 3, 0.7), ("", 2, 0.8)]]
        for number, events in enumerate(batches):
            send(log, *events)
            stages.run(engine, made, SINCE_LAST, f"r{number}")
        assert fsck(engine, "s", deep=True)["checked"]["compared tables"] == 1
        assert found(engine, deep=True) == []
        change(tmp_path, "UPDATE w SET vs = [1, 2] WHERE k IS NULL")
        (finding,) = fsck(engine, "s", deep=True)["findings"]
        assert "changed: NULL, '2024-01-01 00:00:00+00'" in finding["what"]
