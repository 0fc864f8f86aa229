"""Offset ranges: their text forms and their arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.offsets import (
    MAX_OFFSET,
    OffsetRange,
    TopicIdentity,
    format_ranges,
    parse_ranges,
    subtract,
)

bounds = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)
ranges = st.builds(lambda p, b: OffsetRange(p, b[0], b[1]), st.integers(0, 2), bounds)


def offsets(items: object) -> set[tuple[int, int]]:
    return {(r.partition, o) for r in items for o in range(r.start, r.end)}  # type: ignore[attr-defined]


@given(st.integers(0, 10**9), st.integers(0, MAX_OFFSET), st.integers(0, MAX_OFFSET))
def test_a_range_reads_back_from_its_text(partition: int, one: int, other: int) -> None:
    """Text form and value are one-to-one."""
    value = OffsetRange(partition, min(one, other), max(one, other))
    assert OffsetRange.parse(str(value)) == value


@given(st.lists(ranges, max_size=8), st.lists(ranges, max_size=8))
def test_subtract_is_set_difference(wanted: list[OffsetRange], covered: list[OffsetRange]) -> None:
    """What is left is exactly the wanted offsets that are not covered."""
    rest = subtract(wanted, covered)
    assert offsets(rest) == offsets(wanted) - offsets(covered)
    assert all(len(r) for r in rest)


def test_ranges_are_sorted_and_read_back() -> None:
    """A list of ranges is normalised to partition and offset order."""
    assert format_ranges(parse_ranges(" 3:0-5 , 0:7-9,0:1-2")) == "0:1-2,0:7-9,3:0-5"


def test_people_see_inclusive_ranges() -> None:
    """Messages name the first and the last offset, not the end."""
    assert OffsetRange(1, 100, 200).people == "partition 1, offsets 100 to 199"
    assert OffsetRange(1, 5, 5).people == "partition 1, no offsets at 5"


@pytest.mark.parametrize(
    "text",
    [
        "0:5",
        "0:5-",
        "a:1-2",
        "0:-1-2",
        "0:1-2;1:2-3",
        "0:2-1",
        "0:1-99999999999999999999",
        "٣:1-2",
        "0:1-9223372036854775808",
    ],
)
def test_malformed_ranges_are_refused(text: str) -> None:
    """Anything but partition:start-end within 63 bits is a RequestError."""
    with pytest.raises(RequestError):
        parse_ranges(text)


def test_a_topic_without_id_is_weak() -> None:
    """A broker without topic ids gives an identity that says that it is weak."""
    assert TopicIdentity("c", "t", None).weak
    assert not TopicIdentity("c", "t", "x").weak
    assert "unknown" in str(TopicIdentity("c", "t", None))
