"""Coverage against a model: sets of offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, subtract
from tests.contract.ledgers import IDENTITY

_streams = count()
_ranges = st.builds(
    lambda partition, start, length: OffsetRange(partition, start, start + length),
    st.integers(0, 1),
    st.integers(0, 30),
    st.integers(1, 10),
)


@pytest.fixture(scope="module")
def shared(new_address: Callable[[], str]) -> Iterator[SqlLedger]:
    """One ledger for all examples; each takes a stream of its own."""
    ledger = open_ledger(new_address())
    yield ledger
    ledger.close()


def _offsets(ranges: tuple[OffsetRange, ...]) -> set[tuple[int, int]]:
    return {(r.partition, offset) for r in ranges for offset in range(r.start, r.end)}


@settings(deadline=None, max_examples=60)
@given(wanted=st.lists(_ranges, max_size=12))
def test_coverage_is_the_union_of_what_was_planned(shared: SqlLedger, wanted: list[OffsetRange]) -> None:
    """A range is taken if and only if it meets none before it; the rest of one that does is always free."""
    stream, model = f"s{next(_streams)}", set[tuple[int, int]]()
    with shared.planning(stream, "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        for i, r in enumerate(wanted):
            fresh = _offsets((r,))
            blind = BatchPlan(f"{stream}/{i}/blind", stream, 1, "off_chain", None, None, (r,), (r,))
            if fresh & model:
                with pytest.raises(AccountingError):
                    tx.add_batch(blind)
                rest = subtract([r], tx.coverage(1, [r.partition]))
                tx.add_batch(BatchPlan(f"{stream}/{i}/rest", stream, 1, "off_chain", None, None, rest, rest))
            else:
                tx.add_batch(blind)
            model |= fresh
            assert _offsets(tx.coverage(1)) == model
    covered = shared.coverage(stream, 1)
    assert _offsets(covered) == model
    assert list(covered) == sorted(covered)
    assert all(a.partition != b.partition or a.end < b.start for a, b in pairwise(covered))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), starts=st.sets(st.integers(0, 2**63 - 2), min_size=1, max_size=6))
def test_plans_and_their_text_forms_round_trip(shared: SqlLedger, data: st.DataObject, starts: set[int]) -> None:
    """Any disjoint ranges up to the greatest offset come back as they were, from plan, coverage and text form."""
    stream = f"s{next(_streams)}"
    partition = data.draw(st.integers(0, 2**31 - 1))
    ranges = tuple(OffsetRange(partition, start, start + 1) for start in sorted(starts))
    order = tuple(data.draw(st.permutations(ranges)))
    plan = BatchPlan(f"{stream}/b", stream, 1, "off_chain", None, None, order, ranges)
    with shared.planning(stream, "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_batch(plan)
    assert shared.batch(plan.batch_id)[0] == plan
    covered = shared.coverage(stream, 1)
    assert subtract(ranges, covered) == subtract(covered, ranges) == ()
    assert tuple(OffsetRange.parse(str(r)) for r in shared.batch(plan.batch_id)[0].slices) == ranges
