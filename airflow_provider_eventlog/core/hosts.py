"""What this host is, and which file systems several hosts can mount: SQLite and DuckDB files serve one host.

A host is known by machine id and boot id. Either is enough: the boot id is shared by all containers of one kernel,
whatever they call themselves; the machine id outlives a restart of the machine.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|orangefs|ncpfs|davfs"
    r"|fuse\.(sshfs|ceph|glusterfs|s3fs|goofys|gcsfuse|rclone|mount-s3|davfs2?|juicefs|smbnetfs|blobfuse2?)"
)


def identity() -> dict[str, str]:
    """This host: `machine` (machine id, else host name) and `boot` (empty if unknown)."""
    machine = read_text(Path("/etc/machine-id"))
    return {
        "machine": machine if re.fullmatch(r"[0-9a-f]{32}", machine) else f"host {socket.gethostname()}",
        "boot": read_text(Path("/proc/sys/kernel/random/boot_id")),
    }


def same(known: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Whether two identities are of one host."""
    return known["machine"] == here["machine"] or (bool(here["boot"]) and known["boot"] == here["boot"])


def network_file_system(path: Path) -> str | None:
    """The kind of the network file system that holds the folder of `path`; None for a local or unknown one."""
    kind = file_system(path.parent.resolve(), read_text(Path("/proc/mounts")))
    return kind if _NETWORK.fullmatch(kind) else None


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that holds an absolute `folder`; `mounts` is in the form of /proc/mounts.

    Empty where nothing is known.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1])
        # Of two mounts on one point the later one is seen.
        if folder.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind


def read_text(path: Path) -> str:
    """A small file of the system, stripped; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
