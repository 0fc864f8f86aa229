"""Retention: which staged files a policy has let go, and what those are told who need them afterwards.

`eventlog gc` writes a decision of kind "expired" before it removes anything, one for all that one call lets go of a
stream or a pipeline. Plans, stages and `eventlog fsck` go by these decisions. Removal is final for plans and stages:
none of them lands or derives anew what was let go, since only the recorded content may ever stand under a published
name, and whether Kafka still gives it is not known before it was read. One door leads back, `eventlog fsck --restore`:
it lands raw files again where Kafka still has their offsets and derives parts again from raw, publishes them only if
they reproduce the recorded digests, and then writes a decision of kind "restored".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import EventLogError, RawExpiredError, StagingMissingError
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import Decision, SliceRecord

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.engine import Engine

EXPIRED, RESTORED = "expired", "restored"
RAW, PARTS = "raw", "parts"


def raw_payload(batch_ids: Iterable[str], files: int, size: int, retention_ms: int) -> dict[str, Any]:
    """The payload of a decision about raw files: those of whole batches."""
    return {"what": RAW, "batches": sorted(batch_ids), "files": files, "bytes": size, "retention_ms": retention_ms}


def parts_payload(through: Mapping[str, int], files: int, size: int, retention_ms: int) -> dict[str, Any]:
    """The payload of a decision about parts: of each batch those of all generations up to a number."""
    return {"what": PARTS, "through": dict(through), "files": files, "bytes": size, "retention_ms": retention_ms}


def expired_raw(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """Batches whose raw files were let go and not restored since, each with the decision that says so."""
    gone: dict[str, Decision] = {}
    for decision in _in_order(decisions, RAW):
        for batch_id in decision.payload["batches"]:
            if decision.kind == EXPIRED:
                gone[batch_id] = decision
            else:
                gone.pop(batch_id, None)
    return gone


def expired_parts(decisions: Iterable[Decision], pipeline: str) -> dict[str, tuple[int, Decision]]:
    """Batches of which a pipeline's parts were let go, with the newest such generation and the decision."""
    gone: dict[str, tuple[int, Decision]] = {}
    for decision in _in_order(decisions, PARTS):
        if decision.pipeline == pipeline:
            for batch_id, number in decision.payload["through"].items():
                # A restored generation leaves those below it gone.
                gone[batch_id] = (number, decision) if decision.kind == EXPIRED else (number - 1, decision)
    return gone


def _in_order(decisions: Iterable[Decision], what: str) -> list[Decision]:
    # Of an expiry and a restoration at one instant the restoration came later: it needs the expiry.
    ours = [d for d in decisions if d.kind in (EXPIRED, RESTORED) and d.payload.get("what") == what]
    return sorted(ours, key=lambda d: (d.at, d.kind, d.id))


def raw_error(stream: str, gone: Mapping[str, Decision], more: str = "") -> RawExpiredError:
    """The error for batches whose raw files were let go; `more` says what did not happen."""
    (first, decision), count = next(iter(gone.items())), len(gone)
    return RawExpiredError(
        f"The raw files of batch {first}{f' and of {count - 1} more batches' if count > 1 else ''} of stream "
        f"{stream!r} were removed by raw_retention at {when(decision.at)} (decision {decision.id}); accounting and "
        f"loaded rows stay.{more} Where Kafka still has the offsets, `eventlog fsck --restore {first}` lands them "
        f"again if they are still the same records. A longer raw_retention keeps later batches."
    )


def missing_raw(engine: Engine, stream: str, batch_id: str, path: str) -> EventLogError:
    """The error for a recorded raw file that is gone: let go by retention, or lost."""
    decision = expired_raw(engine.ledger.decisions(stream)).get(batch_id)
    if decision is not None:
        return raw_error(stream, {batch_id: decision})
    return StagingMissingError(
        f"The raw slice {path} was landed and is gone from staging. `eventlog fsck --repair` lands it again where "
        f"Kafka still has its offsets; or restore it from a copy."
    )


def missing_part(engine: Engine, stream: str, pipeline: str, batch_id: str, number: int, path: str) -> EventLogError:
    """The error for a recorded part that is gone: let go by retention, or lost."""
    through, decision = expired_parts(engine.ledger.decisions(stream), pipeline).get(batch_id, (0, None))
    if decision is not None and number <= through:
        return StagingMissingError(
            f"The parts of generation {number} of batch {batch_id} were removed by derived_retention at "
            f"{when(decision.at)} (decision {decision.id}); what is loaded stays. `eventlog fsck --restore {batch_id} "
            f"--pipeline FILE.py:VARIABLE` derives them again from the raw files."
        )
    return StagingMissingError(
        f"The part {path} was derived and is gone from staging. `eventlog fsck --repair --pipeline "
        f"FILE.py:VARIABLE` derives it again; or restore it from a copy."
    )


def open_raw(engine: Engine, stream: str, batch_id: str, record: SliceRecord) -> Path:
    """A landed raw file, verified; raises RawExpiredError, StagingMissingError, StagingCorruptError."""
    try:
        return engine.staging.open(record.file.path, record.file)
    except StagingMissingError as error:
        raise missing_raw(engine, stream, batch_id, record.file.path) from error
