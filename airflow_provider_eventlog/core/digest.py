"""The logical digest of an ordered table: what its rows say, however they are chunked, encoded or written.

Version 1. Every column is taken apart into leaves, and every leaf has running SHA-256 sums of its own: one byte a row
for validity, eight little-endian bytes a row for the length of a variable-width value or list, and the value bytes
themselves (fixed-width values as Arrow lays them out, nulls as zeros; nothing for a null of variable width). A sum
over the parts of a leaf is the sum over the whole, so neither the chunks in which rows arrive nor what stands behind
nulls can matter, and nothing is kept back in memory. The digest is the SHA-256 of version, schema, number of rows
and the leaves' sums in schema order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_eventlog.core import arrow

_VERSION = b"eventlog-digest-1\n"


class Digest:
    """An incremental digest over rows of one schema."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows = 0
        self._leaves = [_Leaf(_plain(field.type)) for field in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Add rows, in order; the batch must have the digest's columns."""
        if batch.schema.names != self._schema.names:
            raise ValueError(f"A batch with columns {batch.schema.names} cannot join {self._schema.names}.")
        self._rows += batch.num_rows
        for leaf, column in zip(self._leaves, batch.columns, strict=True):
            leaf.add(column)

    def hexdigest(self) -> str:
        """The digest of all rows so far; more may be added afterwards."""
        whole = sha256(_VERSION)
        for field in self._schema:
            name = field.name.encode("utf-8", "surrogatepass")
            whole.update(len(name).to_bytes(8, "little") + name + f"{_named(_plain(field.type))}\n".encode())
        whole.update(self._rows.to_bytes(8, "little"))
        for leaf in self._leaves:
            for part in leaf.digests():
                whole.update(part)
        return whole.hexdigest()


def table_digest(table: pa.Table) -> str:
    """Digest of a whole table."""
    return batches_digest(table.schema, table.to_batches())


def batches_digest(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """Digest of batches in order."""
    digest = Digest(schema)
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


class _Leaf:
    """Running sums over one column, and over the columns inside it."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._valid, self._lengths, self._values = sha256(), sha256(), sha256()
        self._inner = [_Leaf(_plain(inner)) for inner in _children(kind)]

    def add(self, array: pa.Array) -> None:
        array, kind = _decoded(array), self._kind
        valid: Any = arrow.valid(array).view(np.uint8)
        self._valid.update(valid)
        if pa.types.is_null(kind) or not len(array):
            return
        if pa.types.is_struct(kind):
            # Flattening lets a null struct's nulls show in its fields, whatever stands below them.
            for leaf, child in zip(self._inner, array.flatten(), strict=True):
                leaf.add(child)
        elif self._inner:
            self._lengths.update(_little(arrow.lengths_of(array)))
            self._inner[0].add(array.flatten())
        elif _variable(kind):
            self._lengths.update(_little(arrow.lengths_of(array)))
            self._values.update(_bytes(array))
        elif pa.types.is_boolean(kind):
            self._values.update(arrow.booleans(array).tobytes())
        else:
            self._values.update(_fixed(array, valid))

    def digests(self) -> Iterator[bytes]:
        for part in (self._valid, self._lengths, self._values):
            yield part.digest()
        for leaf in self._inner:
            yield from leaf.digests()


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type behind an encoding, an extension or a map, which is a list of its entries."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), kind.item_field]))
    return kind


def _named(kind: pa.DataType) -> pa.DataType:
    """The type with the items of lists under one name: engines and file formats have their own for them."""
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _named(f.type), f.nullable) for f in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = pa.field("item", _named(kind.value_type), kind.value_field.nullable)
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if pa.types.is_large_list(kind) else pa.list_(item)
    return kind


def _decoded(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _decoded(array.storage)
    if pa.types.is_dictionary(kind):
        return _decoded(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _decoded(pc.run_end_decode(array))
    return array.cast(_plain(kind)) if pa.types.is_map(kind) else array


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_struct(kind):
        return [kind.field(index).type for index in range(kind.num_fields)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [kind.value_type]
    return []


def _variable(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_large_string(kind)
    )


def _fixed(array: pa.Array, valid: Any) -> Any:
    width = array.type.bit_width // 8
    start = array.offset * width
    values = np.frombuffer(array.buffers()[1], np.uint8)[start : start + len(array) * width]
    if array.null_count:
        values = (values.reshape(len(array), width) * valid[:, None]).reshape(-1)
    return values


def _little(lengths: Any) -> Any:
    return np.ascontiguousarray(lengths, "<i8")


def _bytes(array: pa.Array) -> memoryview | bytes:
    """The value bytes of a variable-width array in row order, those behind nulls left out."""
    if array.null_count:
        array = array.drop_null()
    if not len(array):
        return b""
    wide = pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type)
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[bounds[0] : bounds[-1]] if data is not None else b""
