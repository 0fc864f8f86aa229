"""Fold logs: numbered without a gap, every file as recorded, its record written down; what their frontiers wait for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.auditing import windowed
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
from airflow_provider_eventlog.core.folding import frontier, head, listing, logs
from airflow_provider_eventlog.core.folding.frontier import Wait
from airflow_provider_eventlog.core.folding.head import Head
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import FoldLog, GenerationState
from airflow_provider_eventlog.core.staging import paths

_REFOLD = (
    "Restore {} from a copy; or fold everything anew: eventlog upgrade --rebuild under a new version= of the pipeline."
)
_AGAIN = "`eventlog fsck --repair` writes it down again."
# The record of a fold follows its row in the ledger at once, unless its attempt was killed between the two.
_PATIENCE_S, _PAUSE_S = 3.0, 0.05
# Behind a batch that nothing enters past, so many others are looked at for one that could enter.
_BEHIND = 1000


def audit(run: Audit, verifier: Verifier, pipeline: str, declaration: str | None) -> Iterator[Finding]:
    """Findings about the windows of one pipeline: all outputs that it ever declared, and the tables of those it has.

    declaration  the registered one; None for a pipeline that is not registered over the stream
    """
    now = {} if declaration is None else listing.outputs_of(json.loads(declaration))
    former = [json.loads(text) for text in run.ledger.declarations(pipeline).values()]
    outputs = [listing.outputs_of(one) for one in former if one["stream"]["name"] == run.stream]
    for name in dict.fromkeys([*now, *(name for found in outputs for name in found)]):
        harmed: set[str] = set()
        of_output = run.engine.ledger.fold_logs(pipeline, name)
        for log in of_output:
            yield from _log(run, verifier, log, harmed)
        if of_output and name in now:
            yield from windowed.audit(run, pipeline, name, now[name], harmed)
            yield from _frontier(run, of_output[-1])


def _log(run: Audit, verifier: Verifier, log: FoldLog, harmed: set[str]) -> Iterator[Finding]:
    """One log with its files and records; the paths of files that cannot be used go to `harmed`."""
    folds = run.engine.ledger.folds(log.pipeline, log.output, log.log)
    run.checked["folds"] += len(folds)
    if [fold.n for fold in folds] != list(range(1, len(folds) + 1)):
        what = "Its folds are not numbered one after another."
        yield Finding("fold_gap", _where(log), what, CHANGED, pipeline=log.pipeline)
    path = paths.fold_record(run.stream, log.pipeline, log.output, log.log, 0)
    yield from _record(run, path, logs.log_json(log), log, newest=not folds)
    wanted = []
    for fold in folds:
        path = paths.fold_record(run.stream, log.pipeline, log.output, log.log, fold.n)
        yield from _record(run, path, logs.to_json(fold), log, newest=fold is folds[-1])
        for file, digest in fold.files.values():
            prove = partial(partfile.verify_rows, expected=digest) if run.deep else None
            wanted.append(Wanted(file, prove, fold))
    for one, error in verifier.each(wanted):
        run.checked["fold files"] += 1
        if error is not None:
            harmed.add(one.file.path)
            trouble = TROUBLE.get(type(error), "unreadable")
            mend = _REFOLD.format(one.file.path)
            yield Finding(f"fold_{trouble}", one.file.path, str(error), mend, pipeline=log.pipeline)


def _where(log: FoldLog) -> str:
    return f"pipeline {log.pipeline}, windows {log.output}, log {log.log}"


def _record(run: Audit, path: str, expected: dict[str, Any], log: FoldLog, *, newest: bool) -> Iterator[Finding]:
    """What is wrong with a record; that of the newest fold may be on its way."""
    fix: Fix | None = Fix(DECISION, lambda mender: mender.record(path, expected))
    try:
        record = _awaited(run, path) if newest else run.engine.staging.read_json(path)
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


def _awaited(run: Audit, path: str) -> dict[str, Any] | None:
    """A record that may be on its way: None only if it does not come within the deadline."""
    deadline = time.monotonic() + _PATIENCE_S
    while (record := run.engine.staging.read_json(path)) is None and time.monotonic() < deadline:
        run.engine.check_cancelled()
        run.engine.cancel.wait(_PAUSE_S)
    return record


def _frontier(run: Audit, log: FoldLog) -> Iterator[Finding]:
    """That windows wait, where they lack what could be in them: a hole or batch stands before it.

    A hole and a held batch are findings of their own: this one is a word about the windows, and never damage.
    """
    last = run.engine.ledger.last_fold(log.pipeline, log.output, log.log)
    if last is None:
        return
    at = head.after(log, last)
    found = frontier.next_of(run.engine, run.stream, at)
    if isinstance(found, Wait) and found.why and _holds_up(run, at, found):
        what = f"Windows are folded up to {when(at.instant)} and wait for {found.why}."
        mend = "As it says; nothing is lost, and the windows go on by themselves then."
        more: dict[str, Any] = {"pipeline": log.pipeline, "batch_id": found.batch_id}
        yield Finding("windows_waiting", _where(log), what, mend, damaged=False, **more)


def _holds_up(run: Audit, at: Head, found: Wait) -> bool:
    """Whether the frontier waits for a hole or a held batch, or for one with validated batches behind it."""
    if found.batch_id is None:
        return True
    states = {batch_id: state for batch_id, (_, state) in run.ledger.standings(at.log.pipeline).items()}
    if states.get(found.batch_id) is GenerationState.HELD:
        return True
    plan, _ = run.engine.ledger.batch(found.batch_id)
    behind = run.engine.ledger.chain_from(run.stream, plan.epoch, plan.to_instant or at.instant, _BEHIND)
    return any(states.get(one.batch_id) in frontier.READY for one in behind)
