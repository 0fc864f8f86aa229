"""A log that ends before a cut: it was truncated, and what is written there now would pass for landed."""

from __future__ import annotations

from airflow_provider_eventlog.core.errors import SourceRegressedError
from airflow_provider_eventlog.core.offsets import Cut, OffsetRange
from airflow_provider_eventlog.core.planning.observe import Observations


def refuse(observed: Observations, topic: str, newest: Cut) -> None:
    """Raise SourceRegressedError if a partition ends before the chain's newest cut; LookupNeeded to make sure."""
    if not _missing(newest, observed.ends):
        return
    # Another run may have made the cut after this one looked: only ends that are asked for now tell.
    ends: dict[int, int] = observed.once(("ends", newest.instant), lambda now: now.source.log_ends())
    missing = _missing(newest, ends)
    if missing:
        said = "; ".join(r.people for r in missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise SourceRegressedError(
            f"The log of topic {topic!r} ends before what was planned already: {said} are gone from its end. It was "
            f"truncated by an unclean leader election or a broker that lost its disk (or a replica lags: then a retry "
            f"helps). Nothing was planned, since new records at those offsets would pass for the old ones. What was "
            f"landed is kept; to go on, declare a stream of another name over the topic, with "
            f"start={{{', '.join(f'{r.partition}: {r.start}' for r in missing[:5])}}}."
        )


def _missing(newest: Cut, ends: dict[int, int]) -> list[OffsetRange]:
    return [OffsetRange(p, ends[p], o) for p, o in sorted(newest.offsets.items()) if ends.get(p, o) < o]
