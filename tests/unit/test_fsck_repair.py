"""Repair: made again from what still proves it, or not at all, and then with the reason and the way out."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.offsets import TopicIdentity
from airflow_provider_eventlog.declare import Check, DuckDB, Rows
from tests.support.upkept import (
    PIPELINE,
    SECOND_PIPELINE,
    TARGET,
    Upkept,
    codes,
    copied,
    failures,
    flip,
    lived_in,
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


def test_everything_at_once_is_mended_in_order(world: Upkept) -> None:
    """Raw, part, records and loads of one batch all gone: each is made again from the one before."""
    before, rows = standing(world.home), world.table()
    for file in (
        *world.raw(),
        *world.parts(),
        *world.manifests(),
        *world.commits(),
        next(world.root.glob("orders/decisions/note/*.json")),
    ):
        file.unlink()
    (world.home / TARGET).unlink()
    assert world.fsck()["damaged"] == len(before) - len(list(world.root.glob("orders/pipeline=p/recipes/*"))) + 4
    mended = world.repair()
    assert mended["damaged"] == 0, failures(mended)
    assert (standing(world.home), world.table()) == (before, rows)


def test_no_phantom_by_repair(world: Upkept) -> None:
    """Kafka no longer gives the same records: nothing is published, the broken file stays where it is and as it is."""
    flip(world.raw()[0])
    broken = standing(world.home)
    visible = world.log.entry(0, 1)
    assert visible is not None
    world.log.dropped.add((0, 1))
    found = world.repair()
    assert codes(found) == ["raw_corrupt"]
    assert "compaction" in failures(found)
    assert standing(world.home) == broken
    world.log.dropped.clear()
    assert world.repair()["damaged"] == 0


@pytest.mark.parametrize("way", ["gone", "replaced"])
def test_what_kafka_no_longer_has_is_said(world: Upkept, way: str) -> None:
    """Offsets below the log start, or another topic under the name: repair names it and changes nothing."""
    world.raw()[0].unlink()
    if way == "gone":
        world.log.start = 5
    else:
        world.log.identity = TopicIdentity("cluster", "orders", "another")
    found = world.repair()
    assert codes(found) == ["raw_missing"]
    assert ("OffsetsLostError" if way == "gone" else "TopicReplacedError") in failures(found)
    dry = world.repair(dry_run=True)
    assert dry["damaged"] == 1
    assert "would" not in failures(dry)


@pytest.mark.parametrize("given", [(), (PIPELINE.replace(transform=shouts),), (SECOND_PIPELINE,)])
def test_parts_are_derived_under_their_own_recipe_only(world: Upkept, given: tuple[Any, ...]) -> None:
    """Without the pipeline that made a part, or with another recipe, it is not derived, and the way out is named."""
    world.parts()[0].unlink()
    before = standing(world.home)
    found = world.fsck(repair=True, pipelines=given)
    assert codes(found) == ["part_missing"]
    assert "clear the batch's run from plan" in failures(found)
    assert standing(world.home) == before


def test_loads_need_no_code(world: Upkept) -> None:
    """A table is loaded again from staged parts by the registered declaration alone."""
    rows = world.table()
    world.table("DELETE FROM t")
    assert codes(world.fsck()) == ["rows_differ"] * 3
    assert world.fsck(repair=True)["damaged"] == 0
    assert world.table() == rows


def test_the_same_rows_in_other_bytes(world: Upkept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of the writer gives other bytes: the rows are proved, and ledger, manifest and commit follow.

    A decision says so, and the damaged files and the records that named them are set aside.
    """
    rows = world.table()
    raw, part = world.raw()[0], world.parts()[0]
    for file in (raw, part):
        file.unlink()
    monkeypatch.setitem(rawfile.WRITING, "compression_level", 19)
    mended = world.repair()
    assert mended["damaged"] == 0, failures(mended)
    named = [d.read_text() for d in world.root.glob("orders/decisions/repaired/*.json")]
    assert len(named) == 2
    for file in (raw, part):
        digest = sha256(file.read_bytes()).hexdigest()
        assert any(digest in text for text in named)
        kept = [*world.manifests(), *world.commits()]
        assert sum(digest in record.read_text() for record in kept) == 1
    assert world.fsck(deep=True)["findings"] == []
    world.run(0)
    assert world.table() == rows


STOPPING = PIPELINE.replace(
    name="s",
    outputs=[Rows(DuckDB(TARGET, table="passed"))],
    checks=[Check("no_de", "value not like '%\"DE\"%'", on_fail="quarantine")],
    quarantine=DuckDB(TARGET, table="stopped"),
    max_quarantine_ratio=1.0,
)


@pytest.mark.parametrize("harm", ["part", "rows", "table", "all"])
def test_the_quarantine_is_looked_after_too(world: Upkept, harm: str) -> None:
    """Its parts are verified and derived again, its table is compared and loaded again, like any other rows."""
    for number in range(3):
        world.run(number, STOPPING)
    before = standing(world.home)
    stopped = sorted(world.root.glob("orders/pipeline=s/batch=*/gen=*/quarantine/*/*.parquet"))
    rows = world.table("SELECT * FROM stopped ORDER BY ALL")
    assert stopped
    assert rows
    assert world.fsck(deep=True)["findings"] == []
    if harm in ("part", "all"):
        flip(stopped[0])
    if harm in ("rows", "all"):
        world.table("DELETE FROM stopped WHERE _offset = (SELECT min(_offset) FROM stopped)")
    if harm == "table":
        world.table("DELETE FROM _eventlog_load WHERE table_uuid = (SELECT table_uuid FROM _eventlog_output "
                    "WHERE table_name = 'stopped')")  # fmt: skip
    named = {"part": {"part_corrupt"}, "rows": {"rows_differ"}, "table": {"load_missing"}}
    found = world.fsck()
    assert set(codes(found)) == named.get(harm, {"part_corrupt", "rows_differ"})
    assert world.repair(PIPELINE, STOPPING)["damaged"] == 0
    assert (standing(world.home), world.table("SELECT * FROM stopped ORDER BY ALL")) == (before, rows)
