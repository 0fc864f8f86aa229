"""Landing: copy exactly the planned offsets to staging, nothing parsed, nothing dropped.

The published slice is the truth: a file that stands is adopted, never read from Kafka again. When all slices of a
batch are landed its manifest is published, which is the landing's commit record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import accounting, rawfile, retention
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    AccountingError,
    NotReadyError,
    StagingCorruptError,
    TopicNotFoundError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, Slice, TopicIdentity
from airflow_provider_eventlog.core.planning.plan import replaced
from airflow_provider_eventlog.core.protocols import Outcome, SliceRecord, StagedFile
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.declare.stream import Stream


def land_slice(
    engine: Engine, stream: Stream, identity: TopicIdentity, batch: BatchPlan, wanted: OffsetRange
) -> SliceRecord:
    """Land one slice, or adopt what an earlier attempt published; returns the ledger's record of it.

    `identity` is what the epoch is pinned to; it is checked before the first offset is read and again before the
    file is published. Raises the source and staging errors of `core.errors`. After any failure nothing of this
    attempt is visible, and a retry goes on with the slices that are missing.
    """
    piece = Slice(batch.stream, batch.epoch, wanted)
    path = paths.raw_slice(piece)
    recorded = {r.range: r for r in engine.ledger.slices(batch.batch_id)}.get(wanted)
    if recorded is not None:
        if not engine.staging.exists(path):
            raise retention.missing_raw(engine, stream.name, batch.batch_id, path)
        return recorded
    outcome, file = Outcome.EXISTED, engine.staging.stat(path)
    if file is not None and _of_another_topic(engine, identity, file):
        engine.staging.set_aside(path, file)
        file = None
    if file is None:
        try:
            outcome, file = _read_and_publish(engine, stream, identity, piece, path)
        except TopicNotFoundError as error:
            raise TopicNotFoundError(
                f"The topic {identity} is gone: it was deleted after {wanted.people} were planned and before they were "
                f"landed, or the connection points at another cluster. Nothing of them was published; what was landed "
                f"before stays. If the topic was created again, `eventlog adopt` goes on with the new one."
            ) from error
    return engine.ledger.record_slice(batch.batch_id, _adopt(engine, piece, outcome, file))


def _read_and_publish(
    engine: Engine, stream: Stream, identity: TopicIdentity, piece: Slice, path: str
) -> tuple[Outcome, StagedFile]:
    """Read the slice and publish it; the file that stands then, this attempt's or one that was faster."""
    source = engine.source(stream)
    _same_topic(identity, source.describe().identity)

    def write(temporary: Path) -> None:
        rawfile.write_slice(
            temporary,
            source.read(piece.range, record_loss=stream.on_data_loss == "record"),
            piece,
            lambda: source.last_read,
            identity,
        )
        # A topic that was replaced while it was read must not be published under the old one's offsets.
        _same_topic(identity, source.describe().identity)
        engine.check_cancelled()

    return engine.staging.publish(path, write)


def _same_topic(pinned: TopicIdentity, found: TopicIdentity) -> None:
    if pinned != found:
        raise TopicReplacedError(replaced(pinned, found))


def _of_another_topic(engine: Engine, identity: TopicIdentity, file: StagedFile) -> bool:
    """Whether a file that no ledger has was landed from a topic that was there before this one.

    A ledger that was lost before a manifest told of its epoch takes the topic of now for the first one.
    """
    try:
        found = rawfile.read_info(engine.staging.open(file.path)).topic
    except StagingCorruptError:
        # What is damaged is told of where it is adopted.
        return False
    return found is not None and found != identity


