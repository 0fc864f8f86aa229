"""Records in staging: every decision has its own, and nothing stands there that the ledger does not know."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_eventlog.core import gc
from airflow_provider_eventlog.core.auditing.findings import DECISION, NEWER, TROUBLE, Audit, Finding, Fix
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.expiring import Pile
from airflow_provider_eventlog.core.naming import printable, segment
from airflow_provider_eventlog.core.protocols import Decision
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.staging.names import parse

_NAMED = 5
_REBUILD = "The ledger has lost it: bring it back from a copy, or make it again (eventlog ledger rebuild)."
_AGAIN = "`eventlog fsck --repair` writes it down again."


def audit(run: Audit) -> Iterator[Finding]:
    """Findings about decisions and about records of what the ledger does not know."""
    for decision in run.decisions:
        run.checked["decisions"] += 1
        yield from _decision(run, decision)
    yield from _unknown(run)


def _decision(run: Audit, decision: Decision) -> Iterator[Finding]:
    path = paths.decision(decision.stream, decision.kind, decision.id)
    fix: Fix | None = Fix(DECISION, lambda mender: mender.decision(decision))
    try:
        record = run.engine.staging.read_json(path)
    except EventLogError as error:
        trouble = TROUBLE.get(type(error), "unreadable")
        fix = fix if trouble == "corrupt" else None
        yield Finding(f"decision_{trouble}", path, str(error), _AGAIN if fix else NEWER, fix=fix)
        return
    if record is None:
        yield Finding("decision_missing", path, f"A decision of kind {decision.kind} has no record.", _AGAIN, fix=fix)
    elif record != decision.to_json():
        yield Finding("decision_differs", path, "The record says other things than the ledger.", _AGAIN, fix=fix)


def _unknown(run: Audit) -> Iterator[Finding]:
    """Manifests, commits, folds and decisions in staging that the ledger lacks; asked again before it is said."""
    ledger, staging = run.engine.ledger, run.engine.staging
    orphans, foreign = Pile(), list[str]()
    known, folds = gc.Known(run.engine, run.stream), gc.Folds(run.engine, run.stream)
    decided = {paths.decision(d.stream, d.kind, d.id) for d in run.decisions}
    for file in staging.stored(segment(run.stream)):
        run.engine.check_cancelled()
        name = parse(file.path)
        if name is None:
            foreign.append(file.path)
        elif name.form == "manifest" and name.batch not in run.batch_ids and not known.batch(str(name.batch)):
            yield Finding("manifest_unknown", file.path, "The manifest of a batch that the ledger lacks.", _REBUILD)
        elif name.form == "commit" and not known.generation(name):
            yield Finding("commit_unknown", file.path, "The record of a generation that the ledger lacks.", _REBUILD)
        elif name.form == "decision" and file.path not in decided:
            now = {paths.decision(d.stream, d.kind, d.id) for d in ledger.decisions(run.stream)}
            if file.path not in now:
                yield Finding("decision_unknown", file.path, "A decision that the ledger does not have.", _REBUILD)
            decided |= now
        elif name.form == "fold_record" and not folds.known(name):
            yield Finding("fold_unknown", file.path, "The record of a fold that the ledger lacks.", _REBUILD)
        elif (name.form in ("raw", "part") and known.orphan(name)) or (
            name.form == "fold" and folds.orphan(file, name)
        ):
            orphans.add(file)
    if orphans.files:
        what = f"{orphans.files:,} files ({orphans.bytes:,} bytes) that nothing names."
        mend = "`eventlog gc` removes those that are older than a day."
        yield Finding("orphans", f"stream {run.stream}", what, mend, damaged=False)
    if foreign:
        named = ", ".join(printable(path) for path in foreign[:_NAMED])
        what = f"{len(foreign):,} files of other kinds, left alone: {named}{' and more' if foreign[_NAMED:] else ''}."
        yield Finding("foreign", f"stream {run.stream}", what, damaged=False)
