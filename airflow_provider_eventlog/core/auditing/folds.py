"""Fold logs: numbered without a gap, every file as recorded, its record written down, and tables not ahead of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.auditing.files import Verifier, Wanted
from airflow_provider_eventlog.core.auditing.findings import (
    CHANGED,
    DECISION,
    NEWER,
    RESTORE,
    TROUBLE,
    Audit,
    Finding,
    Fix,
)
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.folding import listing, logs
from airflow_provider_eventlog.core.folding.applying import late_output
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, OutputId
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows

_REFOLD = (
    "Restore {} from a copy; or fold everything anew: eventlog upgrade --rebuild under a new version= of the pipeline."
)
_AGAIN = "`eventlog fsck --repair` writes it down again."
_RESUME = "The next load applies them, or `eventlog resume`."


def audit(run: Audit, verifier: Verifier, pipeline: str, declaration: str) -> Iterator[Finding]:
    """Findings about the windows of one pipeline, as its registered declaration names them."""
    for name, output in listing.outputs_of(json.loads(declaration)).items():
        of_output = run.engine.ledger.fold_logs(pipeline, name)
        for log in of_output:
            folds = run.engine.ledger.folds(pipeline, name, log.log)
            yield from _log(run, verifier, log, folds)
        if of_output:
            newest = run.engine.ledger.last_fold(pipeline, name, of_output[-1].log)
            yield from _tables(run, of_output[-1], newest, output)


def _log(run: Audit, verifier: Verifier, log: FoldLog, folds: tuple[FoldRecord, ...]) -> Iterator[Finding]:
    where = f"pipeline {log.pipeline}, windows {log.output}, log {log.log}"
    run.checked["folds"] += len(folds)
    if [fold.n for fold in folds] != list(range(1, len(folds) + 1)):
        yield Finding(
            "fold_gap", where, "Its folds are not numbered one after another.", CHANGED, pipeline=log.pipeline
        )
    yield from _record(
        run, paths.fold_record(run.stream, log.pipeline, log.output, log.log, 0), logs.log_json(log), log
    )
    wanted = []
    for fold in folds:
        path = paths.fold_record(run.stream, log.pipeline, log.output, log.log, fold.n)
        yield from _record(run, path, logs.to_json(fold), log)
        for file, digest in fold.files.values():
            prove = _prove(digest) if run.deep else None
            wanted.append(Wanted(file, prove, fold))
    for one, error in verifier.each(wanted):
        run.checked["fold files"] += 1
        if error is not None:
            trouble = TROUBLE.get(type(error), "unreadable")
            mend = _REFOLD.format(one.file.path)
            yield Finding(f"fold_{trouble}", one.file.path, str(error), mend, pipeline=log.pipeline)


def _prove(digest: str) -> Any:
    def prove(local: Path) -> None:
        partfile.verify_rows(local, digest)

    return prove


def _record(run: Audit, path: str, expected: dict[str, Any], log: FoldLog) -> Iterator[Finding]:
    fix: Fix | None = Fix(DECISION, lambda mender: mender.record(path, expected))
    try:
        record = run.engine.staging.read_json(path)
    except EventLogError as error:
        trouble = TROUBLE.get(type(error), "unreadable")
        fix = fix if trouble == "corrupt" else None
        mend = _AGAIN if fix else NEWER if trouble == "newer" else RESTORE.format(path)
        yield Finding(f"fold_record_{trouble}", path, str(error), mend, pipeline=log.pipeline, fix=fix)
        return
    if record is None:
        yield Finding("fold_record_missing", path, "The fold has no record.", _AGAIN, pipeline=log.pipeline, fix=fix)
    elif record != expected:
        what = "The record says other things than the ledger."
        yield Finding("fold_record_differs", path, what, _AGAIN, pipeline=log.pipeline, fix=fix)


def _tables(run: Audit, log: FoldLog, newest: FoldRecord | None, output: Any) -> Iterator[Finding]:
    """Where the cursors of an output's tables stand; raises nothing."""
    last = (log.log, 0 if newest is None else newest.n)
    for name, declared in ((log.output, output["target"]), (late_output(log.output), output.get("late"))):
        if declared is None:
            continue
        found = declared["duckdb"]
        target = DuckDB(found["path"], found["table"], found["schema"])
        where = f"{target.path}, table {target.schema}.{target.table}"
        run.checked["tables"] += 1
        try:
            cursor = run.engine.open_target(Rows(target, name=name)).cursor(
                OutputId(run.engine.ledger.ledger_id, log.pipeline, name)
            )
        except EventLogError as error:
            yield Finding("table_replaced", where, str(error), "As it says.", pipeline=log.pipeline)
            continue
        at = (0, 0) if cursor is None else cursor
        if at > last:
            what = f"The table stands at change-set {at[1]} of log {at[0]}, the ledger at {last[1]} of log {last[0]}."
            mend = "Bring the ledger back from a copy, or make it again (eventlog ledger rebuild)."
            yield Finding("windows_ahead", where, what, mend, pipeline=log.pipeline)
        elif at < last:
            what = f"The table lacks change-sets: it stands at {at[1]} of log {at[0]}, the log at {last[1]}."
            yield Finding("windows_behind", where, what, _RESUME, damaged=False, pipeline=log.pipeline)
