"""Runs by explicit offsets: owners of what is covered as whole replays, new off-chain batches for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_provider_eventlog.core.errors import OffsetRangeError
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, format_ranges, subtract
from airflow_provider_eventlog.core.planning.chain import Chain
from airflow_provider_eventlog.core.planning.sizes import portions


def by_offsets(chain: Chain, wanted: Sequence[OffsetRange]) -> list[BatchPlan]:
    """The batches that own `wanted`, planned ones first; no offset is taken twice.

    Raises OffsetRangeError for what the topic does not have, OffsetsLostError for what it no longer has.
    """
    refuse_outside(chain.stream.topic, chain.observed.ends, wanted)
    covered = chain.tx.covered(chain.epoch, wanted)
    owners = list(chain.tx.owners(chain.epoch, wanted))
    rest = subtract(wanted, covered)
    chain.refuse_lost(rest)
    if owners:
        chain.notes.append(
            f"{len(owners)} planned {'batches own' if len(owners) > 1 else 'batch owns'} some of these offsets and "
            f"{'are' if len(owners) > 1 else 'is'} replayed whole; not covered yet: {format_ranges(rest) or 'nothing'}."
        )
    if not owners and not rest:
        chain.notes.append("The ranges hold no offsets: nothing to take.")
    limit = chain.stream.max_batch_offsets
    return owners + [chain.add_batch("off_chain", None, None, portion) for portion in portions(rest, limit)]


def refuse_outside(topic: str, ends: Mapping[int, int], wanted: Sequence[OffsetRange]) -> None:
    """Raise OffsetRangeError for a partition that the topic does not have, or an end beyond its last stable offset."""
    for r in wanted:
        if r.partition not in ends:
            raise OffsetRangeError(
                f"The range {r} names partition {r.partition}, but topic {topic!r} has {len(ends)} "
                f"(0 to {len(ends) - 1})."
            )
        if r.end > ends[r.partition]:
            raise OffsetRangeError(
                f"The range {r} ends beyond the last stable offset {ends[r.partition]} of partition {r.partition} of "
                f"topic {topic!r}; the largest end is {ends[r.partition]}."
            )
