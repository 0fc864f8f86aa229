"""Staging on a local or shared file system.

Publish is create-if-absent: the file is written under a temporary name on the same file system, synced, hashed,
then hard-linked to its name, which fails if the name is taken; the folder is synced last. A crash before the
link leaves a file in `.tmp` that nothing names; a crash after it leaves the published file, which the next attempt
syncs before it relies on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core.durable import make_folder, sync_file, sync_folder
from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    EventLogError,
    StagingCorruptError,
    StagingFullError,
    StagingMissingError,
    StagingUnavailableError,
)
from airflow_provider_eventlog.core.holdings import StoredFile
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.protocols import Outcome, StagedFile
from airflow_provider_eventlog.core.staging import records
from airflow_provider_eventlog.core.staging.names import ASIDE, ROOT_ID, TEMPORARY

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK = 1 << 20


class LocalStaging:
    """Implements `Staging` below `root`, which is created at first use."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._settled: set[Path] = set()
        self._root_id: str | None = None

    def root_id(self) -> str:
        """The root's id; created once, by whichever process comes first."""
        if self._root_id is None:
            if self.stat(ROOT_ID) is None:
                self.publish_json(ROOT_ID, {"id": uuid.uuid4().hex}, keep_existing=True)
            # Whoever linked the id file had synced the way to the root before.
            self._settled.add(self.root)
            record = self.read_json(ROOT_ID)
            if record is None:
                raise StagingUnavailableError(f"The id file of the staging root {self.root} cannot be read back.")
            self._root_id = str(record["id"])
        return self._root_id

    def publish(self, path: str, write: Callable[[Path], Mapping[str, str] | None]) -> tuple[Outcome, StagedFile]:
        """Create `path` with what `write` puts into a temporary file; see `Staging.publish`."""
        final = self._resolve(path)
        temporary = self.root / TEMPORARY / uuid.uuid4().hex
        with _translated(f"publishing {path} below {self.root}"):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                write(temporary)
                sync_file(temporary)
                made = _describe(temporary, path)
                make_folder(final.parent, self._settled)
                try:
                    os.link(temporary, final)
                except FileExistsError:
                    found = _describe(final, path)
                    sync_folder(final.parent)
                    return Outcome.EXISTED, found
                sync_folder(final.parent)
                return Outcome.LANDED, made
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def stat(self, path: str) -> StagedFile | None:
        """Size and SHA-256 of a published file, or None; what is described outlives a loss of power."""
        found = self._described(path)
        if found is not None:
            with _translated(f"syncing the folder of {path} below {self.root}"):
                # An attempt that was killed behind its link has synced the way to the folder, but not the folder.
                sync_folder(self._resolve(path).parent)
        return found

    def _described(self, path: str) -> StagedFile | None:
        final = self._resolve(path)
        with _translated(f"reading {path} below {self.root}"):
            try:
                return _describe(final, path)
            except FileNotFoundError:
                return None

    def exists(self, path: str) -> bool:
        """Whether a regular file is published under `path`."""
        final = self._resolve(path)
        with _translated(f"reading {path} below {self.root}"):
            return final.is_file()

    def open(self, path: str, expected: StagedFile | None = None) -> Path:
        """The local path, verified against `expected`."""
        final = self._resolve(path)
        if expected is None and final.is_file():
            return final
        found = self._described(path)
        if found is None:
            raise StagingMissingError(
                f"The staged file {path} is gone from {self.root}. `eventlog fsck` says what is missing and "
                f"`eventlog fsck --repair` makes it again where that is possible; or restore it from a copy."
            )
        if expected is not None and (found.bytes, found.sha256) != (expected.bytes, expected.sha256):
            raise StagingCorruptError(
                f"The staged file {path} below {self.root} has {found.bytes} bytes, SHA-256 {found.sha256[:16]}..., "
                f"but {expected.bytes} bytes, {expected.sha256[:16]}... were recorded. No byte of it was used; "
                f"`eventlog fsck --repair` makes it again where that is possible, or restore it from a copy."
            )
        return final

    def read_json(self, path: str) -> dict[str, Any] | None:
        """A published record, or None."""
        final = self._resolve(path)
        with _translated(f"reading {path} below {self.root}"):
            try:
                return records.load(path, final.read_bytes())
            except FileNotFoundError:
                return None

    def publish_json(self, path: str, record: Mapping[str, Any], *, keep_existing: bool = False) -> Outcome:
        """Publish a record; an equal one that stands there is EXISTED, another one raises unless it may be kept."""
        data = records.dump(record)

        def write(temporary: Path) -> None:
            temporary.write_bytes(data)

        outcome, found = self.publish(path, write)
        if outcome is Outcome.EXISTED and not keep_existing and found.sha256 != sha256(data).hexdigest():
            standing = self.read_json(path)
            raise ContentMismatchError(
                f"{path} below {self.root} holds another record than this attempt made (differs in "
                f"{printable(_difference(standing or {}, record))}); the published one stays."
            )
        return outcome

    def list(self, prefix: str) -> Iterator[str]:
        """Published files below `prefix`, sorted; temporary files are left out."""
        folder = self._resolve(prefix) if prefix else self.root
        with _translated(f"listing {prefix or '.'} below {self.root}"):
            found = [p.relative_to(self.root) for p in folder.rglob("*") if p.is_file()]
        yield from sorted(str(p) for p in found if p.parts[0] not in (TEMPORARY, ASIDE))

    def stored(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below `prefix`, folder by folder; files and folders that vanish meanwhile are left out."""
        folder = self._resolve(prefix) if prefix else self.root
        with _translated(f"listing {prefix or '.'} below {self.root}"):
            yield from self._walk(folder)

    def _walk(self, folder: Path) -> Iterator[StoredFile]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if path != self.root / ASIDE:
                    yield from self._walk(path)
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    seen = entry.stat(follow_symlinks=False)
                    # A link made just now changes the file's status, not its content.
                    changed = max(seen.st_mtime_ns, seen.st_ctime_ns) // 1_000_000
                    yield StoredFile(str(path.relative_to(self.root)), seen.st_size, changed)

    def remove(self, path: str) -> bool:
        """Remove a file; False if there was none. A loss of power may bring it back."""
        final = self._resolve(path)
        with _translated(f"removing {path} below {self.root}"):
            try:
                final.unlink()
            except FileNotFoundError:
                return False
        return True

    def set_aside(self, path: str, found: StagedFile) -> str | None:
        """Move a file to a folder of its own below `.aside`, under the name of its content."""
        final, kept = self._resolve(path), f"{ASIDE}/{path}/{found.sha256}"
        aside = self._resolve(kept)
        with _translated(f"setting {path} aside below {self.root}"):
            make_folder(aside.parent, self._settled)
            try:
                final.rename(aside)
            except FileNotFoundError:
                return None
            moved = _describe(aside, path)
            if moved != found:
                # Somebody was faster and has put a good file there: it goes back.
                with contextlib.suppress(FileExistsError):
                    os.link(aside, final)
                aside.unlink()
            sync_folder(final.parent)
            sync_folder(aside.parent)
        return kept if moved == found else None

    def _resolve(self, path: str) -> Path:
        parts = path.split("/")
        if path.startswith("/") or any(p in ("", ".", "..") or "\0" in p for p in parts):
            raise StagingUnavailableError(f"The staging path {printable(path)} leaves the root; nothing was touched.")
        final = self.root.joinpath(*parts)
        # A link planted below the root would lead a write or a read outside of it.
        for folder in [final, *final.parents]:
            if folder == self.root:
                break
            if folder.is_symlink():
                raise StagingUnavailableError(f"{folder} is a symbolic link; staging below {self.root} follows none.")
        return final


def _describe(file: Path, path: str) -> StagedFile:
    hasher, size = sha256(), 0
    with file.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
    return StagedFile(path, size, hasher.hexdigest())


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return ", ".join(k for k in sorted({*old, *new}) if old.get(k) != new.get(k)) or "nothing"


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except EventLogError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise StagingFullError(f"No room left while {doing}: {error}; free space, then retry.") from error
        raise StagingUnavailableError(f"The staging store failed while {doing}: {error}.") from error