def _adopt(engine: Engine, piece: Slice, outcome: Outcome, file: StagedFile) -> SliceRecord:
    path, local = file.path, engine.staging.open(file.path)
    info = rawfile.read_info(local)
    if info.piece != piece:
        raise StagingCorruptError(
            f"The file {path} holds {info.piece}, not {piece}; restore it, or move it away and clear land."
        )
    if outcome is not Outcome.LANDED:
        rawfile.verify_rows(local, info.digest)
    record = SliceRecord(
        range=piece.range,
        file=file,
        digest=info.digest,
        rows=info.rows,
        invisible=info.invisible,
        aborted=info.aborted,
        lost=info.lost,
        gaps=info.gaps,
        payload_bytes=info.payload_bytes,
        losses=info.losses,
    )
    accounting.landing_counts(record)
    return record


def seal(engine: Engine, batch: BatchPlan, identity: TopicIdentity) -> bool:
    """Publish the manifest if every slice of the batch is landed; True if it stands now."""
    slices = engine.ledger.slices(batch.batch_id)
    if {r.range for r in slices} != set(batch.slices):
        return False
    record = manifest(batch, identity, slices, engine.ledger.bounds(batch.batch_id))
    engine.staging.publish_json(paths.manifest(batch.stream, batch.epoch, batch.batch_id), record)
    engine.ledger.seal_batch(batch.batch_id, records.digest(record))
    return True


def manifest(
    batch: BatchPlan,
    identity: TopicIdentity,
    slices: tuple[SliceRecord, ...],
    bounds: tuple[Cut | None, Cut | None],
) -> dict[str, Any]:
    """The commit record: plan, cuts, files and accounting, a function of the batch and its content alone."""
    accounting.tiled(batch.ranges, [r.range for r in slices])
    counts = [accounting.landing_counts(r) for r in slices]
    return {
        "batch": batch_json(batch),
        "topic": identity.to_json(),
        "cuts": [None if cut is None else cut_json(cut) for cut in bounds],
        "slices": [_slice_json(r, c) for r, c in zip(slices, counts, strict=True)],
        "accounting": accounting.total(counts, accounting.LANDING),
    }


def batch_json(batch: BatchPlan) -> dict[str, Any]:
    """A batch's plan as JSON values."""
    return {
        "batch_id": batch.batch_id,
        "stream": batch.stream,
        "epoch": batch.epoch,
        "kind": batch.kind,
        "from_instant": batch.from_instant,
        "to_instant": batch.to_instant,
        "ranges": [str(r) for r in batch.ranges],
    }


def cut_json(cut: Cut) -> dict[str, Any]:
    """A cut as JSON values; offsets and how they were found by partition, in order."""
    found = [[p, offset, cut.found_by[p]] for p, offset in sorted(cut.offsets.items())]
    return {"instant": cut.instant, "kind": cut.kind, "offsets": found}


def _slice_json(record: SliceRecord, counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "range": str(record.range),
        "path": record.file.path,
        "file_bytes": record.file.bytes,
        "sha256": record.file.sha256,
        "digest": record.digest,
        "gaps": [str(g) for g in record.gaps],
        "losses": [str(g) for g in record.losses],
        "accounting": dict(counts),
    }


def verified_slices(engine: Engine, batch: BatchPlan) -> tuple[SliceRecord, ...]:
    """The landed slices of a sealed batch, after comparing ledger and manifest.

    Raises NotReadyError before the manifest stands, AccountingError where the two differ.
    """
    path = paths.manifest(batch.stream, batch.epoch, batch.batch_id)
    record = engine.staging.read_json(path)
    if record is None:
        raise NotReadyError(
            f"Batch {batch.batch_id} is not landed yet: {path} is missing. Run or clear its land tasks."
        )
    slices = engine.ledger.slices(batch.batch_id)
    named = {s["range"]: (s["sha256"], s["digest"]) for s in record["slices"]}
    known = {str(r.range): (r.file.sha256, r.digest) for r in slices}
    if named != known:
        differing = ", ".join(sorted({name for name, _ in set(named.items()) ^ set(known.items())})[:5])
        raise AccountingError(f"Manifest and ledger of batch {batch.batch_id} name different slices: {differing}.")
    return slices
