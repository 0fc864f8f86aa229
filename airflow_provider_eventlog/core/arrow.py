"""Between NumPy, Python and Arrow by way of buffers.

`pa.array`, `pa.scalar`, `Array.to_numpy` and every compute function that is given a Python scalar import pandas in
passing, which costs a process more than landing a small batch does. These do the same without it. Work on buffers
also makes no difference between chunks, slices and what stands behind nulls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# None is rare enough to be told by what len says of it.
_length: Callable[[Any], int] = len
# Where the 32-bit offsets of Arrow's binary type end.
_BINARY_LIMIT = 2**31 - 1


def fixed(values: npt.NDArray[Any], kind: pa.DataType, valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """An Arrow array of a fixed-width type over the memory of `values`, which must have that width."""
    mask = None if valid is None or valid.all() else _bits(valid)
    return pa.Array.from_buffers(kind, len(values), [mask, pa.py_buffer(np.ascontiguousarray(values))])


def flags(values: npt.NDArray[np.bool_]) -> pa.Array:
    """A boolean array without nulls."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def binary(values: Sequence[bytes | None]) -> pa.Array:
    """A binary array; None is null. Raises ValueError above 2 GiB."""
    valid = None
    try:
        lengths = np.fromiter(map(_length, values), np.int64, len(values))
    except TypeError:
        # A topic without keys is common, and this way its keys cost next to nothing.
        if not any(values) and values.count(None) == len(values):
            return pa.nulls(len(values), pa.binary())
        valid = np.fromiter((v is not None for v in values), np.bool_, len(values))
        values = [v or b"" for v in values]
        lengths = np.fromiter(map(_length, values), np.int64, len(values))
    buffers = [None if valid is None else _bits(valid), _offsets(lengths), pa.py_buffer(b"".join(values))]  # type: ignore[arg-type]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def strings(values: Sequence[str]) -> pa.Array:
    """A text array without nulls."""
    return binary([v.encode("utf-8", "surrogatepass") for v in values]).view(pa.string())


def constant(value: str, count: int) -> pa.Array:
    """A text array that repeats one value."""
    data = value.encode()
    lengths = np.full(count, len(data), np.int64)
    return pa.Array.from_buffers(pa.string(), count, [None, _offsets(lengths), pa.py_buffer(data * count)])


def lists(lengths: npt.NDArray[np.int64], items: pa.Array, kind: pa.DataType) -> pa.Array:
    """A list array without nulls over `items`, which are the lists' elements one after another."""
    return pa.Array.from_buffers(kind, len(lengths), [None, _offsets(lengths)], children=[items])


def valid(array: pa.Array) -> npt.NDArray[np.bool_]:
    """True where the array is not null."""
    mask = array.buffers()[0] if array.type.num_buffers else None
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    if mask is None:  # null type
        return np.zeros(len(array), np.bool_)
    return _unpacked(mask, array.offset, len(array))


def numbers(array: pa.Array) -> npt.NDArray[Any]:
    """The values of an array of integers, floats or temporal values, nulls as zero; temporal ones as integers."""
    width = array.type.bit_width // 8
    letter = "f" if pa.types.is_floating(array.type) else "u" if pa.types.is_unsigned_integer(array.type) else "i"
    values = np.frombuffer(array.buffers()[1], np.dtype(f"<{letter}{width}"))[array.offset : array.offset + len(array)]
    # Not by multiplying: what stands behind a null may be NaN.
    return np.where(valid(array), values, 0) if array.null_count else values


def joined(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The values of all chunks of a column as `numbers` has them; without chunks 64-bit integers, none of them."""
    chunks = [numbers(chunk) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty(0, np.int64)


def booleans(array: pa.Array) -> npt.NDArray[np.bool_]:
    """The values of a boolean array, nulls as False."""
    values = _unpacked(array.buffers()[1], array.offset, len(array))
    return values & valid(array) if array.null_count else values


def lengths_of(array: pa.Array) -> npt.NDArray[np.int64]:
    """How many bytes or elements each value of a variable-width or list array has; 0 for null."""
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        return np.where(valid(array), kind.list_size, 0)
    wide = pa.types.is_large_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_large_list(kind)
    if not len(array):
        return np.zeros(0, np.int64)
    bounds = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
    lengths = np.diff(bounds[array.offset : array.offset + len(array) + 1]).astype(np.int64, copy=False)
    return lengths * valid(array) if array.null_count else lengths


def empty_table(schema: pa.Schema) -> pa.Table:
    """A table of the schema without rows."""
    return pa.Table.from_batches([], schema)


def _offsets(lengths: npt.NDArray[np.int64]) -> pa.Buffer:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] > _BINARY_LIMIT:
        raise ValueError(f"{offsets[-1]} bytes or elements do not fit one Arrow array of {len(lengths)} values.")
    return pa.py_buffer(offsets.astype(np.int32))


def _bits(valid: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _unpacked(buffer: pa.Buffer, offset: int, count: int) -> npt.NDArray[np.bool_]:
    first, last = offset // 8, (offset + count + 7) // 8
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8)[first:last], bitorder="little")
    return bits[offset - first * 8 : offset - first * 8 + count].view(np.bool_)
