"""Derived data: every generation has its parts, they are what was recorded, its commit record stands and agrees."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from airflow_provider_eventlog.core import accounting, partfile, quarantine, retention
from airflow_provider_eventlog.core.auditing.files import Verifier, Wanted
from airflow_provider_eventlog.core.auditing.findings import (
    CHANGED,
    COMMIT,
    NEWER,
    PART,
    RESTORE,
    TROUBLE,
    Audit,
    Finding,
    Fix,
    drain,
)
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.errors import AccountingError, EventLogError, StagingCorruptError
from airflow_provider_eventlog.core.folding import partials
from airflow_provider_eventlog.core.holdings import HeldBatch, HeldGenerations
from airflow_provider_eventlog.core.protocols import GenerationRecord, GenerationState, PartRecord
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.validating import commit_record, rows_digest

# Of partial results, which have a kind for each windows output.
_PARTIALS = partials.kind_of("")
_COMMITTED = (GenerationState.VALIDATED, GenerationState.LOADED)
_AGAIN = "clear its run from plan: that derives the batch again, as its next generation"
_Owned = tuple[HeldBatch, GenerationRecord, PartRecord, bool]


class Loaded(NamedTuple):
    """A loaded generation as the tables should show it: by kind of part, the digest of its rows and their number."""

    number: int
    recipe: str
    rows: Mapping[str, tuple[str | None, int]]


@dataclass
class Derived:
    """What an audit of one pipeline's generations leaves for the audit of its tables.

    loaded  the loaded generations of each batch, in order
    states  how many batches stand at which state, by their newest generation
    """

    pipeline: str
    loaded: dict[str, tuple[Loaded, ...]] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)


def audit(run: Audit, verifier: Verifier, derived: Derived) -> Iterator[Finding]:
    """Findings about the parts and commit records of one pipeline."""
    found: deque[Finding] = deque()
    expired = retention.expired_parts(run.decisions, derived.pipeline)
    for wanted, error in verifier.each(_wanted(run, derived, expired, found)):
        yield from drain(found)
        if error is not None:
            yield _part(*wanted.of, error, restored=wanted.of[0].plan.batch_id in expired)
    yield from drain(found)


def _wanted(run: Audit, derived: Derived, expired: Any, found: deque[Finding]) -> Iterator[Wanted[_Owned]]:
    for taken in run.ledger.generations(derived.pipeline):
        batch_id = taken.batch.plan.batch_id
        newest = _stand(derived, taken, found)
        through = expired.get(batch_id, (0,))[0]
        for generation, parts in taken.generations:
            run.checked["generations"] += 1
            run.commits.add((derived.pipeline, batch_id, generation.generation))
            if generation.state in _COMMITTED:
                found += balance(taken.batch, generation, parts)
                found += _commit(run, taken.batch, generation, parts)
            wanted = generation.generation > through or (batch_id in run.restore and generation is newest)
            if not wanted:
                run.checked["generations with expired parts"] += 1
            for part in parts:
                # Retention leaves the quarantine.
                if part.kind == TYPED and not wanted:
                    continue
                run.checked["parts"] += 1
                proof = _proof(part) if run.deep and _again(part) else None
                yield Wanted(part.file, proof, (taken.batch, generation, part, _superseded(generation, newest)))


def _stand(derived: Derived, taken: HeldGenerations, found: deque[Finding]) -> GenerationRecord | None:
    """Note how far the batch is; its newest loaded generation."""
    newest = taken.generations[-1][0]
    derived.states[newest.state.value] += 1
    loaded = [(g, parts) for g, parts in taken.generations if g.state is GenerationState.LOADED]
    if loaded:
        derived.loaded[newest.batch_id] = tuple(Loaded(g.generation, g.recipe, tabled(g, parts)) for g, parts in loaded)
    if newest.state is GenerationState.HELD:
        where = f"pipeline {newest.pipeline}, batch {newest.batch_id}, generation {newest.generation}"
        what, mend = "Validation holds this generation.", f"Correct the check or the transform, then {_AGAIN}."
        found.append(_of(newest, "held", where, what, mend, damaged=False))
    return loaded[-1][0] if loaded else None


def tabled(generation: GenerationRecord, parts: tuple[PartRecord, ...]) -> dict[str, tuple[str | None, int]]:
    """What tables hold of a validated generation, by kind of part: the digest of its rows and their number."""
    figures = generation.accounting or {}
    return {
        TYPED: (generation.digest, int(figures["transform"]["passed"])),
        quarantine.KIND: (rows_digest(parts, quarantine.KIND), sum(figures.get("quarantine", {}).values())),
    }


def _superseded(generation: GenerationRecord, loaded: GenerationRecord | None) -> bool:
    return loaded is not None and generation.generation < loaded.generation


def balance(batch: HeldBatch, generation: GenerationRecord, parts: tuple[PartRecord, ...]) -> Iterator[Finding]:
    """Where the ledger's own rows of a validated generation contradict each other."""
    typed = tuple(p for p in parts if p.kind == TYPED)
    where = f"pipeline {generation.pipeline}, batch {generation.batch_id}, generation {generation.generation}"

    def wrong(code: str, what: str) -> Finding:
        return _of(generation, code, where, what, CHANGED)

    if [p.range for p in typed] != sorted(r.range for r in batch.slices):
        yield wrong("parts_missing", "Its parts do not cover the slices of its batch one to one.")
        return
    try:
        sums = [accounting.transform_counts(p, r) for p, r in zip(typed, sorted_slices(batch), strict=True)]
        kept = (generation.accounting or {}).get("transform")
        if kept != accounting.total(sums, accounting.TRANSFORM):
            yield wrong("generation_unbalanced", "Its accounting is not the sum of its parts.")
        stopped = {p.range: p for p in parts if p.kind == quarantine.KIND}
        for part in typed:
            accounting.quarantined(part, stopped.get(part.range))
    except AccountingError as error:
        yield wrong("generation_unbalanced", str(error))
    if rows_digest(typed) != generation.digest:
        yield wrong("generation_digest", "Its digest is not that of its parts.")


