"""Any number of attempts that are killed, torn or lose the power: a plain retry at the end makes it good."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case

NOT_KILLED = "nothing was killed"
FAULTS = st.tuples(st.integers(1, 110), st.sampled_from(["before", "after", "torn", "lose"]))


@settings(max_examples=12, deadline=None)
@given(faults=st.lists(FAULTS, min_size=1, max_size=5))
def test_deterministic_after_any_sequence_of_kills(
    bench: Bench, calm: dict[str, Any], faults: list[tuple[int, str]]
) -> None:
    """However often the work was cut off, and wherever, what stands in the end is the undisturbed run's world."""

    def one(case: Case) -> str | None:
        killed = [case.killed(at=at, mode=mode, look=False) for at, mode in faults]
        return difference(case.attempt(), calm) if any(killed) else NOT_KILLED

    found = bench.case(one)
    # Not every effect can be torn or has a moment behind it: such an example shows nothing and is drawn anew.
    assume(found != NOT_KILLED)
    assert found is None
