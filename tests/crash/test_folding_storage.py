"""Fold files that are cut off, changed or gone: the next fold and the next change-set refuse them, and say so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.errors import StagingCorruptError, StagingMissingError
from airflow_provider_eventlog.core.folding import files, head, logs
from airflow_provider_eventlog.core.folding.applying import apply_changes
from airflow_provider_eventlog.core.folding.partials import window_plan
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord
from airflow_provider_eventlog.core.session import session
from tests.crash import folding_world as world
from tests.crash.world import STAGING

OUTPUTS = {"w": world.LATE, "s": world.AMENDED}
# Which files what comes next reads: folding the third run, or applying the first two to an empty table.
FOLDED = (files.STATE, files.DELTA, files.CLOSED)
APPLIED = (files.UPSERTS, files.DELETES, files.LATE)


class Staged:
    """Two runs that are folded, and a correction that is validated; nothing of it may change while files are bad."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for unit in world.UNITS[: world.UNITS.index("r3:validate") + 1]:
            with world.open_world(home, patience=20) as engine:
                world.work(engine, unit)
        self.engine = world.open_world(home, patience=20)
        self.folds = {name: self._folds(name) for name in OUTPUTS}

    def _folds(self, output: str) -> tuple[FoldRecord, ...]:
        return self.engine.ledger.folds(world.PIPELINE.name, output, 1)

    def use(self, output: str, kind: str) -> None:
        """What reads the files of a kind: the next fold, or all change-sets for a table that is not there yet."""
        if kind in FOLDED or kind.startswith("partials"):
            world.work(self.engine, f"r3:{output}")
            return
        target = self.home / OUTPUTS[output].target.path
        target.unlink(missing_ok=True)
        target.with_name(f"{target.name}.wal").unlink(missing_ok=True)
        log = logs.newest(self.engine, world.PIPELINE.name, output)
        assert log is not None
        with session(threads=1) as connection:
            plan = window_plan(connection, world.PIPELINE, OUTPUTS[output])
            apply_changes(self.engine, world.PIPELINE, OUTPUTS[output], plan, log)

    def found(self) -> list[tuple[str, str, Path]]:
        """(output, kind, file) of what is read next."""
        known = [
            (name, kind, self.home / STAGING / fold.files[kind][0].path)
            for name, folds in self.folds.items()
            for fold in folds
            for kind in fold.files
            # A whole state stands in for what came before it.
            if kind not in (files.STATE, files.DELTA) or fold.n >= 2 - 2 % head.COMPACTED
        ]
        parts = sorted((self.home / STAGING).rglob("gen=2/partials.*/**/*.parquet"))
        return known + [(name, f"partials.{name}", p) for p in parts for name in OUTPUTS if f".{name}/" in str(p)]

    def unchanged(self) -> None:
        """No fold was made."""
        assert {name: self._folds(name) for name in OUTPUTS} == self.folds


@pytest.fixture(scope="module", params=[2, 16], ids=["whole states", "deltas"])
def staged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staged]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "COMPACTED", request.param)
        made = Staged(tmp_path_factory.mktemp("staged") / "home")
        yield made
        made.engine.close()


def refused(file: Path, damage: Callable[[bytes], bytes | None], use: Callable[[], object]) -> str | None:
    """Damage a file, use it, and put it back; a complaint if nobody saw it."""
    whole = file.read_bytes()
    bad = damage(whole)
    if bad is None:
        file.unlink()
    else:
        assert bad != whole
        file.write_bytes(bad)
    try:
        use()
    except (StagingCorruptError, StagingMissingError) as error:
        return None if not error.retriable and file.name in str(error) else f"{file.name}: {error}"
    finally:
        file.write_bytes(whole)
    return f"{file.name} was damaged and nobody saw it"


def flip(chance: random.Random) -> Callable[[bytes], bytes]:
    """Change one bit."""

    def damage(whole: bytes) -> bytes:
        bit = chance.randrange(8 * len(whole))
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        return bytes(bad)

    return damage


def test_verified_fold_files(staged: Staged) -> None:
    """Cut off, emptied, removed, exchanged, or with one bit flipped: each file of a fold and each partial is refused.

    No fold is made of it meanwhile; with the files as they were, the same call goes through.
    """
    chance = random.Random(1)
    found = staged.found()
    kinds = {kind for _, kind, _ in found}
    state = files.STATE if head.COMPACTED == 2 else files.DELTA
    assert {state, *FOLDED[2:], *APPLIED, "partials.w", "partials.s"} <= kinds
    complaints = []
    for output, kind, file in found:
        other = next(path for _, _, path in found if path.read_bytes() != file.read_bytes()).read_bytes()
        damages: list[Callable[[bytes], bytes | None]] = [
            lambda whole: whole[:-1],
            lambda _: b"",
            lambda _: None,
            lambda _, other=other: other,  # type: ignore[misc]
            flip(chance),
        ]
        complaints += [refused(file, damage, lambda: staged.use(output, kind)) for damage in damages]  # noqa: B023
        staged.unchanged()
    assert [complaint for complaint in complaints if complaint] == []
    for output in OUTPUTS:
        staged.use(output, files.UPSERTS)
    assert cursors(staged) == {2}
    for output in OUTPUTS:
        staged.use(output, files.DELTA)
    assert cursors(staged) == {3}


def cursors(staged: Staged) -> set[int]:
    """The numbers at which the tables of windows and late rows stand."""
    told = world.look(staged.home)
    return {n for file in ("shared", "sessions") for *_, n, _ in told[file]["_eventlog_fold"]}


def test_verified_fold_files_that_nobody_recorded(staged: Staged) -> None:
    """Flips in files that a killed attempt published: a fold takes none of them for what it would have written.

    A flip that changes no row (a writer's name, a statistic) may pass; nothing else does.
    """
    chance, seen = random.Random(2), 0
    tables = {kind: partfile.read_table(file) for name, kind, file in staged.found() if name == "s" and kind in APPLIED}
    assert tables
    for number in range(60):
        kind = chance.choice(sorted(tables))
        log = FoldLog(world.PIPELINE.name, "s", 100 + number, 1, world.T0, world.PIPELINE.recipe, "a test")
        made, _ = files.publish(staged.engine, "orders", log, 1, {kind: tables[kind]})[kind]
        file = staged.home / STAGING / made.path
        file.write_bytes(flip(chance)(file.read_bytes()))
        try:
            files.publish(staged.engine, "orders", log, 1, {kind: tables[kind]})
        except StagingCorruptError:
            seen += 1
        else:
            assert partfile.read_table(file).equals(tables[kind])
        finally:
            file.unlink()
    assert seen > 30
