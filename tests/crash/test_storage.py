"""The staging store fails, or changes bytes: nothing half is published, and nothing damaged is used."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import deriving, landing, loading, stages, validating
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    ManifestVersionError,
    StagingCorruptError,
    StagingFullError,
    StagingUnavailableError,
)
from airflow_provider_eventlog.core.offsets import RunPlan
from airflow_provider_eventlog.core.protocols import Outcome, SliceRecord
from airflow_provider_eventlog.core.staging.local import LocalStaging
from tests.crash import world

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE)
PATH, DATA = "stream/epoch=1/raw/file", b"x" * 1000


class Failing:
    """Counts the file operations of a publish; the n-th raises. `done` names what was asked for."""

    def __init__(self, at: int, code: int) -> None:
        self.at, self.code, self.done = at, code, list[str]()

    def wrap(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.done.append(name)
            if len(self.done) == self.at:
                raise OSError(self.code, os.strerror(self.code))
            return plain(*args, **kwargs)

        return call


def publish(root: Path, failing: Failing) -> Outcome:
    """Publish PATH with a failing file system."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "open", "fsync", "link", "unlink"):
            patch.setattr(os, name, failing.wrap(name, getattr(os, name)))
        for name in ("write_bytes", "open"):
            patch.setattr(Path, name, failing.wrap(f"Path.{name}", getattr(Path, name)))
        staging = LocalStaging(root)
        outcome, _ = staging.publish(PATH, lambda temporary: temporary.write_bytes(DATA) and None)
    return outcome


@pytest.mark.parametrize("code", [*FULL, *BROKEN], ids=errno.errorcode.get)
def test_atomic_when_the_store_fails(tmp_path: Path, code: int) -> None:
    """Whichever operation of a publish fails: the stated, retriable error, no part of a file, and a retry works."""
    calm = Failing(0, code)
    assert publish(tmp_path / "calm", calm) is Outcome.LANDED
    assert {"mkdir", "open", "fsync", "link", "unlink", "Path.write_bytes", "Path.open"} == set(calm.done)
    wanted = StagingFullError if code in FULL else StagingUnavailableError
    for at in range(1, len(calm.done) + 1):
        root = tmp_path / str(at)
        failing = Failing(at, code)
        if calm.done[at - 1] == "unlink":
            # The file is published; what is left is an orphan for the collector.
            assert publish(root, failing) is Outcome.LANDED
        else:
            with pytest.raises(wanted) as raised:
                publish(root, failing)
            assert raised.value.retriable
            assert PATH in str(raised.value)
        standing = LocalStaging(root).stat(PATH)
        linked = "link" in failing.done[: at - 1]
        assert (standing is not None) == linked
        assert standing is None or standing.bytes == len(DATA)
        assert publish(root, Failing(0, code)) is (Outcome.EXISTED if linked else Outcome.LANDED)
        assert (root / PATH).read_bytes() == DATA


class Staged:
    """A run that is landed, transformed, validated and loaded, and one of which only the files are there."""

    def __init__(self, folder: Path) -> None:
        self.engine, self.bound = self._run(folder / "whole")
        stages.load(self.engine, world.PIPELINE, "r1")
        self.root = folder / "whole" / world.STAGING
        self.fresh, _ = self._run(folder / "fresh", ["plan"])
        self.fresh_root = folder / "fresh" / world.STAGING
        shutil.copytree(self.root / "orders" / "epoch=1" / "raw", self.fresh_root / "orders" / "epoch=1" / "raw")

    def _run(self, home: Path, only: list[str] | None = None) -> tuple[Engine, RunPlan]:
        engine = world.open_world(home, 0)
        bound = stages.plan(engine, world.PIPELINE, world.RUNS["r1"], "r1")
        if only is None:
            for group in range(len(bound.groups)):
                stages.land(engine, world.PIPELINE, "r1", group)
            for group in range(len(bound.groups)):
                stages.transform(engine, world.PIPELINE, "r1", group)
            stages.validate(engine, world.PIPELINE, "r1")
        return engine, bound

    def raw(self) -> list[Path]:
        return sorted(self.root.rglob("raw/**/*.parquet"))

    def parts(self) -> list[Path]:
        return sorted(self.root.rglob("typed/**/*.parquet"))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staged]:
    made = Staged(tmp_path_factory.mktemp("staged"))
    yield made
    made.engine.close()
    made.fresh.close()