def sorted_slices(batch: HeldBatch) -> list[Any]:
    """A batch's slices in the order of its parts."""
    return sorted(batch.slices, key=lambda record: record.range)


def _commit(
    run: Audit, batch: HeldBatch, generation: GenerationRecord, parts: tuple[PartRecord, ...]
) -> Iterator[Finding]:
    plan, number = batch.plan, generation.generation
    path = paths.commit(plan.stream, generation.pipeline, plan.batch_id, number)
    run.checked["commits"] += 1
    expected = expected_commit(generation, parts)

    def wrong(trouble: str, what: str) -> Finding:
        fix = Fix(COMMIT, lambda mender: mender.commit(batch, generation)) if trouble != "newer" else None
        mend = "`eventlog fsck --repair` publishes it again from the ledger." if fix else NEWER
        return _of(generation, f"commit_{trouble}", path, what, mend, fix=fix)

    try:
        record = run.engine.staging.read_json(path)
    except EventLogError as error:
        trouble = TROUBLE.get(type(error), "unreadable")
        yield wrong(trouble, str(error))
        return
    if record is None:
        yield wrong("missing", "The commit record of a validated generation is gone.")
    elif record != expected:
        differing = sorted(k for k in {*record, *expected} if record.get(k) != expected.get(k))
        yield wrong("differs", f"Ledger and commit record differ in {', '.join(differing)}.")


def expected_commit(generation: GenerationRecord, parts: tuple[PartRecord, ...]) -> dict[str, Any]:
    """The commit record that the ledger's rows give."""
    return commit_record(
        generation.pipeline,
        generation.batch_id,
        generation.generation,
        generation.recipe,
        parts,
        generation.accounting or {},
    )


def _proof(part: PartRecord) -> Callable[[Path], None]:
    return partial(_prove, part)


def _prove(part: PartRecord, local: Path) -> None:
    """Footer and rows of a part against the ledger; raises StagingCorruptError, ManifestVersionError."""
    info = partfile.read_part_info(local)
    said = (info.kind, info.range, info.recipe, info.digest, info.counts)
    if said != (part.kind, part.range, part.recipe, part.digest, dict(part.counts)):
        raise StagingCorruptError(f"The footer of {part.file.path} says other things than the ledger.")
    partfile.verify_rows(local, part.digest)


def _again(part: PartRecord) -> bool:
    """Whether a part's rows can be proved, and derived again."""
    return part.kind in (TYPED, quarantine.KIND) or part.kind.startswith(_PARTIALS)


def _part(
    batch: HeldBatch,
    generation: GenerationRecord,
    part: PartRecord,
    superseded: bool,
    error: EventLogError,
    *,
    restored: bool,
) -> Finding:
    trouble = TROUBLE.get(type(error), "unreadable")
    fix = None
    if superseded:
        mend = "Nothing needs it any more: a later generation is loaded."
    elif trouble in ("missing", "corrupt") and _again(part):
        fix = Fix(PART, lambda mender: mender.part(batch, generation, part))
        mend = f"`eventlog fsck --repair --pipeline FILE.py:VARIABLE` derives it again from raw; or {_AGAIN}."
    elif trouble == "newer":
        mend = NEWER
    else:
        mend = RESTORE.format(f"the file, or {_AGAIN}")
    return _of(
        generation,
        "part_expired" if restored and trouble == "missing" else f"part_{trouble}",
        part.file.path,
        f"{part.range.people}: {error}",
        mend,
        damaged=not (superseded or restored),
        fix=fix,
    )


def _of(
    generation: GenerationRecord,
    code: str,
    where: str,
    what: str,
    mend: str,
    *,
    damaged: bool = True,
    fix: Fix | None = None,
) -> Finding:
    return Finding(
        code,
        where,
        what,
        mend,
        damaged=damaged,
        batch_id=generation.batch_id,
        pipeline=generation.pipeline,
        generation=generation.generation,
        fix=fix,
    )
