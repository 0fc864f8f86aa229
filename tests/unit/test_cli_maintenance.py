"""`eventlog fsck` and `eventlog gc` as commands: what they print, what they end with, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.cli.main import main
from tests.support.upkept import DAY, PIPELINE, Upkept


@pytest.fixture
def world(tmp_path: Path) -> Upkept:
    """One loaded batch, at the command line's default places below its home."""
    made = Upkept(tmp_path / "home")
    made.run(0)
    return made


def run(world: Upkept, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main([*words, "--home", str(world.home)])
    out, err = capsys.readouterr()
    return code, out, err


def document(world: Upkept, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Exit code and JSON document of a command."""
    code, out, _ = run(world, capsys, *words, "--output", "json")
    return code, json.loads(out)


def declared(tmp_path: Path) -> str:
    """The world's pipeline as a file that --pipeline can name."""
    file = tmp_path / "pipelines.py"
    file.write_text("from tests.support.upkept import PIPELINE\n")
    return f"{file}:PIPELINE"


def test_fsck_of_a_sound_world_ends_with_0(world: Upkept, capsys: pytest.CaptureFixture[str]) -> None:
    """Text says what was looked at; JSON has no findings; --deep too. No Kafka is named, and none is needed."""
    code, out, err = run(world, capsys, "fsck")
    assert code == 0
    assert "stream orders: sound" in out
    assert "pipeline p: 1 loaded" in out
    assert "verified bytes" in err
    code, found = document(world, capsys, "fsck", "--deep")
    assert (code, found["damaged"], found["streams"][0]["findings"]) == (0, 0, [])


def test_fsck_names_damage_and_ends_with_1(world: Upkept, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What differs, where, and the command that mends it; with that command it is mended and the end is 0."""
    world.parts()[0].unlink()
    world.table("DELETE FROM t")
    code, out, _ = run(world, capsys, "fsck")
    assert code == 1
    assert "DAMAGED: part_missing: orders/pipeline=p/batch=" in out
    assert "DAMAGED: rows_differ: out.duckdb, table main.t" in out
    assert "eventlog fsck --repair" in out
    reference = declared(tmp_path)
    code, found = document(world, capsys, "fsck", "--repair", "--dry-run", "--pipeline", reference)
    assert (code, found["damaged"], found["mended"]) == (1, 2, 0)
    assert all(f["result"].startswith("would") for f in found["streams"][0]["findings"])
    code, out, _ = run(world, capsys, "fsck", "--repair", "--pipeline", reference)
    assert code == 0
    assert "mended: part_missing" in out
    assert "derived partition 0" in out
    assert document(world, capsys, "fsck")[0] == 0


def test_fsck_without_the_code_says_what_it_needs(world: Upkept, capsys: pytest.CaptureFixture[str]) -> None:
    """A part cannot be derived without its pipeline: the end is 1 and the text says which one, under which recipe."""
    world.parts()[0].unlink()
    code, out, _ = run(world, capsys, "fsck", "--repair")
    assert code == 1
    assert "--pipeline FILE.py:VARIABLE" in out
    assert PIPELINE.recipe[:12] in out


@pytest.mark.parametrize("words", [
    ["fsck", "--stream", "nothing"], ["fsck", "--dry-run"], ["fsck", "--restore", "nothing"],
    ["gc", "--stream", "nothing"], ["fsck", "--pipeline", "nothing.py:x"],
])  # fmt: skip
def test_words_without_meaning_end_with_2(world: Upkept, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Wrong usage is told as such, and nothing is done."""
    code, out, err = run(world, capsys, *words)
    assert (code, out) == (2, "")
    assert "nothing" in err or "--repair" in err


def test_gc_removes_and_tells(world: Upkept, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and bytes, dry or not; a duration that is none is refused."""
    orphan = world.root / "orders/epoch=1/raw/partition=0/0000000000000000500-0000000000000000600.parquet"
    orphan.write_bytes(b"123")
    code, out, _ = run(world, capsys, "gc", "--grace", "0 seconds", "--dry-run")
    assert code == 0
    assert "would remove orders/epoch=1/raw" in out
    assert orphan.exists()
    code, young = document(world, capsys, "gc")
    assert (code, young["streams"][0]["orphans"]["files"], young["grace_ms"]) == (0, 0, DAY)
    code, done = document(world, capsys, "gc", "--grace", "0 seconds")
    assert (code, done["streams"][0]["orphans"]["files"], done["streams"][0]["orphans"]["bytes"]) == (0, 1, 3)
    assert not orphan.exists()
    assert run(world, capsys, "gc", "--grace", "soon")[0] == 1


def test_nothing_registered_is_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty home is sound and clean, and stays empty."""
    world = Upkept(tmp_path / "empty")
    assert "nothing to look at" in run(world, capsys, "fsck")[1]
    assert "nothing to collect" in run(world, capsys, "gc")[1]
    assert not world.home.exists()


def test_another_staging_root_is_refused(world: Upkept, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A mount that is missing is not taken for the loss of every file, nor collected."""
    for words in (["fsck", "--repair"], ["gc", "--grace", "0 seconds"]):
        code, _, err = run(world, capsys, *words, "--staging-root", str(tmp_path / "elsewhere"))
        assert code == 1
        assert "StagingNotSharedError" in err
