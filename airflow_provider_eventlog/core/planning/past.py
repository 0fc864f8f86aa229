"""Requests for an earlier epoch: its topic is gone, so that only what was landed of it can be taken again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_eventlog.core.errors import OffsetsLostError, RequestError, TopicReplacedError
from airflow_provider_eventlog.core.offsets import BatchPlan, format_ranges, subtract
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import EpochRecord, PlanningTransaction
from airflow_provider_eventlog.core.requests import RunRequest


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a run takes of an earlier epoch: landed batches, each a replay."""

    epoch: EpochRecord
    batches: tuple[tuple[BatchPlan, str], ...]
    notes: tuple[str, ...]


def of_request(tx: PlanningTransaction, pipeline: str, request: RunRequest) -> Earlier | None:
    """What the request takes of an earlier epoch, or None if it is one for the newest.

    Offsets go by the epoch that they name, intervals by the epoch in which they end, and what came since the last
    batch begins with the oldest epoch of which the pipeline has not taken all that was landed.

    Raises RequestError (an epoch that the stream does not have), OffsetsLostError, TopicReplacedError (an interval
    of which something was planned and not landed, or nothing was planned at all).
    """
    epochs = tx.epochs()
    if request.epoch is not None and request.epoch > len(epochs):
        raise RequestError(
            f"The stream has no epoch {request.epoch}; its newest is {len(epochs)}. Nothing was planned."
        )
    if len(epochs) == 1:
        return None
    if request.mode == "offsets":
        number = request.epoch or len(epochs)
        return None if number == len(epochs) else _offsets(tx, epochs[number - 1], request)
    if request.mode == "since_last":
        return _waiting(tx, epochs, pipeline, request.max_batches)
    return _interval(tx, epochs, request)


def _offsets(tx: PlanningTransaction, epoch: EpochRecord, request: RunRequest) -> Earlier:
    found = tx.owners(epoch.epoch, request.ranges)
    landed = tx.landed(b.batch_id for b in found)
    owners = [b for b in found if b.batch_id in landed]
    rest = subtract(request.ranges, [r for b in owners for r in b.ranges])
    if rest:
        raise OffsetsLostError(
            f"The topic of epoch {epoch.epoch} ({epoch.identity}) is gone, and these of its offsets were never landed: "
            f"{format_ranges(rest)}. Nothing was planned; name landed offsets only."
        )
    return _replays(epoch, owners, f"{len(owners)} batches of epoch {epoch.epoch} are replayed whole from staging.")


def _waiting(
    tx: PlanningTransaction, epochs: Sequence[EpochRecord], pipeline: str, limit: int | None
) -> Earlier | None:
    for epoch in epochs[:-1]:
        waiting = tx.waiting(pipeline, epoch.epoch, limit, landed=True)
        if waiting.batches:
            return _replays(
                epoch,
                waiting.batches,
                f"{len(waiting.batches)} landed batches of epoch {epoch.epoch} come first; {waiting.remaining()} more "
                f"of it, and what follows it, remain for the next runs.",
            )
    return None


def _interval(tx: PlanningTransaction, epochs: Sequence[EpochRecord], request: RunRequest) -> Earlier | None:
    assert request.interval is not None
    start, end = request.interval
    epoch = next((e for e in reversed(epochs) if _begins_before(tx, e, end)), epochs[0])
    if epoch == epochs[-1]:
        return None
    inside = tx.segments(epoch.epoch, start, end)
    landed = tx.landed(b.batch_id for b in inside)
    missing = [b.batch_id for b in inside if b.batch_id not in landed]
    if missing or not inside:
        raise TopicReplacedError(
            f"The interval {when(start)} to {when(end)} lies in epoch {epoch.epoch}, whose topic ({epoch.identity}) is "
            f"gone, and "
            + (f"these of its batches were never landed: {', '.join(missing[:5])}" if missing else "nothing of it was")
            + ". Nothing was planned; take intervals that were landed, or ones of the topic that is there now."
        )
    return _replays(epoch, inside, f"The interval lies in epoch {epoch.epoch}: replayed from staging.")


def _begins_before(tx: PlanningTransaction, epoch: EpochRecord, instant: int) -> bool:
    first = tx.first_instant(epoch.epoch)
    return first is not None and first < instant


def _replays(epoch: EpochRecord, batches: Sequence[BatchPlan], note: str) -> Earlier:
    return Earlier(epoch, tuple((b, "replay") for b in batches), (note,))
