# ruff: noqa: S608 - the SQL below is made of quoted names and numbers
"""What a pipeline's windows are like now: open, final and amended ones, watermark, late rows, what the frontier awaits.

Reads ledger and staging only, and runs nothing of the pipeline's own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import files, frontier, head, logs
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import FoldRecord
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.corrected import KEY as LATE_KEY

STATES = ("open", "final", "amended")
_TOTALS = ("rows", "placed", "late", "outside", "late_pairs", "corrected_late", "late_gone", "amended", "kept")
_SHOWN = ("window_start", "window_end", "_rows", "_revision", "_final", "_complete")


def outputs_of(declaration: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The windows outputs of a registered declaration by name."""
    return {o["windows"]["name"]: o["windows"] for o in declaration["outputs"] if "windows" in o}


def overview(engine: Engine, pipeline: str, declaration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One report an output: its log, watermark, frontier, what that waits for, and totals over all folds."""
    stream = declaration["stream"]["name"]
    return [_overview(engine, pipeline, stream, output) for output in outputs_of(declaration)]


def _overview(engine: Engine, pipeline: str, stream: str, output: str) -> dict[str, Any]:
    log = logs.newest(engine, pipeline, output)
    folds = engine.ledger.folds(pipeline, output, log.log) if log else ()
    if log is None or not folds:
        waiting = "its first validated batch"
        return {"output": output, "log": log.log if log else None, "folds": 0, "waiting": waiting, "watermark": None}
    at = head.after(log, folds[-1])
    found = frontier.next_of(engine, stream, at)
    return {
        "output": output,
        "log": log.log,
        "folds": at.n,
        "watermark": None if at.watermark is None else when(at.watermark),
        "frontier": {"epoch": at.epoch, "instant": when(at.instant)},
        "waiting": (found.why or None) if isinstance(found, frontier.Wait) else None,
        "ready": isinstance(found, frontier.Enter),
        "open": int(folds[-1].accounting["open"]),
        **{name: sum(int(f.accounting.get(name, 0)) for f in folds) for name in _TOTALS},
    }


def windows(
    engine: Engine, pipeline: str, output: str, by: Sequence[str], *, state: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The newest windows as they were published last, with their late rows; of one state, or of all.

    by     the output's keys; `amended` are windows that are final and have a revision that came later
    Raises StagingMissingError, StagingCorruptError.
    """
    log = logs.newest(engine, pipeline, output)
    folds = engine.ledger.folds(pipeline, output, log.log) if log else ()
    if not folds:
        return []
    names = [*by, "window_start"]
    published, gone = (
        _numbered(engine, folds, files.UPSERTS, [*by, *_SHOWN]),
        _numbered(engine, folds, files.DELETES, names),
    )
    late = _numbered(engine, folds, files.LATE, [*by, *LATE_KEY])
    late_gone = _numbered(engine, folds, files.LATE_GONE, LATE_KEY)
    if published is None:
        return []
    with session(threads=1) as connection:
        connection.register("_published", published)
        keys = ", ".join(quote(name) for name in names)
        query = f"""
            SELECT * FROM (SELECT *, count(*) FILTER (WHERE _final) OVER (PARTITION BY {keys}) > 1 AS _amended
                           FROM _published)
            QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _n DESC) = 1
        """
        if gone is not None:
            connection.register("_gone", gone)
            same = " AND ".join(f"g.{quote(name)} IS NOT DISTINCT FROM w.{quote(name)}" for name in names)
            query = f"SELECT w.* FROM ({query}) w WHERE NOT EXISTS (SELECT 1 FROM _gone g WHERE {same} AND g._n > w._n)"
        counted = "0"
        if late is not None:
            connection.register("_every_late", late)
            rows = _newest_late(connection, late_gone)
            same = " AND ".join(f"l.{quote(name)} IS NOT DISTINCT FROM w.{quote(name)}" for name in by)
            same = f"{same + ' AND ' if same else ''}l._window_start = w.window_start"
            counted = f"(SELECT count(*) FROM ({rows}) l WHERE {same})"
        wanted = {"open": "NOT _final", "final": "_final", "amended": "_amended", None: "true"}[state]
        shown = ", ".join(quote(name) for name in [*by, *_SHOWN])
        found = connection.sql(
            f"SELECT {shown}, _amended, {counted} AS _late FROM ({query}) w WHERE {wanted} "
            f"ORDER BY window_start DESC, {keys} LIMIT {int(limit)}"
        ).to_arrow_table()
    return [
        {name: value.isoformat() if name.startswith("window_") else value for name, value in row.items()}
        for row in found.to_pylist()
    ]


def _newest_late(connection: Any, gone: pa.Table | None) -> str:
    """SQL of the late rows as the newest corrections left them."""
    key = ", ".join(LATE_KEY)
    query = f"SELECT * FROM _every_late QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY _n DESC) = 1"
    if gone is None:
        return query
    connection.register("_late_gone", gone)
    same = " AND ".join(f"g.{name} IS NOT DISTINCT FROM e.{name}" for name in LATE_KEY)
    return f"SELECT * FROM ({query}) e WHERE NOT EXISTS (SELECT 1 FROM _late_gone g WHERE {same} AND g._n > e._n)"


def _numbered(engine: Engine, folds: Sequence[FoldRecord], kind: str, names: Sequence[str]) -> pa.Table | None:
    tables = []
    for fold in folds:
        engine.check_cancelled()
        for table in files.read(engine, fold, kind):
            numbers = np.full(table.num_rows, fold.n, np.int64)
            tables.append(frames.with_numbers(table.select(list(names)), _n=numbers))
    return pa.concat_tables(tables) if tables else None
