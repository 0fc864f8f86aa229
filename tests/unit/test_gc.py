"""gc: what nobody needs goes, after a grace period or by a declared retention; all else, and all accounting, stays."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import deriving, gc, stages
from airflow_provider_eventlog.core.backfill import FROM_STAGING, LET_GO, survey
from airflow_provider_eventlog.core.errors import RawExpiredError, RequestError, StagingMissingError
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Rows
from tests.support.upkept import DAY, ORDERS, PIPELINE, TARGET, Upkept, failures, shouts

FORGETFUL = PIPELINE.replace(stream=replace(ORDERS, raw_retention="7 days"), derived_retention="2 days")
OTHER = FORGETFUL.replace(name="q", outputs=[Rows(DuckDB(TARGET, table="u"))])


def now_of(world: Upkept) -> int:
    """The store's own present, by which ages of files go."""
    return max(f.stat().st_ctime_ns for f in world.root.rglob("*")) // 1_000_000 + 1


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three loaded batches of a pipeline with retention."""
    world = Upkept(tmp_path_factory.mktemp("calm") / "home")
    for number in range(3):
        world.run(number, FORGETFUL)
    return world.home


@pytest.fixture
def world(calm: Path, tmp_path: Path) -> Upkept:
    """A copy of it, with the clock at the store's present."""
    shutil.copytree(calm, tmp_path / "home", symlinks=True)
    made = Upkept(tmp_path / "home")
    made.now = now_of(made)
    return made


def names(world: Upkept) -> list[str]:
    """All files of the staging root, but for the root's id."""
    return sorted(str(f.relative_to(world.root)) for f in world.root.rglob("*") if f.is_file() or f.is_symlink())


def put(world: Upkept, path: str, data: bytes = b"left behind") -> Path:
    file = world.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def accounting(world: Upkept) -> list[str]:
    """Names of manifests, commits and recipes."""
    return [name for name in names(world) if name.endswith(".json") and "/decisions/" not in name]


LEFT = (
    ".tmp/0123456789abcdef0123456789abcdef",
    "orders/epoch=1/raw/partition=0/0000000000000000500-0000000000000000600.parquet",
    "orders/pipeline=p/batch=ffffffffffffffffffffffff/gen=1/typed/partition=0/"
    "0000000000000000000-0000000000000000006.parquet",
)


def test_left_behind_files_go_after_the_grace_period(world: Upkept) -> None:
    """Temporary files and files that nothing names go when they are old enough, and not a moment earlier."""
    before = names(world)
    for path in LEFT:
        put(world, path)
    world.now = now_of(world) + 1000
    young = world.gc()
    assert (young["temporary"]["files"], young["streams"][0]["orphans"]["files"]) == (0, 0)
    assert names(world) == sorted([*before, *LEFT])
    told = world.gc(grace_ms=500, dry_run=True)
    assert names(world) == sorted([*before, *LEFT])
    assert told["streams"][0]["orphans"]["paths"] == list(LEFT[1:])
    done = world.gc(grace_ms=500)
    assert done == {**told, "dry_run": False}
    assert done["temporary"] == {"files": 1, "bytes": 11}
    assert done["streams"][0]["orphans"] == {"files": 2, "bytes": 22, "paths": list(LEFT[1:])}
    assert names(world) == before
    again = world.gc(grace_ms=500)
    assert (again["temporary"]["files"], again["streams"][0]["orphans"]["files"]) == (0, 0)
    assert world.fsck(deep=True)["findings"] == []


def test_a_file_published_just_now_is_new_however_long_ago_it_was_written(world: Upkept) -> None:
    """Age counts from the last change of a file's names too: a slow attempt's link is not taken for old."""
    file = put(world, LEFT[1])
    os.utime(file, (1, 1))
    world.now = now_of(world) + 1000
    assert world.gc()["streams"][0]["orphans"]["files"] == 0
    assert file.exists()


