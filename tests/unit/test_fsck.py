"""fsck: every kind of damage is named where it is, what can be made again is, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import validating
from airflow_provider_eventlog.core.errors import ReadCancelledError, RequestError, StagingMissingError
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.core.staging import records
from airflow_provider_eventlog.declare import DuckDB, Rows
from tests.support.upkept import (
    PIPELINE,
    SECOND_PIPELINE,
    TARGET,
    Upkept,
    codes,
    copied,
    edit,
    failures,
    flip,
    lived_in,
    recorded,
    shouts,
    standing,
)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three loaded batches, five raw files and more, and one decision."""
    return lived_in(tmp_path_factory.mktemp("calm") / "home").home


@pytest.fixture
def world(calm: Path, tmp_path: Path) -> Upkept:
    """A copy of it to damage."""
    return copied(calm, tmp_path / "home")


def decision(world: Upkept) -> Path:
    return next(world.root.glob("orders/decisions/note/*.json"))


def drop(world: Upkept) -> None:
    (world.home / TARGET).unlink()


FILES: dict[str, Callable[[Upkept], Any]] = {
    "raw_corrupt truncated": lambda w: os.truncate(w.raw()[1], 100),
    "raw_corrupt empty": lambda w: w.raw()[1].write_bytes(b""),
    "raw_corrupt flipped": lambda w: flip(w.raw()[1]),
    "raw_corrupt exchanged": lambda w: shutil.copy(w.raw()[0], w.raw()[1]),
    "raw_corrupt longer": lambda w: w.raw()[1].write_bytes(w.raw()[1].read_bytes() + b"\0"),
    "raw_missing": lambda w: w.raw()[1].unlink(),
    "part_corrupt truncated": lambda w: os.truncate(w.parts()[1], 100),
    "part_corrupt flipped": lambda w: flip(w.parts()[1]),
    "part_corrupt exchanged": lambda w: shutil.copy(w.parts()[0], w.parts()[1]),
    "part_missing": lambda w: w.parts()[1].unlink(),
    "manifest_missing": lambda w: w.manifests()[0].unlink(),
    "manifest_corrupt cut": lambda w: os.truncate(w.manifests()[0], 50),
    "manifest_corrupt edited": lambda w: edit(w.manifests()[0], seal=False),
    "manifest_differs sealed": lambda w: edit(w.manifests()[0], seal=True),
    "manifest_differs strange": lambda w: w.manifests()[0].write_bytes(records.dump({"slices": 7})),
    "manifest_differs exchanged": lambda w: shutil.copy(w.manifests()[1], w.manifests()[0]),
    "commit_missing": lambda w: w.commits()[0].unlink(),
    "commit_corrupt edited": lambda w: edit(w.commits()[0], seal=False),
    "commit_differs sealed": lambda w: edit(w.commits()[0], seal=True),
    "decision_missing": lambda w: decision(w).unlink(),
    "decision_corrupt edited": lambda w: edit(decision(w), seal=False),
    "decision_differs sealed": lambda w: edit(decision(w), seal=True),
}
TABLES: dict[str, Callable[[Upkept], Any]] = {
    "rows_differ one gone": lambda w: w.table("DELETE FROM t WHERE _partition = 0 AND _offset = 1"),
    "rows_differ one double": lambda w: w.table("INSERT INTO t FROM t LIMIT 1"),
    "rows_differ all gone": lambda w: w.table("DELETE FROM t WHERE _batch_id = (SELECT min(_batch_id) FROM t)"),
    "load_missing": lambda w: w.table("DELETE FROM _eventlog_load WHERE batch_id = (SELECT min(_batch_id) FROM t)"),
    "load_differs rows": lambda w: w.table(
        "UPDATE _eventlog_load SET rows = rows + 1 WHERE batch_id = (SELECT min(_batch_id) FROM t)"
    ),
    "load_differs digest": lambda w: w.table(
        "UPDATE _eventlog_load SET digest = 'x' WHERE batch_id = (SELECT min(_batch_id) FROM t)"
    ),
    "load_double": lambda w: w.table("INSERT INTO _eventlog_load FROM _eventlog_load ORDER BY batch_id LIMIT 1"),
}


