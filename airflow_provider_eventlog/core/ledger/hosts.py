"""One host for a SQLite ledger: its locks and shared memory mean nothing between two kernels.

A ledger knows its host by machine id and boot id. Either is enough: the boot id is shared by all containers of
one kernel, whatever they call themselves; the machine id outlives a restart of the machine.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path

from airflow_provider_eventlog.core.errors import LedgerHostError
from airflow_provider_eventlog.core.hosts import network_file_system, read_text

_MEND = "DELETE FROM meta WHERE key IN ('machine', 'boot');"


def identity() -> dict[str, str]:
    """This host as the ledger keeps it: `machine` (machine id, else host name) and `boot` (empty if unknown)."""
    machine = read_text(Path("/etc/machine-id"))
    return {
        "machine": machine if re.fullmatch(r"[0-9a-f]{32}", machine) else f"host {socket.gethostname()}",
        "boot": read_text(Path("/proc/sys/kernel/random/boot_id")),
    }


def same(known: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Whether two identities are of one host."""
    return known["machine"] == here["machine"] or (bool(here["boot"]) and known["boot"] == here["boot"])


def refuse_network(path: Path) -> None:
    """Raise LedgerHostError if the folder of `path` lies on a file system that several hosts can mount."""
    kind = network_file_system(path)
    if kind is not None:
        raise LedgerHostError(
            f"The ledger {path} lies on a network file system ({kind}), where SQLite's locks cannot be trusted. Put it "
            f"on a local disk of the one host that runs the tasks."
        )


def refuse_second(path: str, known: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise LedgerHostError unless both identities are of one host."""
    if not same(known, here):
        raise LedgerHostError(
            f"The SQLite ledger {path} belongs to another host ({known['machine']}; this one is {here['machine']}): a "
            f"ledger on SQLite serves one host. Run the tasks there. If the file has moved here for good and nothing "
            f"uses it elsewhere, run on it: {_MEND} The next use binds it here."
        )
