"""Folds in the ledger: numbered without gaps, each recorded once, whoever comes first."""

from __future__ import annotations

import dataclasses

import pytest

from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, Ledger, StagedFile
from tests.contract.ledgers import IDENTITY, cut, segment

LOG = FoldLog("p", "w", 1, 1, 100, "r1", "first load")


def fold(n: int, batch_id: str | None, digest: str = "d") -> FoldRecord:
    """Fold n, by default of a batch, with one file."""
    inputs = () if batch_id is None else ((batch_id, 1, digest),)
    files = {"state": (StagedFile(f"s/{n}-{digest}", 10 * n, "a" * 64), digest)}
    return FoldRecord("p", "w", 1, n, "batch", batch_id, inputs, files, 1000 * n, {"rows": n})


@pytest.fixture
def begun(ledger: Ledger) -> Ledger:
    """Two chain batches and an open log."""
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for instant, end in ((100, 0), (200, 10), (300, 20)):
            tx.add_cut(1, cut(instant, {0: end}))
        tx.add_batch(segment("b1", 100, 200, "0:0-10"))
        tx.add_batch(segment("b2", 200, 300, "0:10-20"))
    assert ledger.open_fold_log(LOG) == LOG
    return ledger


def test_a_log_is_opened_once(begun: Ledger) -> None:
    """The first one that is opened under a number stands; another output has logs of its own."""
    assert begun.open_fold_log(dataclasses.replace(LOG, origin=200, cause="again")) == LOG
    assert begun.fold_logs("p", "w") == (LOG,)
    assert begun.fold_logs("p", "other") == ()


def test_folds_are_recorded_in_order_and_once(begun: Ledger) -> None:
    """What is recorded is read back; who comes second is given what stands."""
    first, second = fold(1, "b1"), fold(2, "b2")
    assert begun.last_fold("p", "w", 1) is None
    assert begun.record_fold(first) == first
    assert begun.record_fold(second) == second
    assert begun.record_fold(fold(1, "b1", "other")) == first
    assert begun.folds("p", "w", 1) == (first, second)
    assert begun.folds("p", "w", 1, after=1) == (second,)
    assert begun.last_fold("p", "w", 1) == second


def test_a_gap_and_a_batch_that_was_taken_are_refused(begun: Ledger) -> None:
    """No number is left out, no batch moves the frontier twice, no fold goes into a log that is not open."""
    begun.record_fold(fold(1, "b1"))
    for wrong in (fold(3, "b2"), fold(0, "b2"), fold(2, "b1")):
        with pytest.raises(AccountingError):
            begun.record_fold(wrong)
    with pytest.raises(KeyError):
        begun.record_fold(dataclasses.replace(fold(1, "b2"), log=2))
    assert begun.folds("p", "w", 1) == (fold(1, "b1"),)
    # Folds that move nothing may be many.
    assert begun.record_fold(fold(2, None)) == fold(2, None)
    assert begun.record_fold(fold(3, None)) == fold(3, None)
