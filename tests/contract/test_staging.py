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
from airflow_provider_eventlog.core.protocols import Outcome, StagedFile
from airflow_provider_eventlog.core.staging import records
from airflow_provider_eventlog.core.staging.local import LocalStaging


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