HOSTILE = (
    "orders/epoch=1/raw/partition=0/500-600.parquet",
    "orders/epoch=1/raw/partition=00/0000000000000000500-0000000000000000600.parquet",
    "orders/epoch=1/raw/partition=0/0000000000000000600-0000000000000000500.parquet",
    "orders/epoch=1/raw/partition=0/9999999999999999999-9999999999999999999.parquet",
    "orders/epoch=1/raw/partition=0/0000000000000000500-0000000000000000600.parquet\n",
    "orders/epoch=2/raw/partition=0/0000000000000000500-0000000000000000600.parquet",
    "orders/pipeline=unknown/batch=ffff/gen=1/typed/partition=0/0000000000000000000-0000000000000000006.parquet",
    "orders/pipeline=p/folds/t/1/000000000001-abc",
    "orders/pipeline=P/batch=ffff/gen=1/typed/partition=0/0000000000000000000-0000000000000000006.parquet",
    "other/epoch=1/raw/partition=0/0000000000000000500-0000000000000000600.parquet",
    "orders/notes.txt",
    "orders/epoch=1/manifests/ffffffffffffffffffffffff.json",
    "orders/decisions/skip/ffff.json",
    ".tmp/not-ours",
    ".tmp/0123456789abcdef0123456789abcdef/x",
    ".aside/x",
    "; rm -rf x",
)


def test_only_names_of_its_own_are_removed(world: Upkept, tmp_path: Path) -> None:
    """Whatever else lies below the root, however old, stays: other streams, odd numbers, links, and their ends."""
    outside = tmp_path / "outside"
    (outside / "partition=7").mkdir(parents=True)
    name = "0000000000000000500-0000000000000000600.parquet"
    (outside / "partition=7" / name).write_bytes(b"x")
    for path in HOSTILE:
        put(world, path)
    (world.root / "orders/epoch=1/raw/partition=7").symlink_to(outside / "partition=7")
    (world.root / "orders/epoch=1/raw/partition=0" / name).symlink_to(outside / "partition=7" / name)
    before = names(world)
    world.now = now_of(world) + DAY
    done = world.gc(grace_ms=0)
    assert (done["temporary"]["files"], done["streams"][0]["orphans"]["files"]) == (0, 0)
    assert names(world) == before
    assert (outside / "partition=7" / name).read_bytes() == b"x"


def test_what_a_manifest_or_commit_names_is_kept(world: Upkept) -> None:
    """A ledger that has lost batches does not cost their files: their records name them. Nor does an unreadable one."""
    lost = world.ledger("SELECT batch_id FROM batch ORDER BY to_cut DESC LIMIT 1")[0][0]
    for table in ("run_batch", "part", "generation", "slice", "batch"):
        world.ledger(f"DELETE FROM {table} WHERE batch_id = ?", lost)
    before = names(world)
    world.now = now_of(world) + DAY
    done = world.gc(grace_ms=0)["streams"][0]
    assert (done["orphans"]["files"], names(world)) == (0, before)
    assert done["left_alone"] > 0
    orphan = put(world, LEFT[1])
    world.now = now_of(world) + DAY
    manifest = world.root / f"orders/epoch=1/manifests/{lost}.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-20])
    assert world.gc(grace_ms=0)["streams"][0]["orphans"]["files"] == 0
    manifest.write_bytes(whole)
    assert world.gc(grace_ms=0)["streams"][0]["orphans"]["files"] == 1
    assert not orphan.exists()


