"""What every staging must do; today there is one, on a local file system."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    ManifestVersionError,
    StagingCorruptError,
    StagingFullError,
    StagingMissingError,
    StagingUnavailableError,
)
from airflow_provider_eventlog.core.naming import segment
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice
from airflow_provider_eventlog.core.protocols import Outcome, StagedFile
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.core.staging.local import LocalStaging
from airflow_provider_eventlog.core.staging.names import StagedName, parse


@pytest.fixture
def staging(tmp_path: Path) -> LocalStaging:
    return LocalStaging(tmp_path / "root")


def put(data: bytes):  # type: ignore[no-untyped-def]
    return lambda path: path.write_bytes(data) and None


def leftovers(staging: LocalStaging) -> list[str]:
    folder = staging.root / ".tmp"
    return os.listdir(folder) if folder.exists() else []


def test_publish_creates_and_never_overwrites(staging: LocalStaging) -> None:
    """The first publish lands, a second one finds the first one's bytes and changes nothing."""
    first, made = staging.publish("a/b.bin", put(b"one"))
    second, found = staging.publish("a/b.bin", put(b"two"))
    assert (first, second) == (Outcome.LANDED, Outcome.EXISTED)
    assert made == found
    assert staging.open("a/b.bin", made).read_bytes() == b"one"
    assert leftovers(staging) == []


def test_a_failed_write_leaves_nothing(staging: LocalStaging) -> None:
    """When writing raises, nothing is visible and no temporary file stays."""

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        staging.publish("x", write)
    assert not staging.exists("x")
    assert leftovers(staging) == []


def test_a_full_disk_is_retriable(staging: LocalStaging) -> None:
    """No room left is StagingFullError, which a retry can mend."""

    def write(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StagingFullError) as caught:
        staging.publish("x", write)
    assert caught.value.retriable


@pytest.mark.parametrize("damage", [b"", b"onf", b"one more"])
def test_changed_bytes_are_found_on_opening(staging: LocalStaging, damage: bytes) -> None:
    """A file whose size or bytes changed since it was published is never handed out."""
    _, made = staging.publish("x", put(b"one"))
    (staging.root / "x").write_bytes(damage)
    with pytest.raises(StagingCorruptError, match="x below"):
        staging.open("x", made)


def test_a_missing_file_is_named(staging: LocalStaging) -> None:
    """Opening what is gone names the path and the remedy."""
    with pytest.raises(StagingMissingError, match=r"gone\.parquet"):
        staging.open("gone.parquet", StagedFile("gone.parquet", 1, "0"))


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", "", "a/\0", "."])
def test_paths_stay_below_the_root(staging: LocalStaging, path: str) -> None:
    """A path that would leave the root is refused before anything is touched."""
    with pytest.raises(StagingUnavailableError):
        staging.publish(path, put(b"x"))


