"""What every database must be kept from doing its own way: sorting by its language, spoiling a plan by one refusal."""

from __future__ import annotations

import pytest

from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import Ledger
from tests.contract.ledgers import IDENTITY, cut, off_chain, plan_one, segment


def test_names_sort_by_code_point(ledger: Ledger) -> None:
    """The order of names is the same in every database, whatever language it sorts text by."""
    names = ["B", "Z-1", "Z.0", "_", "a", "a0", "b", "é"]
    for name in reversed(names):
        ledger.register_pipeline(name, "s", "r", "{}")
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for name in reversed(names):
            tx.add_batch(off_chain(name))
    assert [p[0] for p in ledger.pipelines()] == names
    assert [b.batch_id for b, _ in ledger.batches("s")] == names


def test_a_refusal_inside_a_plan_spoils_nothing(ledger: Ledger) -> None:
    """A plan may go on after the ledger has refused a step of it; the steps before and after it are kept."""
    plan_one(ledger)
    with ledger.planning("s", "{}") as tx:
        tx.add_cut(1, cut(300, {0: 30}))
        with pytest.raises(AccountingError):
            tx.add_batch(segment("twice", 100, 300, "0:20-30"))
        with pytest.raises(AccountingError):
            tx.allocate("p", "nowhere", "r1", "inputs")
        tx.add_batch(segment("b2", 200, 300, "0:10-30"))
    assert [b.batch_id for b, _ in ledger.batches("s")] == ["b1", "b2"]
    assert ledger.coverage("s", 1) == (OffsetRange(0, 0, 30),)