def test_a_name_that_is_planned_is_never_an_orphan(world: Upkept) -> None:
    """Files of an attempt that has published and not recorded, however old: the next attempt adopts them."""
    with world.engine() as engine:
        bound = stages.plan(engine, FORGETFUL, RunRequest("since_last", parallelism=1), "k")
        stages.land(engine, FORGETFUL, "k", 0)
        stages.transform(engine, FORGETFUL, "k", 0)
        ids = [p.batch.batch_id for p in bound.batches]
    for batch_id in ids:
        world.ledger("DELETE FROM part WHERE batch_id = ?", batch_id)
        world.ledger("UPDATE slice SET path = NULL, file_bytes = NULL, sha256 = NULL, digest = NULL, rows = NULL "
                     "WHERE batch_id = ?", batch_id)  # fmt: skip
        world.ledger("UPDATE batch SET state = 'planned', manifest_digest = NULL WHERE batch_id = ?", batch_id)
    before = names(world)
    world.now = now_of(world) + DAY
    done = world.gc(grace_ms=0)
    assert done["streams"][0]["orphans"]["files"] == 0
    assert names(world) == before
    reads = world.log.reads
    with world.engine() as engine:
        stages.run(engine, FORGETFUL, RunRequest("since_last", parallelism=1), "k")
    assert world.log.reads == reads
    assert world.fsck(deep=True)["findings"] == []


def test_retention_lets_go_what_is_loaded_and_keeps_the_accounting(world: Upkept) -> None:
    """Parts after two days, raw files after seven, each on a decision that stands in ledger and staging first.

    Manifests, commits and rows stay; fsck knows; a second call has nothing to do.
    """
    kept, rows, raw, parts = accounting(world), world.table(), len(world.raw()), len(world.parts())
    with world.engine() as engine:
        figures = [g.accounting for g in engine.ledger.generations("p")]
    start = world.now
    assert world.gc()["streams"][0]["raw"]["files"] == 0
    world.now = start + 3 * DAY
    told = world.gc(dry_run=True)["streams"][0]
    assert (len(world.parts()), world.ledger("SELECT count(*) FROM decision")) == (parts, [(0,)])
    done = world.gc()["streams"][0]
    assert done == told
    assert (done["parts"][0]["batches"], done["parts"][0]["files"]) == (3, parts)
    assert (world.parts(), len(world.raw()), done["raw"]["batches"]) == ([], raw, 0)
    world.now = start + 8 * DAY
    done = world.gc(who="the night")["streams"][0]
    assert (done["raw"]["batches"], done["raw"]["files"], world.raw()) == (3, raw, [])
    records = [json.loads(f.read_text())["record"] for f in world.root.glob("orders/decisions/expired/*.json")]
    assert {r["payload"]["what"] for r in records} == {"raw", "parts"}
    [letting] = [r for r in records if r["payload"]["what"] == "raw"]
    assert (letting["who"], letting["at"], letting["payload"]["files"]) == ("the night", world.now, raw)
    assert "raw_retention" in letting["why"]
    assert (accounting(world), world.table()) == (kept, rows)
    with world.engine() as engine:
        assert [g.accounting for g in engine.ledger.generations("p")] == figures
    found = world.fsck(deep=True)
    assert found["findings"] == []
    assert found["checked"]["batches with expired raw files"] == 3
    assert found["checked"]["generations with expired parts"] == 3
    assert found["bytes"] == 0
    files = names(world)
    again = world.gc()["streams"][0]
    assert (again["raw"]["batches"], again["parts"][0]["batches"], again["raw"]["decision"]) == (0, 0, None)
    assert names(world) == files


def test_without_retention_nothing_is_let_go(tmp_path: Path) -> None:
    """None means for ever."""
    world = Upkept(tmp_path / "home")
    world.run(0)
    before = names(world)
    world.now = now_of(world) + 10_000 * DAY
    world.gc()
    assert names(world) == before


def _held(world: Upkept) -> None:
    with world.engine() as engine:
        batch = engine.ledger.batches("orders")[0][0].batch_id
        with engine.ledger.planning("orders", None) as tx:
            number = tx.allocate("p", batch, "recipe", "inputs")
        engine.ledger.advance_generation("p", batch, number, GenerationState.HELD, accounting={})


def _planned(world: Upkept) -> None:
    with world.engine() as engine:
        stages.plan(engine, FORGETFUL.replace(transform=shouts), RunRequest("since_last"), "p-0")