def flipped(file: Path, chance: random.Random, use: Callable[[], object]) -> str | None:
    """Flip one bit of a file, use it, and put it back; a complaint if the flip went unseen."""
    whole = file.read_bytes()
    bit = chance.randrange(8 * len(whole))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    try:
        use()
    except (StagingCorruptError, ManifestVersionError):
        return None
    finally:
        file.write_bytes(whole)
    return f"bit {bit} of {file.name} was flipped and nobody saw it"


def test_verified_recorded_files(staged: Staged) -> None:
    """300 seeded single bit flips in landed raw files, parts and records: the next stage refuses every one."""
    engine, planned = staged.engine, staged.bound.batches[0]
    manifest = next(staged.root.rglob("manifests/*.json"))
    commit = next(staged.root.rglob("commit.json"))

    def validate() -> object:
        return validating.validate_batch(engine, world.PIPELINE, planned)

    def load() -> object:
        return loading.load_batch(engine, world.PIPELINE, planned)

    def again(record: SliceRecord) -> object:
        write = deriving.rewriter(engine, world.PIPELINE, planned, record, deriving.TYPED)
        return engine.staging.publish(f"again/{record.range.partition}-{record.range.start}", write)

    def transform() -> object:
        slices = landing.verified_slices(engine, planned.batch)
        return [again(record) for record in slices]

    uses = [(staged.raw(), transform), (staged.parts(), validate), (staged.parts(), load), ([manifest], validate),
            ([manifest], transform), ([commit], validate)]  # fmt: skip
    chance = random.Random(1)
    found = []
    for number in range(300):
        files, use = uses[number % len(uses)]
        found.append(flipped(chance.choice(files), chance, use))
        shutil.rmtree(staged.root / "again", ignore_errors=True)
    assert [complaint for complaint in found if complaint] == []
    validate()
    load()


def test_verified_files_that_nobody_recorded(staged: Staged) -> None:
    """200 seeded flips in files that a killed attempt published: landing takes none of them for the log's content.

    A flip that changes neither rows nor accounting (a writer's name, a statistic) may pass; nothing else does.
    """
    planned = staged.bound.batches[0]
    good = {record.range: record for record in staged.engine.ledger.slices(planned.batch.batch_id)}
    chance = random.Random(2)
    wrong, seen = [], 0
    for _ in range(200):
        wanted = chance.choice(planned.batch.slices)
        piece = landing.Slice(planned.batch.stream, planned.batch.epoch, wanted)
        file = staged.fresh_root / landing.paths.raw_slice(piece)

        def adopt(piece: Any = piece) -> None:
            found = staged.fresh.staging.stat(landing.paths.raw_slice(piece))
            assert found is not None
            record = landing._adopt(staged.fresh, piece, Outcome.EXISTED, found)
            same = good[piece.range]
            if (record.digest, record.rows, record.gaps, record.payload_bytes, record.aborted) != (
                same.digest, same.rows, same.gaps, same.payload_bytes, same.aborted,
            ):  # fmt: skip
                wrong.append(str(piece))

        seen += flipped(file, chance, adopt) is None
    assert wrong == []
    # In files of a few rows the rest, names and statistics, takes up a good part.
    assert seen > 100


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other"])
def test_verified_files_cut_off_or_exchanged(staged: Staged, damage: str) -> None:
    """A part that was cut off, emptied, removed or exchanged for another one stops validation and load."""
    engine, planned = staged.engine, staged.bound.batches[0]
    file, other = staged.parts()[:2]
    whole = file.read_bytes()
    changed = {"cut": whole[:-1], "empty": b"", "other": other.read_bytes()}
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(changed[damage])
    try:
        for use in (validating.validate_batch, loading.load_batch):
            with pytest.raises(Exception, match=r"gone|recorded") as raised:
                use(engine, world.PIPELINE, planned)
            assert not getattr(raised.value, "retriable", True)
    finally:
        file.write_bytes(whole)
    loading.load_batch(engine, world.PIPELINE, planned)
