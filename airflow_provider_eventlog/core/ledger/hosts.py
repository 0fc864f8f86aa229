"""One host for a SQLite ledger: its locks and shared memory mean nothing between two kernels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from airflow_provider_eventlog.core.errors import LedgerHostError
from airflow_provider_eventlog.core.hosts import network_file_system, same

_MEND = "DELETE FROM meta WHERE key IN ('machine', 'boot');"


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
