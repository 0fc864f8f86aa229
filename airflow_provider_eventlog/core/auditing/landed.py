"""Landing: slices tile their batches, raw files are what was recorded, manifests stand and agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import accounting, rawfile, retention
from airflow_provider_eventlog.core.auditing.files import Verifier, Wanted
from airflow_provider_eventlog.core.auditing.findings import (
    CHANGED,
    MANIFEST,
    NEWER,
    RAW,
    RESTORE,
    TROUBLE,
    Audit,
    Finding,
    Fix,
    drain,
)
from airflow_provider_eventlog.core.errors import (
    AccountingError,
    EventLogError,
    StagingCorruptError,
)
from airflow_provider_eventlog.core.holdings import HeldBatch
from airflow_provider_eventlog.core.offsets import Slice
from airflow_provider_eventlog.core.protocols import BatchState, EpochRecord, SliceRecord
from airflow_provider_eventlog.core.staging import paths, records

_Owned = tuple[EpochRecord, HeldBatch, SliceRecord]


def audit(run: Audit, verifier: Verifier) -> Iterator[Finding]:
    """Findings about batches, raw files and manifests of all epochs."""
    expired = retention.expired_raw(run.decisions)
    for epoch in run.epochs():
        found: deque[Finding] = deque()
        for wanted, error in verifier.each(_wanted(run, epoch, set(expired) - run.restore, found)):
            yield from drain(found)
            if error is not None:
                yield _raw(*wanted.of, error, restored=wanted.of[1].plan.batch_id in expired)
        yield from drain(found)


def _wanted(run: Audit, epoch: EpochRecord, expired: set[str], found: deque[Finding]) -> Iterator[Wanted[_Owned]]:
    """The raw files that must stand; what the ledger and the manifests say of themselves goes to `found`."""
    for held in run.ledger.batches(epoch.epoch):
        batch_id = held.plan.batch_id
        run.batch_ids.add(batch_id)
        run.checked["batches"] += 1
        found += _balance(held)
        found += _manifest(run, epoch, held)
        if batch_id in expired:
            run.checked["batches with expired raw files"] += 1
            continue
        for record in held.slices:
            run.checked["raw files"] += 1
            yield Wanted(record.file, _proof(held, record) if run.deep else None, (epoch, held, record))


def _balance(held: HeldBatch) -> Iterator[Finding]:
    plan = held.plan

    def wrong(code: str, where: str, what: str) -> Finding:
        return Finding(code, where, what, CHANGED, batch_id=plan.batch_id)

    where = f"epoch {plan.epoch}, batch {plan.batch_id}"
    try:
        accounting.tiled(plan.ranges, plan.slices)
        accounting.tiled(plan.ranges, held.planned)
    except AccountingError as error:
        yield wrong("tiling", where, str(error))
    landed = {record.range for record in held.slices}
    if held.state is BatchState.LANDED and landed != set(held.planned):
        yield wrong("slices_missing", where, "The batch counts as landed, but not all of its slices are recorded.")
    for record in held.slices:
        path = paths.raw_slice(Slice(plan.stream, plan.epoch, record.range))
        try:
            accounting.landing_counts(record)
        except AccountingError as error:
            yield wrong("slice_unbalanced", path, str(error))
        if record.file.path != path:
            yield wrong("slice_path", path, f"The ledger names another file for this slice: {record.file.path}.")


def _manifest(run: Audit, epoch: EpochRecord, held: HeldBatch) -> Iterator[Finding]:
    plan = held.plan
    path = paths.manifest(plan.stream, plan.epoch, plan.batch_id)
    if held.state is not BatchState.LANDED:
        run.checked["batches not landed yet"] += 1
        return
    run.checked["manifests"] += 1

    def wrong(trouble: str, what: str, *, fix: bool = True) -> Finding:
        return Finding(
            f"manifest_{trouble}",
            path,
            what,
            "`eventlog fsck --repair` publishes it again from the ledger." if fix else NEWER,
            batch_id=plan.batch_id,
            fix=Fix(MANIFEST, lambda mender: mender.manifest(epoch, held)) if fix else None,
        )

    try:
        record = run.engine.staging.read_json(path)
    except EventLogError as error:
        yield wrong(TROUBLE.get(type(error), "unreadable"), str(error), fix=type(error) is StagingCorruptError)
        return
    if record is None:
        yield wrong("missing", "The manifest of a landed batch is gone.")
    elif records.digest(record) != held.manifest_digest:
        said = (
            ", though it names the same rows" if _named(record) == {str(r.range): r.digest for r in held.slices} else ""
        )
        yield wrong("differs", f"Not the manifest that was sealed{said}.")


def _named(record: Mapping[str, Any]) -> dict[str, str] | None:
    """The digests that a manifest names by range; None for one that was made by other hands."""
    try:
        return {s["range"]: s["digest"] for s in record["slices"]}
    except (KeyError, TypeError):
        return None


def _proof(held: HeldBatch, record: SliceRecord) -> Callable[[Path], None]:
    return partial(_prove, Slice(held.plan.stream, held.plan.epoch, record.range), record)


def _prove(piece: Slice, record: SliceRecord, local: Path) -> None:
    """Footer and rows of a raw file against the ledger; raises StagingCorruptError, ManifestVersionError."""
    info = rawfile.read_info(local)
    said = (info.piece, info.rows, info.digest, info.aborted, info.gaps, info.losses, info.payload_bytes)
    known = (piece, record.rows, record.digest, record.aborted, record.gaps, record.losses, record.payload_bytes)
    if said != known:
        raise StagingCorruptError(f"The footer of {record.file.path} says other things than the ledger.")
    rawfile.verify_rows(local, record.digest)


def _raw(epoch: EpochRecord, held: HeldBatch, record: SliceRecord, error: EventLogError, *, restored: bool) -> Finding:
    trouble = TROUBLE.get(type(error), "unreadable")
    mendable = trouble in ("missing", "corrupt")
    if mendable:
        mend = "`eventlog fsck --repair` lands it again, if Kafka still has the same records; or restore the file."
    else:
        mend = NEWER if trouble == "newer" else RESTORE.format("the file")
    return Finding(
        "raw_expired" if restored and trouble == "missing" else f"raw_{trouble}",
        record.file.path,
        f"{record.range.people}: {error}",
        mend,
        damaged=not restored,
        batch_id=held.plan.batch_id,
        fix=Fix(RAW, lambda mender: mender.raw(epoch, held.plan, record)) if mendable else None,
    )
