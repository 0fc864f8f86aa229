"""Exact arithmetic over columns: means and variances from integer sums, rounded once.

Sums travel as 128-bit decimals. What fits 64-bit arithmetic is done there; the rest, value by value in arrays of Python
integers, which have no bound. Both give the same results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow

Ints = npt.NDArray[Any]
# Integers up to here are exact as DOUBLE.
_EXACT = 2**53
_WORD = 2**64


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def unscaled(array: pa.Array) -> Ints:
    """The unscaled integers of a decimal128 or integer array, nulls as zero: int64 where all fit, else objects."""
    if not pa.types.is_decimal(array.type):
        return arrow.numbers(array).astype(np.int64)
    words = np.frombuffer(array.buffers()[1], "<u8").reshape(-1, 2)[array.offset : array.offset + len(array)]
    low, high = words[:, 0].copy(), words[:, 1].view(np.int64).copy()
    if array.null_count:
        there = arrow.valid(array)
        low[~there], high[~there] = 0, 0
    if np.array_equal(high, low.view(np.int64) >> 63):
        return low.view(np.int64)
    return np.asarray(high.astype(object) * _WORD + low.astype(object))


def decimals(values: Ints, scale: int, valid: npt.NDArray[np.bool_]) -> pa.Array:
    """A DECIMAL(38, scale) array of unscaled integers."""
    words = np.empty((len(values), 2), np.uint64)
    if values.dtype == object:
        words[:, 0] = (values & (_WORD - 1)).astype(np.uint64)
        words[:, 1] = (values >> 64).astype(np.int64).view(np.uint64)
    else:
        words[:, 0] = values.view(np.uint64)
        words[:, 1] = (values >> 63).view(np.uint64)
    mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.decimal128(38, scale), len(values), [mask, pa.py_buffer(words)])


def floats(values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> pa.Array:
    """A DOUBLE array."""
    return arrow.fixed(values.astype(np.float64, copy=False), pa.float64(), valid)


def mean(total: pa.Array, count: pa.Array) -> pa.Array:
    """The DOUBLE nearest to total / count; NULL where nothing was counted."""
    sums, counts = unscaled(total), unscaled(count)
    there = counts > 0
    return floats(_ratio(sums, np.where(there, counts, 1)), there)


def mean_decimal(total: pa.Array, count: pa.Array, digits: int, scale: int) -> pa.Array:
    """The DECIMAL(38, scale) nearest to total / count, rounded half away from zero; NULL where nothing was counted.

    digits  how many digits after the point the result has more than `total` (negative: fewer)
    """
    sums, counts = unscaled(total), unscaled(count)
    there = counts > 0
    below = np.where(there, counts, 1)
    up, down = 10 ** max(digits, 0), 10 ** max(-digits, 0)
    if not _fits(sums, 2 * up) or not _fits(below, 2 * down):
        sums, below = sums.astype(object), below.astype(object)
    above, below = np.abs(sums) * up, below * down
    size = (2 * above + below) // (2 * below)
    return decimals(np.where(sums < 0, -size, size), scale, there)


def variance(count: pa.Array, total: pa.Array, squares: Ints, scale: int, *, sample: bool, root: bool) -> pa.Array:
    """Variance (or its root) of values with `scale` digits from their exact sum and sum of squares.

    squares  unscaled, as integers. The variance is the DOUBLE nearest to the exact one. NULL below two values for a
    sample, below one for a population.
    """
    counts, sums = unscaled(count).astype(object), unscaled(total).astype(object)
    enough = np.asarray(unscaled(count) > (1 if sample else 0))
    above = counts * squares.astype(object) - sums * sums
    below = counts * (counts - 1 if sample else counts) * 10 ** (2 * scale)
    values = _ratio(np.where(enough, above, 0), np.where(enough, below, 1))
    return floats(np.sqrt(values) if root else values, enough)


def _ratio(above: Ints, below: Ints) -> npt.NDArray[np.float64]:
    """The quotient above / below, correctly rounded; below > 0."""
    if _fits(above, 1, _EXACT) and _fits(below, 1, _EXACT):
        return above.astype(np.float64) / below.astype(np.float64)
    # Python divides integers of any size correctly rounded.
    return np.asarray(above.astype(object) / below.astype(object), dtype=np.float64)


def _fits(values: Ints, factor: int, limit: int = 2**61) -> bool:
    """Whether all values times `factor` stay within the limit, which leaves room to add two of them."""
    return not len(values) or max(abs(int(values.max())), abs(int(values.min()))) * factor <= limit