def _validated(world: Upkept) -> None:
    louder = FORGETFUL.replace(transform=shouts)
    with world.engine() as engine:
        bound = stages.plan(engine, louder, RunRequest("since_last"), "p-0")
        for group in range(len(bound.groups)):
            stages.land(engine, louder, "p-0", group)
            stages.transform(engine, louder, "p-0", group)
        stages.validate(engine, louder, "p-0")


def _not_taken(world: Upkept) -> None:
    world.run(1, OTHER)
    world.run(2, OTHER)


def _unregistered(world: Upkept) -> None:
    """Killed between the plan and its registration."""
    with world.engine() as engine, engine.ledger.planning("orders", None) as tx:
        tx.allocate("strange", tx.batches(1)[0].batch_id, "recipe", "inputs")


def _damaged(world: Upkept) -> None:
    world.raw()[0].unlink()


def _unsealed(world: Upkept) -> None:
    with world.engine() as engine:
        batch = engine.ledger.batches("orders")[0][0].batch_id
    (world.root / f"orders/epoch=1/manifests/{batch}.json").unlink()


@pytest.mark.parametrize("need", [_held, _planned, _validated, _not_taken, _unregistered, _damaged, _unsealed])
def test_what_anybody_needs_stays(world: Upkept, need: Any) -> None:
    """A batch that is not loaded by every pipeline as its newest generation, or that is damaged, keeps its raw files.

    The others go.
    """
    with world.engine() as engine:
        first = engine.ledger.batches("orders")[0][0]
    need(world)
    wanted = [str(f) for f in world.raw() if need is _unregistered or any(_inside(f, r) for r in first.ranges)]
    world.now = now_of(world) + 8 * DAY
    done = world.gc()["streams"][0]
    assert done["raw"]["batches"] == (0 if need is _unregistered else 2)
    assert sum(done["raw"]["kept"].values()) >= 1
    assert [str(f) for f in world.raw()] == wanted
    parts = done["parts"][0]
    assert parts["batches"] == (2 if need in (_held, _planned, _validated) else 3)
    if need is _validated:
        assert len(world.parts()) > 0
        with world.engine() as engine:
            stages.load(engine, FORGETFUL.replace(transform=shouts), "p-0")
    assert world.fsck()["damaged"] == (1 if need in (_damaged, _unsealed) else 0)


def _inside(file: Path, ranges: Any) -> bool:
    start = int(file.name.split("-")[0])
    return file.parent.name == f"partition={ranges.partition}" and ranges.start <= start < ranges.end


def test_superseded_generations_go_first(world: Upkept) -> None:
    """A generation that a later one has replaced goes when it is old, while the later one is still young."""
    world.now = now_of(world) + 3 * DAY
    louder = FORGETFUL.replace(transform=shouts)
    with world.engine() as engine:
        batch = engine.ledger.run_plan("p-0", "p").batches[0].batch.batch_id
        world.run(0, louder, "p-0")
    new = [f for f in world.parts() if "gen=2" in str(f)]
    for file in new:
        os.utime(file, (world.now / 1000, world.now / 1000))
    done = world.gc()["streams"][0]["parts"][0]
    assert done["batches"] == 3
    assert world.parts() == new
    assert all(batch in str(f) for f in new)
    assert world.fsck()["findings"] == []


