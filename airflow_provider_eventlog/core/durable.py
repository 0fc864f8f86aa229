"""What outlives a loss of power: a file once its content was synced, and the way to it once its folders were."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync_file(file: Path) -> None:
    """Bring a file's content to the disk; raises OSError."""
    _sync(file, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk; raises OSError."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def make_folder(folder: Path, settled: set[Path]) -> None:
    """Create an absolute folder, and bring the whole way to it to the disk; raises OSError.

    A folder that stands already may be one that a killed attempt made and did not sync, so the way is synced up to
    the mount point whoever made it; `settled` keeps what was, and spares the next call the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    way = []
    for step in (folder, *folder.parents):
        if step in settled or step.is_mount():
            break
        way.append(step)
    for step in reversed(way):
        # What may not be opened is none of the folders that were made here.
        with contextlib.suppress(PermissionError):
            sync_folder(step.parent)
        settled.add(step)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