def test_a_clean_world_is_clean(world: Upkept) -> None:
    """An audit finds nothing, looks at everything, reads no Kafka and changes no byte."""
    before = standing(world.home)
    for deep in (False, True):
        found = world.fsck(deep=deep)
        assert found["findings"] == []
        assert (found["damaged"], found["failed"], found["mended"]) == (0, 0, 0)
        assert found["checked"] == {
            "offsets": 27, "batches": 3, "manifests": 3, "raw files": len(world.raw()), "generations": 3,
            "commits": 3, "parts": len(world.parts()), "tables": 1, "loaded batches": 3, "decisions": 1,
        }  # fmt: skip
        assert found["bytes"] == sum(f.stat().st_size for f in [*world.raw(), *world.parts()])
        assert found["states"] == {"p": {"loaded": 3, "not taken": 0}}
    assert standing(world.home) == before
    assert world.log.reads == 0


@pytest.mark.parametrize("damage", [*FILES, *TABLES])
def test_damage_is_named_and_mended(world: Upkept, damage: str) -> None:
    """Each kind of damage is found as what it is; a dry run changes nothing; repair brings back the very same world.

    What was in the way of a file is set aside with its bytes; what was not damaged is not touched.
    """
    before, rows, loaded = standing(world.home), world.table(), recorded(world)
    ({**FILES, **TABLES}[damage])(world)
    assert (standing(world.home), world.table(), recorded(world)) != (before, rows, loaded)
    broken = standing(world.home)
    changed = {path: digest for path, digest in broken.items() if before.get(path) != digest}
    stamps = {path: (world.root / path).stat().st_ino for path in before if path in broken and path not in changed}

    told = world.repair(dry_run=True)
    assert codes(told) == [damage.split()[0]]
    assert told["findings"][0]["repairable"]
    assert "eventlog fsck --repair" in told["findings"][0]["mend"]
    assert told["findings"][0]["result"].startswith("would ")
    assert (told["damaged"], told["mended"], standing(world.home)) == (1, 0, broken)

    mended = world.repair()
    assert (mended["damaged"], mended["mended"]) == (0, 1), failures(mended)
    assert (standing(world.home), world.table(), recorded(world)) == (before, rows, loaded)
    assert {path: (world.root / path).stat().st_ino for path in stamps} == stamps
    aside = [sha256(f.read_bytes()).hexdigest() for f in world.root.glob(".aside/**/*") if f.is_file()]
    assert aside == list(changed.values())
    assert world.fsck(deep=True)["findings"] == []


def test_a_missing_target_is_loaded_again(world: Upkept) -> None:
    """The database file is gone: the table is made by loading every batch again."""
    rows, loaded = world.table(), recorded(world)
    drop(world)
    assert sorted(codes(world.fsck())) == ["load_missing"] * 3 + ["table_missing"]
    assert world.repair()["damaged"] == 0
    assert (world.table(), recorded(world)) == (rows, loaded)


@pytest.mark.parametrize("tamper", ["DROP TABLE t", "COMMENT ON TABLE t IS NULL",
                                    "COMMENT ON TABLE t IS 'eventlog:00000000000000000000000000000000'"])  # fmt: skip
def test_a_replaced_table_is_named_and_left_alone(world: Upkept, tamper: str) -> None:
    """A table of another UUID is no place to load into: repair says so and moves nothing."""
    world.table(tamper)
    assert codes(world.repair()) == ["table_replaced"]
    assert len(recorded(world)) == 3


