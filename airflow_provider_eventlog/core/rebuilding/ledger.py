"""A new ledger from staging and the targets, where the old one is lost. Kafka is not asked.

What comes back: streams with their epochs, cuts, landed batches, coverage, losses and accounting from the manifests;
generations with their parts from commit records and part files, held ones too; recipes and decisions from their
records; which generations are loaded, and the ledger's own id, from the targets' tables.

What does not, see `LOST`: what only the ledger ever knew. Plans of batches that were never landed whole are among it;
no offset of theirs reached a target, and they are planned again.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from airflow_provider_eventlog.core.adopting import ADOPT
from airflow_provider_eventlog.core.engine import no_progress
from airflow_provider_eventlog.core.errors import ReadCancelledError, RequestError, StagingCorruptError
from airflow_provider_eventlog.core.ledger import make_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity, format_ranges
from airflow_provider_eventlog.core.protocols import EpochRecord, Staging, Target
from airflow_provider_eventlog.core.rebuilding import evidence as evidence_
from airflow_provider_eventlog.core.rebuilding import folded, reading, verifying
from airflow_provider_eventlog.core.rebuilding import loads as loads_
from airflow_provider_eventlog.core.rebuilding.derived import Generations
from airflow_provider_eventlog.core.rebuilding.evidence import Evidence, Problem
from airflow_provider_eventlog.core.rebuilding.loads import Loads
from airflow_provider_eventlog.core.rebuilding.reading import Declared
from airflow_provider_eventlog.core.rebuilding.writing import Writer
from airflow_provider_eventlog.core.staging.names import ROOT_ID
from airflow_provider_eventlog.core.staging.records import canonical
from airflow_provider_eventlog.declare.outputs import Rows
from airflow_provider_eventlog.declare.stream import Stream

LOST = (
    "what each run was bound to: the next plan of an interval or of offsets finds the same batches and generations; a "
    "run that is under way, or took what came since the last batch, is cleared from plan",
    "batches that were planned and not landed whole: they are planned again, by the next run or, where a later batch "
    "is landed, as holes (eventlog backfill --holes); offsets of a back-fill that lie within a landed segment are "
    "named as a problem; a stream that has landed nothing begins again at its start",
    "retention settings: nothing is removed before the next plan of each pipeline brings them",
    "which recipe was current, if an older one was made current again: the newest counts until the next plan",
)
_FIRST = "first plan"
_NAMED = 5
_EVERY = 50


@dataclass
class _Work:
    """One rebuild: what it reads from, and what it found."""

    staging: Staging
    evidence: Evidence
    loads: Loads
    cancel: Event
    progress: Callable[[str, int, int], None]
    problems: list[Problem] = field(default_factory=list)

    def check_cancelled(self) -> None:
        if self.cancel.is_set():
            raise ReadCancelledError("Told to stop; no ledger was made.")


def rebuild_ledger(
    staging: Staging,
    open_target: Callable[[Rows], Target],
    address: str | Path,
    *,
    root: str,
    ledger_id: str | None = None,
    keep: bool = True,
    cancel: Event | None = None,
    progress: Callable[[str, int, int], None] = no_progress,
) -> dict[str, Any]:
    """Make a new ledger at `address` in one transaction; with keep=False only in memory, to say what it would hold.

    root       the staging root, as the ledger names it
    ledger_id  which ledger is rebuilt, where the tables are of several; None: the one they are of, or a new id

    Nothing else may work on the staging root and the targets meanwhile. Before it is kept the ledger has given every
    manifest and commit record back, to the byte. Returns JSON values: what it holds, what is `lost`, and `problems`:
    what staging and targets do not agree on. Raises LedgerConfigError for an address where a ledger stands,
    RequestError for a root that holds nothing, StagingCorruptError and ManifestVersionError for damaged records,
    AccountingError for ones that contradict each other, and the target errors. After any failure no ledger was made.
    """
    stop = cancel or Event()
    found = evidence_.gather(staging, stop, progress)
    if not (found.manifests or found.decisions or found.declared):
        raise RequestError(f"Below {root} there is no manifest, recipe or decision: nothing to make a ledger from.")
    loads = loads_.look(found.declared, open_target, ledger_id)
    work = _Work(staging, found, loads, stop, progress, [*found.problems, *loads.problems])
    root_id = staging.root_id() if keep or staging.exists(ROOT_ID) else ""
    named = loads.ledger_id or str(uuid.uuid4())

    def fill(connection: Connection) -> dict[str, Any]:
        try:
            return _fill(work, connection, root, root_id)
        except IntegrityError as error:
            raise StagingCorruptError(
                f"Records in staging contradict each other ({error.orig}): they are of different ledgers. Nothing was "
                f"made; restore the right ones from a copy."
            ) from error

    made = make_ledger(address, fill, ledger_id=named, keep=keep)
    return {
        "ledger_id": named,
        "ledger_id_from": "the targets" if loads.ledger_id else "new: no table tells of one",
        "staging_root": root,
        "kept": keep,
        **made,
        "lost": list(LOST),
        "problems": [{"where": p.where, "what": p.what, "mend": p.mend} for p in work.problems],
    }


def _fill(work: _Work, connection: Connection, root: str, root_id: str) -> dict[str, Any]:
    found, writer = work.evidence, Writer(connection)
    if root_id:
        writer.staging(root, root_id)
    epochs = _epochs(found)
    for name in sorted({*(e.stream for e in epochs), *(one.stream for of in found.declared.values() for one in of)}):
        writer.stream(name, _stream(work, name, epochs))
    for epoch in epochs:
        writer.epoch(epoch)
    for decision in found.decisions:
        if decision.kind == ADOPT and decision.epoch is not None:
            writer.cut(decision.stream, decision.epoch, reading.cut_of(decision.payload["origin"]))
    _pipelines(work, writer)
    states = _batches(work, writer)
    writer.decisions(found.decisions)
    folds, left_out = folded.write(work.staging, found.folds, frozenset(found.streams), writer)
    work.problems += [Problem(where, what, folded.MEND) for where, what in left_out]
    _verify(work, connection, epochs)
    _strangers(work)
    return {**_report(work, epochs, states), "folds": folds}


def _epochs(found: Evidence) -> list[EpochRecord]:
    """Epochs in order; raises StagingCorruptError for a number that nothing tells of."""
    adopted = {(d.stream, d.epoch): d for d in found.decisions if d.kind == ADOPT and d.epoch is not None}
    known: dict[tuple[str, int], TopicIdentity] = {}
    for (stream, number), decision in adopted.items():
        known[stream, number] = TopicIdentity(**decision.payload["topic"])
        known.setdefault((stream, number - 1), TopicIdentity(**decision.payload["before"]))
    known |= found.epochs
    made = []
    for stream, of in groupby(sorted(known), key=lambda key: key[0]):
        numbers = [number for _, number in of]
        if numbers != list(range(1, len(numbers) + 1)):
            raise StagingCorruptError(
                f"Stream {stream!r} has the epochs {numbers} in staging, but neither manifest nor adoption tells of "
                f"those between. Nothing was made; restore the decisions below {stream}/decisions from a copy."
            )
        for number in numbers:
            reason = adopted[stream, number].why if (stream, number) in adopted else _FIRST
            made.append(EpochRecord(stream, number, known[stream, number], reason))
    return made


def _stream(work: _Work, name: str, epochs: Iterable[EpochRecord]) -> str:
    """A stream's declaration: that of a pipeline's newest recipe over it, without its retention."""
    newest = [of[-1] for _, of in sorted(work.evidence.declared.items()) if of[-1].stream == name]
    if newest:
        return canonical({**newest[0].declaration["stream"], "raw_retention_ms": None})
    topic = next(e.identity.topic for e in reversed(list(epochs)) if e.stream == name)
    what = f"No pipeline over stream {name!r} has written its declaration down; the defaults stand for it."
    work.problems.append(Problem(f"stream {name}", what, "The next plan of any pipeline over it brings it."))
    return canonical(Stream(topic, name=name).canonical())


def _pipelines(work: _Work, writer: Writer) -> None:
    for name, of in sorted(work.evidence.declared.items()):
        for one in of:
            writer.recipe(name, one.recipe, one.stream, _declaration(one))
        writer.pipeline(name, of[-1].stream, of[-1].recipe)
    undeclared = sorted({pipeline for pipeline, _ in work.evidence.commits} - work.evidence.declared.keys())
    for name in undeclared:
        what = f"Pipeline {name!r} has generations, but no recipe of it is written down; they count as not loaded."
        work.problems.append(Problem(f"pipeline {name}", what, "Its next plan registers it."))


def _declaration(one: Declared) -> str:
    # Retention may have been changed since, and what gc removes by an old setting is gone.
    stream = {**one.declaration["stream"], "raw_retention_ms": None}
    kept = {**one.declaration, "stream": stream, "derived_retention_ms": None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _batches(work: _Work, writer: Writer) -> Counter[tuple[str, str]]:
    """Write batches and their generations; counts by (stream, what), and by (pipeline, state) of the newest ones."""
    generations = Generations(work.staging, work.evidence, work.loads)
    counts: Counter[tuple[str, str]] = Counter()
    total = len(work.evidence.manifests)
    for done, path in enumerate(work.evidence.manifests, 1):
        work.check_cancelled()
        landed = reading.landed(work.staging, path)
        writer.batch(landed)
        stream = landed.plan.stream
        counts[stream, "batches"] += 1
        counts[stream, "slices"] += len(landed.slices)
        counts[stream, "offsets"] += landed.plan.length
        counts[stream, "lost"] += sum(piece.lost for piece in landed.slices)
        newest: dict[str, str] = {}
        for made in generations.of(landed):
            writer.generation(made)
            newest[made.record.pipeline] = made.record.state.value
            counts[f"pipeline {made.record.pipeline}", "generations"] += 1
        for pipeline, state in newest.items():
            counts[f"pipeline {pipeline}", state] += 1
        if done % _EVERY == 0 or done == total:
            work.progress("written batches", done, total)
    work.problems += generations.problems
    return counts


def _verify(work: _Work, connection: Connection, epochs: Iterable[EpochRecord]) -> None:
    found = work.evidence
    verifying.chains(connection, [(e.stream, e.epoch) for e in epochs], work.check_cancelled)
    for one in epochs:
        work.problems += _gap(one, verifying.gaps(connection, one.stream, one.epoch))
    by_batch: dict[str, list[str]] = {}
    for (_, batch_id), of in found.commits.items():
        by_batch.setdefault(batch_id, []).extend(of.values())
    for done, (path, batch_id) in enumerate(found.manifests.items(), 1):
        work.check_cancelled()
        stream = found.streams[batch_id]
        epoch = reading.landed(work.staging, path).plan.epoch
        verifying.manifest(connection, work.staging, path, batch_id, found.epochs[stream, epoch])
        verifying.commits(connection, work.staging, stream, by_batch.get(batch_id, ()))
        if done % _EVERY == 0 or done == len(found.manifests):
            work.progress("verified batches", done, len(found.manifests))


def _gap(epoch: EpochRecord, gaps: tuple[OffsetRange, ...]) -> list[Problem]:
    if not gaps:
        return []
    what = (
        f"{sum(map(len, gaps)):,} offsets lie between landed batches and belong to none: a back-fill had planned them "
        f"and had not landed them whole. No run takes them by itself."
    )
    mend = f'eventlog backfill --pipeline FILE.py:VARIABLE --offsets "{format_ranges(gaps)}"'
    return [Problem(f"stream {epoch.stream}, epoch {epoch.epoch}", what, mend)]


def _strangers(work: _Work) -> None:
    """Batches that a table holds and no manifest tells of: planned once more, their rows would be there twice."""
    for (pipeline, table), held in work.loads.held.items():
        unknown = sorted(batch_id for batch_id in held if batch_id not in work.evidence.streams)
        if unknown:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            what = (
                f"It holds {len(unknown)} batches of pipeline {pipeline!r} of which staging has no manifest: "
                f"{', '.join(unknown[:_NAMED])}{more}. Their offsets count as never taken."
            )
            mend = (
                "Restore the manifests from a copy and rebuild once more; or delete these rows before the next run, "
                "which plans their offsets again."
            )
            work.problems.append(Problem(f"{table.target.path}, table {table.target.table}", what, mend))


def _report(work: _Work, epochs: list[EpochRecord], counts: Counter[tuple[str, str]]) -> dict[str, Any]:
    found = work.evidence
    decisions = Counter(d.kind for d in found.decisions)
    states = ("planned", "held", "validated", "loaded")
    return {
        "streams": [
            {
                "stream": name,
                "epochs": sum(e.stream == name for e in epochs),
                **{what: counts[name, what] for what in ("batches", "slices", "offsets", "lost")},
            }
            for name in dict.fromkeys(e.stream for e in epochs)
        ],
        "pipelines": [
            {
                "pipeline": name,
                "stream": of[-1].stream,
                "recipe": of[-1].recipe,
                "recipes": len(of),
                "generations": counts[f"pipeline {name}", "generations"],
                "batches": {state: counts[f"pipeline {name}", state] for state in states},
            }
            for name, of in sorted(found.declared.items())
        ],
        "decisions": dict(sorted(decisions.items())),
        "raw_files_unnamed": len(found.raw),
    }