def test_a_replay_of_expired_raw_files_is_refused_by_name(world: Upkept) -> None:
    """A new recipe over an expired batch is refused when it is planned, and nothing is allocated; so is landing."""
    world.now = now_of(world) + 8 * DAY
    decision = world.gc()["streams"][0]["raw"]["decision"]
    louder = FORGETFUL.replace(transform=shouts)
    for key in ("p-0", "new"):
        with pytest.raises(RawExpiredError, match=decision) as raised:
            world.run(0, louder, key)
        assert not raised.value.retriable
        assert "Nothing was planned" in str(raised.value)
        assert "raw_retention" in str(raised.value)
    assert world.ledger("SELECT max(gen), count(*) FROM generation") == [(1, 3)]
    with pytest.raises(RawExpiredError, match=decision):
        world.run(0, FORGETFUL, "p-0")
    with world.engine() as engine:
        bound = engine.ledger.run_plan("p-0", "p")
        with pytest.raises(RawExpiredError, match=decision):
            deriving.decoded(engine, FORGETFUL, bound)
        with pytest.raises(StagingMissingError, match="derived_retention"):
            deriving.derive(engine, FORGETFUL, bound.batches[0], bound.batches[0].batch.slices[0])


def test_a_back_fill_of_expired_raw_files_says_so_before_it_begins(world: Upkept) -> None:
    """A survey under another recipe names batches that retention let go; under the same recipe they are replays."""
    world.now = now_of(world) + 8 * DAY
    decision = world.gc()["streams"][0]["raw"]["decision"]
    with world.engine() as engine:
        batch = engine.ledger.run_plan("p-0", "p").batches[0].batch
        found = survey(engine, FORGETFUL.replace(transform=shouts), batch.ranges)
        assert (found.chunks, [(item.state, item.batch_id) for item in found.gone]) == ((), [(LET_GO, batch.batch_id)])
        with pytest.raises(RawExpiredError, match=decision):
            found.refuse_gone()
        same = survey(engine, FORGETFUL, batch.ranges)
        assert (same.gone, [item.state for chunk in same.chunks for item in chunk.items]) == ((), [FROM_STAGING])


def test_a_pipeline_that_comes_after_retention_begins_behind_it(world: Upkept) -> None:
    """What came since the last batch leaves expired batches out, says so, and goes on with the ones that stand."""
    world.now = now_of(world) + 8 * DAY
    world.run(2, FORGETFUL)
    world.gc()
    with world.engine() as engine:
        made = stages.plan(engine, OTHER, RunRequest("since_last", parallelism=1), "k")
    assert [p.mode for p in made.batches] == ["new"]
    assert any("3 batches are left out" in note and "fsck --restore" in note for note in made.notes)


def test_restore_brings_back_what_kafka_still_gives(world: Upkept) -> None:
    """Raw files land again and parts are derived again, byte for byte; then replays and new recipes work again.

    Until it is let go anew: gc decides a second time.
    """
    before = {name: (world.root / name).read_bytes() for name in names(world)}
    world.now = now_of(world) + 8 * DAY
    world.gc()
    with world.engine() as engine:
        batch = engine.ledger.run_plan("p-0", "p").batches[0].batch.batch_id
    left = names(world)
    told = world.fsck(restore=[batch], pipelines=[FORGETFUL], dry_run=True)
    assert (names(world), told["mended"], told["failed"]) == (left, 0, 0)
    assert {f["code"] for f in told["findings"]} == {"raw_expired", "part_expired"}
    done = world.fsck(restore=[batch], pipelines=[FORGETFUL])
    assert (done["failed"], done["damaged"]) == (0, 0), failures(done)
    back = set(names(world)) - set(left)
    decided = {name for name in back if "/decisions/restored/" in name}
    assert len(decided) == 2
    assert {name: (world.root / name).read_bytes() for name in back - decided} == {
        name: before[name] for name in back - decided
    }
    found = world.fsck(deep=True)
    assert (found["findings"], found["checked"]["batches with expired raw files"]) == ([], 2)
    assert world.run(0, FORGETFUL, "p-0")["load"]["batches"][0]["outputs"]["t"]["outcome"] == "existed"
    world.run(0, FORGETFUL.replace(transform=shouts), "p-0")
    world.now = now_of(world) + 16 * DAY
    assert world.gc()["streams"][0]["raw"]["batches"] == 1
    assert world.raw() == []
    assert world.fsck()["findings"] == []