@pytest.mark.parametrize("rows", [
    "INSERT INTO t SELECT 'x', 'another', 0, 1, 0", "INSERT INTO t SELECT 'x', NULL, 0, 1, 0",
])  # fmt: skip
def test_rows_of_nobody_are_named(world: Upkept, rows: str) -> None:
    """Rows that no batch of this ledger accounts for are somebody else's to remove."""
    world.table(rows)
    found = world.repair()
    assert codes(found) == ["rows_unknown"]
    assert world.table("SELECT count(*) FROM t WHERE value = 'x'") == [(1,)]


def test_a_batch_that_the_ledger_does_not_know_is_named(world: Upkept) -> None:
    """A load that the ledger has lost shows in the table, in the manifest and in the commit record."""
    lost = world.table("SELECT max(_batch_id) FROM t")[0][0]
    for table in ("run_batch", "part", "generation", "slice", "batch"):
        world.ledger(f"DELETE FROM {table} WHERE batch_id = ?", lost)
    found = world.repair()
    assert {"batch_unknown", "manifest_unknown", "commit_unknown"} <= set(codes(found))
    assert found["mended"] == 0
    assert all("ledger" in f["mend"] for f in found["findings"] if f["code"].endswith("_unknown"))


@pytest.mark.parametrize(("statement", "code"), [
    ("UPDATE cut_offset SET offset = 7 WHERE cut_id = (SELECT max(cut_id) FROM cut) AND partition = 0",
     "cut_backwards"),
    ("UPDATE slice SET end = end + 1 WHERE rowid = (SELECT min(rowid) FROM slice)", "overlap"),
    ("UPDATE slice SET end = end - 1 WHERE rowid = (SELECT min(rowid) FROM slice)", "tiling"),
    ("UPDATE batch SET to_cut = NULL WHERE from_cut = (SELECT min(from_cut) FROM batch)", "chain_broken"),
    ("UPDATE slice SET rows = rows + 1 WHERE rowid = (SELECT min(rowid) FROM slice)", "slice_unbalanced"),
    ("UPDATE slice SET path = 'elsewhere' WHERE rowid = (SELECT min(rowid) FROM slice)", "slice_path"),
    ("UPDATE slice SET digest = NULL WHERE rowid = (SELECT min(rowid) FROM slice)", "slices_missing"),
    ("DELETE FROM part WHERE rowid = (SELECT min(rowid) FROM part)", "parts_missing"),
    ("UPDATE generation SET digest = 'x' WHERE rowid = (SELECT min(rowid) FROM generation)", "generation_digest"),
    ("UPDATE generation SET accounting = replace(accounting, '\"passed\":', '\"passed\":1') "
     "WHERE rowid = (SELECT min(rowid) FROM generation)", "generation_unbalanced"),
    ("DELETE FROM slice WHERE rowid = (SELECT min(rowid) FROM slice)", "gap"),
    ("DELETE FROM decision", "decision_unknown"),
])  # fmt: skip
def test_a_ledger_changed_by_hand_is_named_and_never_mended(world: Upkept, statement: str, code: str) -> None:
    """What only the ledger says is not overwritten from anywhere, and nothing is published from a ledger that lies."""
    before = standing(world.home)
    with world.database() as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        assert connection.execute(statement).rowcount == 1
    found = world.fsck()
    assert code in codes(found)
    assert all(not f["repairable"] for f in found["findings"] if f["code"] == code)
    world.repair()
    assert {path: digest for path, digest in standing(world.home).items() if path in before} == before


