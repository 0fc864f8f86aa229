"""A fold log as its newest fold left it: where the frontier stands, the watermark, the state of open windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.folding import files
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord
from airflow_provider_eventlog.core.windows import state
from airflow_provider_eventlog.core.windows.plan import WindowPlan

if TYPE_CHECKING:
    import duckdb

# Every so many folds the state is written whole: reading it takes one file and at most so many deltas.
COMPACTED = 16
Span = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Head:
    """What the next fold goes out from.

    n          number of the newest fold, 0 before the first
    epoch, instant  where the frontier stands: the end of the newest chain segment that is folded or skipped
    watermark  milliseconds since 1970 UTC; None while nothing is known
    holes      spans of event time (ms) in which windows are not whole
    """

    log: FoldLog
    n: int
    epoch: int
    instant: int
    watermark: int | None
    holes: tuple[Span, ...]

    def to_json(self) -> dict[str, Any]:
        """What the record of fold n keeps of it."""
        return {"frontier": [self.epoch, self.instant], "holes": [list(span) for span in self.holes]}


def begin(log: FoldLog, *, whole: bool) -> Head:
    """Before the first fold; `whole` if nothing was produced before the log's origin that it does not read."""
    return Head(log, 0, log.epoch, log.origin, None, () if whole else ((None, log.origin),))


def after(log: FoldLog, record: FoldRecord) -> Head:
    """Behind a fold."""
    kept: Mapping[str, Any] = record.accounting
    epoch, instant = kept["frontier"]
    holes = tuple((since, until) for since, until in kept["holes"])
    return Head(log, record.n, epoch, instant, record.watermark, holes)


def state_of(engine: Engine, connection: duckdb.DuckDBPyConnection, plan: WindowPlan, log: FoldLog, n: int) -> pa.Table:
    """The state that fold n left: the newest whole one, and the deltas behind it.

    Raises StagingMissingError, StagingCorruptError.
    """
    base = n - n % COMPACTED
    folds = [f for f in engine.ledger.folds(log.pipeline, log.output, log.log, max(base - 1, 0)) if f.n <= n]
    whole, deltas = state.empty_state(plan), folds
    if base and folds:
        found = files.read(engine, folds[0], files.STATE)
        whole, deltas = (found[0] if found else whole), folds[1:]
    return state.apply(connection, plan, whole, [t for f in deltas for t in files.read(engine, f, files.DELTA)])


def current(folds: Sequence[FoldRecord]) -> dict[str, FoldRecord]:
    """By batch the fold by which its rows entered last, in the order in which the batches first did."""
    found: dict[str, FoldRecord] = {}
    for fold in folds:
        if fold.about is not None and fold.accounting.get("generation") is not None:
            found[fold.about] = fold
    return found
