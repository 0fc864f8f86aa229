"""The DuckDB session in which payloads are decoded, transformed and checked: in memory, shut off, and repeatable.

The session reads no file and no network, loads no extension, writes nothing to disk, keeps the order of rows,
has UTC as its time zone, and its settings are locked before any user's SQL runs in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb

from airflow_provider_eventlog.core.naming import quote

# Rows are counted and cut into pieces of this many, so that two threads share even one row group of a slice.
CHUNK_ROWS = 32_768
# Types that Arrow has no name for.
_LOST = ("UUID", "JSON")
_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "enable_external_access": "false",
    "preserve_insertion_order": "true",
    "temp_directory": "",
}


@contextmanager
def session(*, threads: int = 2, memory_limit: str = "2GB") -> Iterator[duckdb.DuckDBPyConnection]:
    """A fresh session, closed at the end. Results do not depend on `threads`: nothing is summed across rows."""
    connection = duckdb.connect(config={**_CONFIG, "threads": str(threads), "memory_limit": memory_limit})
    try:
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        # Otherwise a name in user SQL could reach variables of the calling Python frames.
        connection.execute("SET python_enable_replacements = false").fetchall()
        connection.execute("SET lock_configuration = true").fetchall()
        yield connection
    finally:
        connection.close()


def typed_view(connection: duckdb.DuckDBPyConnection, view: str, source: str, columns: Mapping[str, str]) -> None:
    """Let the session see `source` as `view`, with the types given back that Arrow has no name for.

    view, source  names of the session's own, which are not quoted
    columns       name to type, as declared
    """
    casts = ", ".join(
        f"CAST({quote(name)} AS {kind}) AS {quote(name)}"
        for name, kind in columns.items()
        if any(lost in kind for lost in _LOST)
    )
    replace = f" REPLACE ({casts})" if casts else ""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT *{replace} FROM {source}").fetchall()  # noqa: S608
