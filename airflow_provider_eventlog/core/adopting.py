"""Adoption: a stream goes on with another topic than the one it was pinned to, as its next epoch.

Offsets of two epochs are never compared, and what was landed of the old topic stays as it is. Nothing here can tell
whether the new topic repeats events of the old one (a restored or mirrored topic may): the user decides by `start`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_provider_eventlog.core import deciding
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.landing import cut_json
from airflow_provider_eventlog.core.offsets import Cut, TopicIdentity
from airflow_provider_eventlog.core.planning import origin, rounds
from airflow_provider_eventlog.core.planning.observe import Observations
from airflow_provider_eventlog.core.protocols import Decision, EpochRecord, PlanningTransaction
from airflow_provider_eventlog.declare.stream import FromGroup, Stream, start_text

ADOPT = "adopt"


def adopt(
    engine: Engine,
    stream: Stream,
    start: str | datetime | Mapping[int, int] | FromGroup,
    *,
    who: str,
    why: str,
    keep: bool = True,
) -> dict[str, Any]:
    """Open the stream's next epoch, pinned to the topic that is there now; with keep=False only say what it would be.

    start     where the new epoch begins, as `Stream.start`, but not "interval"
    who, why  for the decision's record

    Returns JSON values: both identities, the epoch, and its first cut. One ledger transaction decides; its record in
    staging follows. Raises RequestError (nothing to adopt: the stream has no epoch yet, or the topic is the one that
    it is pinned to, or one of an earlier epoch), DeclarationError for a start without meaning, and what looking at the
    topic raises. After a failure nothing has changed, or all but the record in staging, which the next plan adds.
    """
    if start == "interval":
        raise RequestError('An adopted topic cannot begin at "interval"; name earliest, latest, a time or offsets.')
    begun = dataclasses.replace(stream, start=start)
    observed = Observations(engine.source(stream), engine.clock(), stream.max_future_skew_ms)

    def work(tx: PlanningTransaction) -> tuple[EpochRecord, EpochRecord, Cut]:
        before = _refuse_pointless(tx.epochs(), stream, observed.topic.identity)
        found = origin.find(observed, begun, functools.partial(origin.refuse, stream.topic))
        # Instants go on over the epochs, so that an interval is one of exactly one of them.
        newest = tx.newest_cut(before.epoch)
        instant = observed.now if newest is None else max(observed.now, newest.instant + 1)
        cut = Cut(instant, "origin", {p: f.offset for p, f in found.items()}, {p: f.by for p, f in found.items()})
        made = tx.add_epoch(observed.topic.identity, why)
        tx.add_cut(made.epoch, cut)
        tx.decide(_decision(stream, begun, made, before, cut, who, why, observed.now))
        return before, made, cut

    before, made, cut = rounds.decide(engine.ledger, stream, observed, work, keep=keep)
    if keep:
        deciding.write_down(engine, stream.name)
    return {
        "stream": stream.name,
        "epoch": made.epoch,
        "before": before.identity.to_json(),
        "topic": made.identity.to_json(),
        "origin": cut_json(cut),
        "kept": keep,
    }


def _refuse_pointless(epochs: tuple[EpochRecord, ...], stream: Stream, found: TopicIdentity) -> EpochRecord:
    if not epochs:
        raise RequestError(
            f"Stream {stream.name!r} has no epoch in this ledger: there is nothing to adopt, its first plan pins it."
        )
    for epoch in epochs:
        # A weak identity cannot tell that the topic is another one: then the user's word is all there is.
        if epoch.identity == found and not found.weak:
            raise RequestError(
                f"Stream {stream.name!r} is pinned to this very topic as epoch {epoch.epoch} ({found}): nothing was "
                f"adopted."
                + ("" if epoch is epochs[-1] else " To read an earlier topic on, declare a stream with another name.")
            )
    return epochs[-1]


def _decision(
    stream: Stream,
    begun: Stream,
    made: EpochRecord,
    before: EpochRecord,
    cut: Cut,
    who: str,
    why: str,
    now: int,
) -> Decision:
    return Decision(
        kind=ADOPT,
        stream=stream.name,
        epoch=made.epoch,
        pipeline=None,
        batch_id=None,
        who=who,
        why=why,
        at=now,
        payload={
            "before": before.identity.to_json(),
            "topic": made.identity.to_json(),
            "start": start_text(begun.start),
            "origin": cut_json(cut),
        },
    )