def test_a_hole_is_damage_until_it_is_filled(world: Upkept, tmp_path: Path) -> None:
    """A segment that nobody took is red, with the command that fills it; once it is taken the chain is sound.

    Where another topic was adopted since, nobody can take it any more: that was decided, and is a note.
    """
    fresh = Upkept(tmp_path / "fresh")
    fresh.run(0)
    late = fresh.engine()
    with late:
        from airflow_provider_eventlog.core import stages
        from airflow_provider_eventlog.core.requests import RunRequest
        from tests.support.upkept import ENDS, SECOND, START

        interval = (START + ENDS[1] * SECOND, START + ENDS[2] * SECOND)
        stages.run(late, PIPELINE, RunRequest("interval", interval=interval, gap="hole"), "late")
    found = fresh.fsck()
    assert codes(found) == ["hole"]
    assert "backfill" in found["findings"][0]["mend"]
    assert "0:8-15,1:3-5" in found["findings"][0]["where"]
    fresh.ledger("INSERT INTO epoch VALUES ('orders', 2, 'cluster', 'orders', 'another', 'adopted')")
    closed = fresh.fsck()
    assert (codes(closed), codes(closed, damaged=False)) == ([], ["hole_closed"])
    fresh.ledger("DELETE FROM epoch WHERE epoch = 2")
    fresh.run(1)
    assert fresh.fsck()["findings"] == []


def test_manifests_of_the_future_are_left_to_their_release(world: Upkept) -> None:
    """A record of a newer format is damage to this release, which does not write over it."""
    for file in (world.manifests()[0], world.commits()[0], decision(world)):
        edit(file, seal=True, number=99)
    before = standing(world.home)
    found = world.repair()
    assert sorted(codes(found)) == ["commit_newer", "decision_newer", "manifest_newer"]
    assert all("release" in f["mend"] for f in found["findings"])
    assert (found["mended"], standing(world.home)) == (0, before)


def test_superseded_generations_are_no_damage(world: Upkept) -> None:
    """What a later generation has replaced is missed by nobody: a note."""
    louder = PIPELINE.replace(transform=shouts)
    world.run(0, louder, "p-0")
    batch = world.ledger("SELECT batch_id FROM generation WHERE gen = 2")[0][0]
    next(f for f in world.parts() if f"{batch}/gen=1" in str(f)).unlink()
    found = world.repair(louder)
    assert (codes(found), codes(found, damaged=False)) == ([], ["part_missing"])
    assert "later generation" in found["findings"][0]["mend"]


def test_a_load_that_was_not_written_down_is_no_damage(world: Upkept) -> None:
    """Killed between the target's commit and the ledger's: the next load says so, nothing has to be mended."""
    world.run(0, PIPELINE.replace(transform=shouts), "p-0")
    for gen in (2, 1):
        world.ledger("UPDATE generation SET state = 'validated' WHERE gen = ?", gen)
        found = world.fsck()
        assert found["damaged"] == 0
        assert set(codes(found, damaged=False)) == {"load_unfinished"}
    assert found["states"]["p"] == {"validated": 3, "not taken": 0}


def test_held_generations_are_told_apart(world: Upkept) -> None:
    """A batch that validation stopped is reported as held, and nothing of it is missed in the target."""
    with world.engine() as engine:
        batch = engine.ledger.batches("orders")[0][0].batch_id
        with engine.ledger.planning("orders", None) as tx:
            number = tx.allocate("p", batch, "recipe", "inputs")
        engine.ledger.advance_generation("p", batch, number, GenerationState.HELD, accounting={})
    found = world.fsck()
    assert (found["damaged"], codes(found, damaged=False)) == (0, ["held"])
    assert found["states"]["p"] == {"held": 1, "loaded": 2, "not taken": 0}


def test_a_second_pipeline_that_has_not_taken_everything(world: Upkept) -> None:
    """Batches that a pipeline has not taken are counted; its own table is held against what it has loaded."""
    world.run(1, SECOND_PIPELINE)
    found = world.fsck()
    assert found["findings"] == []
    assert found["states"] == {"p": {"loaded": 3, "not taken": 0}, "q": {"loaded": 1, "not taken": 2}}
    world.table("DELETE FROM u WHERE _offset = 8")
    assert [f["pipeline"] for f in world.fsck()["findings"]] == ["q"]


