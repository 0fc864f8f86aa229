"""Arrow arrays by way of their buffers: equal to what Arrow itself makes, slices and nulls included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_eventlog.core import arrow

BYTES = st.lists(st.none() | st.binary(max_size=4), max_size=30)


@given(BYTES)
def test_binary_is_what_arrow_makes(values: list[bytes | None]) -> None:
    """Values, nulls and empty values come out as they went in, in an array that validates."""
    made = arrow.binary(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.binary()))


@given(BYTES, st.integers(0, 5), st.integers(0, 30))
def test_lengths_and_validity_see_through_slices(values: list[bytes | None], start: int, count: int) -> None:
    """On any slice, lengths (0 for null) and validity are those of its values."""
    part = pa.array(values, pa.binary()).slice(start, count)
    rows = values[start : start + count]
    assert arrow.lengths_of(part).tolist() == [len(v or b"") for v in rows]
    assert arrow.valid(part).tolist() == [v is not None for v in rows]


@given(st.lists(st.none() | st.booleans(), max_size=30), st.integers(0, 12))
def test_booleans_see_through_slices(values: list[bool | None], start: int) -> None:
    """Bits are found at any offset; null reads as False."""
    assert arrow.booleans(pa.array(values, pa.bool_()).slice(start)).tolist() == [bool(v) for v in values[start:]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), [1, None, -3]),
        (pa.uint16(), [1, None, 65535]),
        (pa.float64(), [0.5, None, -1.0]),
        (pa.timestamp("ms", "UTC"), [5, None, 7]),
    ],
)
def test_numbers_are_values_with_nulls_as_zero(kind: pa.DataType, values: list[Any]) -> None:
    """Any fixed-width type reads as NumPy; what stands behind a null does not show."""
    array = pa.array(values, kind)
    assert arrow.numbers(array).tolist() == [v or 0 for v in values]
    assert arrow.numbers(array.slice(1)).tolist() == [v or 0 for v in values[1:]]


def test_fixed_lists_and_constants() -> None:
    """Masked fixed-width values, lists over items, and repeated text equal Arrow's own."""
    masked = arrow.fixed(np.array([1, 2, 3]), pa.timestamp("ms", "UTC"), np.array([True, False, True]))
    assert masked.equals(pa.array([1, None, 3], pa.timestamp("ms", "UTC")))
    kind = pa.list_(pa.string())
    lists = arrow.lists(np.array([2, 0, 1]), arrow.strings(["a", "ä", ""]), kind)
    assert lists.equals(pa.array([["a", "ä"], [], [""]], kind))
    assert arrow.constant("tö", 3).equals(pa.array(["tö"] * 3))
    for array in (masked, lists, arrow.constant("t", 0)):
        array.validate(full=True)


def test_more_than_an_array_holds_is_refused() -> None:
    """Above 32-bit offsets there is an error and no silent wrap-around."""
    with pytest.raises(ValueError, match="do not fit"):
        arrow.lists(np.full(3, 2**30, np.int64), pa.nulls(0), pa.list_(pa.null()))
    assert pc.sum(arrow.fixed(np.arange(4), pa.int64())).as_py() == 6
