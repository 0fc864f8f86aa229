# ruff: noqa: S608 - the SQL below is made of quoted names and numbers
"""What a pipeline's windows are like now: open, final and amended ones, watermark, late rows, what the frontier awaits.

Reads ledger and staging only, and runs nothing of the pipeline's own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import files, frontier, head, logs
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.corrected import KEY

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
    published = files.numbered(engine, folds, files.UPSERTS, [*by, *_SHOWN])
    gone = files.numbered(engine, folds, files.DELETES, names)
    late = files.numbered(engine, folds, files.LATE, [*by, *KEY])
    late_gone = files.numbered(engine, folds, files.LATE_GONE, KEY)
    if published is None:
        return []
    with session(threads=1) as connection:
        shown = {"_published": published, "_gone": gone, "_every_late": late, "_late_gone": late_gone}
        for view, table in shown.items():
            if table is not None:
                connection.register(view, table)
        keys = ", ".join(quote(name) for name in names)
        amended = f"count(*) FILTER (WHERE _final) OVER (PARTITION BY {keys}) > 1 AS _amended"
        query = frames.newest(f"(SELECT *, {amended} FROM _published)", names, None if gone is None else "_gone")
        counted = "0"
        if late is not None:
            left = frames.newest("_every_late", KEY, None if late_gone is None else "_late_gone")
            own = f"{frames.same(by, 'l', 'w')} AND l._window_start = w.window_start"
            counted = f"(SELECT count(*) FROM ({left}) l WHERE {own})"
        wanted = {"open": "NOT _final", "final": "_final", "amended": "_amended", None: "true"}[state]
        columns = ", ".join(quote(name) for name in [*by, *_SHOWN])
        found = connection.sql(
            f"SELECT {columns}, _amended, {counted} AS _late FROM ({query}) w WHERE {wanted} "
            f"ORDER BY window_start DESC, {keys} LIMIT {int(limit)}"
        ).to_arrow_table()
    return [
        {name: value.isoformat() if name.startswith("window_") else value for name, value in row.items()}
        for row in found.to_pylist()
    ]