def test_a_new_output_does_not_miss_the_batches_of_older_recipes(world: Upkept) -> None:
    """An output that a later recipe added is expected to hold what was loaded since, no more."""
    wider = PIPELINE.replace(outputs=[*PIPELINE.outputs, Rows(DuckDB(TARGET, table="more"))])
    world.run(2, wider, "p-2")
    assert world.fsck()["findings"] == []
    world.table("DELETE FROM more")
    assert codes(world.fsck()) == ["rows_differ"]
    assert world.repair(wider)["damaged"] == 0


def test_hostile_names_stay_names(world: Upkept, tmp_path: Path) -> None:
    """Foreign files, odd names and links below the root are told or passed over, and never followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    stream = world.root / "orders"
    (stream / "link").symlink_to(outside)
    for name in ("; rm -rf x", "new\nline", "<b>", "epoch=1", "\udcff"):
        folder = stream / "strange"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    target = world.raw()[0]
    target.unlink()
    target.symlink_to(outside / "secret")
    found = world.fsck()
    assert codes(found) == ["raw_unreadable"]
    assert "symbolic link" in found["findings"][0]["what"]
    assert codes(found, damaged=False) == ["foreign"]
    assert "5 files" in found["findings"][-1]["what"]
    assert found["findings"][-1]["what"].isprintable()
    world.repair()
    assert (outside / "secret").read_text() == "x"
    assert target.is_symlink()


def test_work_under_way_is_not_damage(world: Upkept) -> None:
    """A run between any two of its stages is sound."""
    from airflow_provider_eventlog.core import stages
    from airflow_provider_eventlog.core.requests import RunRequest

    fresh = SECOND_PIPELINE.replace(name="r")
    with world.engine() as engine:
        request = RunRequest("since_last", parallelism=1)
        steps: list[Callable[[], Any]] = [
            lambda: stages.plan(engine, fresh, request, "k"),
            lambda: stages.land(engine, fresh, "k", 0),
            lambda: stages.transform(engine, fresh, "k", 0),
            lambda: stages.validate(engine, fresh, "k"),
        ]
        for step in steps:
            step()
            assert world.fsck()["damaged"] == 0


def test_an_audit_can_be_stopped(world: Upkept) -> None:
    """Told to stop, it stops between two files."""
    from airflow_provider_eventlog.core.fsck import fsck

    with world.engine() as engine:
        seen: list[tuple[int, int]] = []

        def stop(what: str, done: int, total: int) -> None:
            seen.append((done, total))
            engine.cancel.set()

        engine.progress = stop
        with pytest.raises(ReadCancelledError):
            fsck(engine, "orders")
    assert len(seen) == 1
    assert 0 < seen[0][0] < seen[0][1]


def test_stages_name_the_remedy(world: Upkept) -> None:
    """A stage that misses a file says which command brings it back."""
    from airflow_provider_eventlog.core import stages

    def land() -> None:
        for group in range(2):
            stages.land(engine, PIPELINE, "p-0", group)

    def validate() -> None:
        for key in ("p-0", "p-1", "p-2"):
            validating.validate_run(engine, PIPELINE, engine.ledger.run_plan(key, "p"))

    with world.engine() as engine:
        world.raw()[0].unlink()
        with pytest.raises(StagingMissingError, match="eventlog fsck --repair"):
            land()
        world.repair()
        world.parts()[0].unlink()
        with pytest.raises(StagingMissingError, match="eventlog fsck --repair"):
            validate()


def test_an_unknown_stream_is_a_request_error(world: Upkept) -> None:
    """Asking for what is not registered is refused."""
    from airflow_provider_eventlog.core.fsck import fsck

    with world.engine() as engine, pytest.raises(RequestError, match="nothing"):
        fsck(engine, "nothing")
    with world.engine() as engine, pytest.raises(RequestError, match="let no files go"):
        fsck(engine, "orders", restore=["x"])
