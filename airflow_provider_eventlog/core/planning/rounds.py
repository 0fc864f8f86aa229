"""A decision in rounds: inside the planning transaction from what is known, outside of it for what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from airflow_provider_eventlog.core.planning.observe import LookupNeeded, Observations
from airflow_provider_eventlog.core.protocols import Ledger, PlanningTransaction
from airflow_provider_eventlog.core.staging.records import canonical
from airflow_provider_eventlog.declare.stream import Stream

T = TypeVar("T")


class _PreviewDone(Exception, Generic[T]):  # noqa: N818
    """Leaves the transaction without a trace, carrying what it would have decided."""

    def __init__(self, decided: T) -> None:
        super().__init__("preview")
        self.decided = decided


def decide(
    ledger: Ledger,
    stream: Stream,
    observed: Observations | None,
    work: Callable[[PlanningTransaction], T],
    *,
    keep: bool,
) -> T:
    """What `work` decides in one planning transaction of the stream; with keep=False nothing of it is kept.

    `work` is called again from the start after each look-up that it asks for, so it must be a function of the
    transaction and of `observed`. Raises what it raises; the ledger is then as it was.
    """
    while True:
        try:
            with ledger.planning(stream.name, canonical(stream.canonical())) as tx:
                decided = work(tx)
                if not keep:
                    raise _PreviewDone(decided)
                return decided
        except LookupNeeded as needed:
            # Each round answers one more question, and a decision asks finitely many.
            assert observed is not None
            needed.fetch(observed)
        except _PreviewDone as done:
            found: T = done.decided
            return found