def test_symbolic_links_are_not_followed(staging: LocalStaging, tmp_path: Path) -> None:
    """A link planted below the root leads no write outside."""
    staging.publish("a/x", put(b"x"))
    (tmp_path / "outside").mkdir()
    (staging.root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(StagingUnavailableError, match="symbolic link"):
        staging.publish("link/x", put(b"x"))
    assert list((tmp_path / "outside").iterdir()) == []


def test_records_read_back_and_guard_themselves(staging: LocalStaging) -> None:
    """A record reads back; edited by hand, cut off or from a newer release it is refused."""
    record = {"b": 1, "a": ["x", None]}
    assert staging.publish_json("m.json", record) is Outcome.LANDED
    assert staging.publish_json("m.json", dict(reversed(record.items()))) is Outcome.EXISTED
    assert staging.read_json("m.json") == record
    assert staging.read_json("none.json") is None
    with pytest.raises(ContentMismatchError, match="differs in 'b'"):
        staging.publish_json("m.json", {**record, "b": 2})
    file = staging.root / "m.json"
    text = file.read_text()
    file.write_text(text.replace('"b":1', '"b":3'))
    with pytest.raises(StagingCorruptError, match="its own hash"):
        staging.read_json("m.json")
    file.write_text(text[:-9])
    with pytest.raises(StagingCorruptError):
        staging.read_json("m.json")
    file.write_text(text.replace(f'"format":{records.FORMAT}', '"format":99'))
    with pytest.raises(ManifestVersionError, match="format 99"):
        staging.read_json("m.json")


def test_records_depend_on_nothing_but_their_values(staging: LocalStaging) -> None:
    """The bytes of a record are the same for equal values, whatever the order of keys."""
    assert records.dump({"x": 1, "y": {"b": 2, "a": 1}}) == records.dump({"y": {"a": 1, "b": 2}, "x": 1})


def test_listing_is_sorted_and_without_temporary_files(staging: LocalStaging) -> None:
    """Listing gives published names only."""
    for name in ("s/b", "s/a/c", "t"):
        staging.publish(name, put(b"x"))
    (staging.root / ".tmp" / "half").write_bytes(b"")
    assert list(staging.list("s")) == ["s/a/c", "s/b"]


def test_the_root_has_one_id(staging: LocalStaging) -> None:
    """Every opener of a root sees the id that the first one made; another root has another."""
    assert LocalStaging(staging.root).root_id() == staging.root_id()
    assert LocalStaging(staging.root / "other").root_id() != staging.root_id()


def _race(root: str, number: int, ready: object, results: object) -> None:
    staging = LocalStaging(Path(root))
    ready.wait()  # type: ignore[attr-defined]
    outcome, file = staging.publish("race", put(bytes([number]) * 1000))
    results.put((number, outcome.value, file.sha256, staging.root_id()))  # type: ignore[attr-defined]


def test_of_several_processes_one_publishes(tmp_path: Path) -> None:
    """Eight processes publishing one name at once: one lands, all see its bytes, and all one root id."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_race, args=(str(tmp_path / "r"), n, ready, results)) for n in range(8)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(outcome for _, outcome, _, _ in found) == ["existed"] * 7 + ["landed"]
    assert len({sha for _, _, sha, _ in found}) == 1
    assert len({root_id for _, _, _, root_id in found}) == 1


def test_all_files_are_listed_with_size_and_age_and_links_are_not(staging: LocalStaging, tmp_path: Path) -> None:
    """Published and temporary files, folder by folder; no links, nothing behind them, nothing that was set aside."""
    for name in ("s/b", "s/a/c", "t"):
        staging.publish(name, put(b"12345"))
    (staging.root / ".tmp" / "half").write_bytes(b"1")
    _, made = staging.publish("old", put(b"x"))
    staging.set_aside("old", made)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"x")
    (staging.root / "s" / "link").symlink_to(tmp_path / "outside")
    (staging.root / "s" / "file").symlink_to(tmp_path / "outside" / "x")
    found = list(staging.stored())
    assert [(f.path, f.bytes) for f in found] == [(".tmp/half", 1), ("s/a/c", 5), ("s/b", 5), ("t", 5)]
    assert all(f.changed == (staging.root / f.path).stat().st_ctime_ns // 1_000_000 for f in found)
    assert [f.path for f in staging.stored("s")] == ["s/a/c", "s/b"]
    assert list(staging.stored("nothing")) == []
    assert list(staging.list("")) == ["s/a/c", "s/b", "s/file", "t"]


def test_removing_is_done_once_and_follows_nothing(staging: LocalStaging, tmp_path: Path) -> None:
    """A file that is gone is no error; a link, or a path that leaves the root, is refused."""
    staging.publish("a/x", put(b"x"))
    assert (staging.remove("a/x"), staging.remove("a/x"), staging.remove("b/y")) == (True, False, False)
    (tmp_path / "outside").write_bytes(b"x")
    (staging.root / "a/link").symlink_to(tmp_path / "outside")
    for path in ("a/link", "../outside"):
        with pytest.raises(StagingUnavailableError):
            staging.remove(path)
    assert (tmp_path / "outside").exists()


def test_setting_aside_keeps_the_bytes_and_frees_the_name(staging: LocalStaging) -> None:
    """The file moves under the name of its content, whatever it was; the name can be published again."""
    _, made = staging.publish("a/x", put(b"one"))
    (staging.root / "a/x").write_bytes(b"two")
    found = staging.stat("a/x")
    assert found is not None
    kept = staging.set_aside("a/x", found)
    assert kept is not None
    assert (staging.root / kept).read_bytes() == b"two"
    assert (staging.exists("a/x"), list(staging.list(""))) == (False, [])
    assert staging.publish("a/x", put(b"one")) == (Outcome.LANDED, made)


def test_a_file_that_is_another_one_by_now_is_not_set_aside(staging: LocalStaging) -> None:
    """Of two who repair at once, the slower one does not take away what the faster one has published."""
    staging.publish("a/x", put(b"bad"))
    seen = staging.stat("a/x")
    assert seen is not None
    (staging.root / "a/x").unlink()
    _, good = staging.publish("a/x", put(b"good"))
    assert staging.set_aside("a/x", seen) is None
    assert staging.open("a/x", good).read_bytes() == b"good"
    assert list((staging.root / ".aside").rglob("x/*")) == []
    staging.remove("a/x")
    assert staging.set_aside("a/x", seen) is None


@pytest.mark.parametrize("text", ["", "a", "Ärger/ö", "..", "-x", "x" * 500, "ÄÖ" * 90, "a b%C", ".hidden", "~"])
def test_names_read_back(text: str) -> None:
    """Every path that this package gives is understood, with what is in it; a changed one is not."""
    name = segment(text or "empty")
    wanted = OffsetRange(3, 7, 2**63 - 1)
    raw = parse(paths.raw_slice(Slice(text or "empty", 12, wanted)))
    assert raw == StagedName("raw", stream=name, epoch=12, range=wanted)
    found = parse(paths.part(text or "empty", "p", "b", 3, "typed", wanted))
    assert found == StagedName("part", name, None, "p", "b", 3, "typed", wanted)
    assert parse(paths.commit("s", text or "empty", "b", 3)) == StagedName("commit", "s", None, name, "b", 3)
    assert parse(paths.manifest("s", 1, text or "empty")) == StagedName("manifest", "s", 1, batch=name)
    assert parse(paths.decision("s", text or "empty", "id")) == StagedName("decision", "s", kind=name, decision="id")
    recipe = parse(paths.recipe("s", text or "empty", "r"))
    assert recipe == StagedName("recipe", "s", pipeline=name)
    whole = paths.raw_slice(Slice("s", 12, wanted))
    for changed in (whole[:-1], f"x/{whole}", whole.replace("epoch=12", "epoch=012"), whole.upper(), whole + "\n"):
        assert parse(changed) is None
