"""The chain: no offset twice, none left out, cuts that never run backwards. Asked of the ledger alone."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_eventlog.core.auditing.findings import CHANGED, Audit, Finding
from airflow_provider_eventlog.core.offsets import Cut, OffsetRange, between, subtract
from airflow_provider_eventlog.core.planning.words import when

_NAMED = 8


def audit(run: Audit) -> Iterator[Finding]:
    """Findings about cuts, segments and coverage of all epochs."""
    epochs = run.epochs()
    for epoch in epochs:
        yield from _order(run, epoch.epoch)
        yield from _whole(run, epoch.epoch, newest=epoch == epochs[-1])


def _order(run: Audit, epoch: int) -> Iterator[Finding]:
    for found, batch_id, end in run.ledger.overlaps(epoch):
        shared = OffsetRange(found.partition, found.start, min(found.end, end))
        yield Finding(
            "overlap", f"epoch {epoch}, {shared}", f"{shared.people} are planned twice.", CHANGED, batch_id=batch_id
        )
    for partition, instant, offset, before in run.ledger.backward_cuts(epoch):
        yield Finding(
            "cut_backwards",
            f"epoch {epoch}, partition {partition}, cut at {when(instant)}",
            f"The cut is at offset {offset}, an earlier one at {before}.",
            CHANGED,
        )
    for batch_id in run.ledger.astray(epoch):
        yield Finding(
            "chain_broken",
            f"epoch {epoch}, batch {batch_id}",
            "A chain batch does not end at the cut that follows its first one.",
            CHANGED,
            batch_id=batch_id,
        )


def _whole(run: Audit, epoch: int, *, newest: bool) -> Iterator[Finding]:
    # Coverage is read last: what is planned meanwhile closes holes and opens none.
    extents, segments = run.ledger.extents(epoch), run.ledger.unplanned(epoch)
    coverage = run.engine.ledger.coverage(run.stream, epoch)
    missing = subtract(extents, coverage)
    run.checked["offsets"] += sum(map(len, coverage))
    holes: list[OffsetRange] = []
    for low, high in segments:
        rest = subtract(between(low, high), coverage)
        holes += rest
        if rest:
            yield _hole(epoch, low, high, rest, newest=newest)
    gaps = subtract(missing, holes)
    if gaps:
        # Of a topic that is gone nobody can take them any more; a batch that lacks them is told of by itself.
        yield Finding(
            "gap",
            f"epoch {epoch}, {_some(gaps)}",
            f"{sum(map(len, gaps)):,} offsets inside the chain belong to no batch.",
            f"{_FORGOTTEN} {CHANGED}" if newest else "",
            damaged=newest,
        )


_FORGOTTEN = (
    "If the ledger was made again after a loss, a back-fill had planned them: take them with `eventlog backfill "
    "--pipeline FILE.py:VARIABLE --offsets`. Otherwise:"
)


def _hole(epoch: int, low: Cut, high: Cut, rest: tuple[OffsetRange, ...], *, newest: bool) -> Finding:
    count = sum(map(len, rest))
    where = f"epoch {epoch}, {when(low.instant)} to {when(high.instant)}, {_some(rest)}"
    if not newest:
        return Finding(
            "hole_closed", where, f"{count:,} offsets were not taken before another topic was adopted.", damaged=False
        )
    return Finding(
        "hole",
        where,
        f"{count:,} offsets between two cuts were never taken.",
        "Run `eventlog backfill --pipeline FILE.py:VARIABLE --holes`, or the run whose interval it is.",
    )


def _some(ranges: tuple[OffsetRange, ...]) -> str:
    more = f" and {len(ranges) - _NAMED} more" if len(ranges) > _NAMED else ""
    return ",".join(map(str, ranges[:_NAMED])) + more
