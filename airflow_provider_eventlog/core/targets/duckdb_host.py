"""One host for a DuckDB file: the lock that keeps writers apart means nothing between two kernels.

The first load binds the file to its host; a load from another one is refused, also where the file system does not show
that several hosts can mount it.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from airflow_provider_eventlog.core.errors import TargetHostError
from airflow_provider_eventlog.core.hosts import identity, network_file_system, same

_MEND = "DELETE FROM _eventlog_host;"


def refuse_network(path: Path) -> None:
    """Raise TargetHostError if the folder of `path` lies on a file system that several hosts can mount."""
    kind = network_file_system(path)
    if kind is not None:
        raise TargetHostError(
            f"The DuckDB file {path} lies on a network file system ({kind}), where its locks do not hold; put it on a "
            f"local disk."
        )


def bind(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bind the file to this host, inside the open transaction; raises TargetHostError where it is bound to another."""
    here = identity()
    connection.execute(
        "CREATE TABLE IF NOT EXISTS main._eventlog_host (machine VARCHAR NOT NULL, boot VARCHAR NOT NULL)"
    ).fetchall()
    found = connection.execute("SELECT machine, boot FROM main._eventlog_host").fetchall()
    known = [{"machine": machine, "boot": boot} for machine, boot in found]
    if known == [here]:
        return
    for other in known:
        if not same(other, here):
            raise TargetHostError(
                f"The DuckDB file {path} belongs to another host ({other['machine']}; this one is {here['machine']}): "
                f"it serves one. Run the load tasks there. If the file has moved here for good and nothing uses it "
                f"elsewhere, run on it: {_MEND} The next load binds it here."
            )
    connection.execute("DELETE FROM main._eventlog_host").fetchall()
    connection.execute("INSERT INTO main._eventlog_host VALUES (?, ?)", [here["machine"], here["boot"]]).fetchall()