@pytest.mark.parametrize("trouble", ["changed", "gone"])
def test_restore_of_what_kafka_has_lost_says_so(world: Upkept, trouble: str) -> None:
    """Other records, or none: nothing is published, the batch stays expired, and the call fails."""
    world.now = now_of(world) + 8 * DAY
    world.gc()
    with world.engine() as engine:
        batch = engine.ledger.run_plan("p-0", "p").batches[0].batch.batch_id
    left = names(world)
    if trouble == "changed":
        world.log.dropped.add((0, 1))
    else:
        world.log.start = 4
    found = world.fsck(restore=[batch], pipelines=[FORGETFUL])
    assert found["failed"] > 0
    assert ("compaction" if trouble == "changed" else "Kafka begins at offset 4") in failures(found)
    raw = [n for n in names(world) if "/raw/" in n]
    assert not any("partition=0/0000000000000000000" in n for n in raw)
    assert not any("/decisions/restored/" in n for n in set(names(world)) - set(left))
    with pytest.raises(RawExpiredError):
        world.run(0, FORGETFUL.replace(transform=shouts), "p-0")


def test_files_that_restore_is_bringing_back_are_not_taken_away(world: Upkept) -> None:
    """Landed again and not decided on yet: young files of an expired batch stay."""
    world.now = now_of(world) + 8 * DAY
    world.gc()
    with world.engine() as engine:
        batch = engine.ledger.run_plan("p-0", "p").batches[0].batch.batch_id
    world.fsck(restore=[batch])
    world.ledger("DELETE FROM decision WHERE kind = 'restored'")
    raw = world.raw()
    world.now = now_of(world) + DAY
    world.gc()
    assert (world.raw(), len(raw) > 0) == (raw, True)


def test_quarantined_rows_and_other_outputs_keep_their_parts(world: Upkept) -> None:
    """Parts of other kinds than rows are left where they are."""
    with world.engine() as engine:
        generation = engine.ledger.generations("p")[0]
    kept = put(
        world,
        f"orders/pipeline=p/batch={generation.batch_id}/gen=1/quarantine/partition=0/"
        "0000000000000000000-0000000000000000006.parquet",
    )
    world.now = now_of(world) + 8 * DAY
    world.gc()
    assert kept.exists()
    assert world.parts() == []


def test_an_unknown_stream_is_refused(world: Upkept) -> None:
    """Nothing is removed for a name that is not registered."""
    with pytest.raises(RequestError, match="orders"):
        world.gc(streams=["nothing"])


def test_what_repair_set_aside_is_counted_and_kept(world: Upkept) -> None:
    """Nothing that was replaced is ever removed without a person."""
    put(world, ".aside/orders/x/abc")
    world.now = now_of(world) + 100 * DAY
    assert world.gc(grace_ms=0)["aside"] == {"files": 1, "bytes": 11}
    assert (world.root / ".aside/orders/x/abc").exists()


def test_retention_is_no_part_of_a_recipe() -> None:
    """Declaring it derives nothing anew."""
    assert FORGETFUL.recipe == PIPELINE.recipe
    assert (FORGETFUL.derived_retention_ms, FORGETFUL.stream.raw_retention_ms) == (2 * DAY, 7 * DAY)
    assert gc.GRACE_MS == DAY


def test_a_pipeline_that_went_over_to_another_stream_needs_nothing(world: Upkept) -> None:
    """What it has taken is still audited and never an orphan; what it has not taken waits for it no more."""
    world.run(1, OTHER)
    world.ledger("UPDATE pipeline SET stream = 'another' WHERE name = 'q'")
    before = world.parts("q")
    found = world.fsck()
    assert (found["damaged"], found["states"]["q"]) == (0, {"loaded": 1, "not taken": 2})
    world.now = now_of(world) + 8 * DAY
    done = world.gc()["streams"][0]
    assert (done["raw"]["batches"], done["orphans"]["files"]) == (3, 0)
    assert world.parts("q") == before != []
    assert world.fsck()["damaged"] == 0
