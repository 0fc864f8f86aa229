"""The logical digest: what rows say, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core.digest import batches_digest, table_digest

TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int8(), st.integers(-128, 127)),
    "bool": (pa.bool_(), st.booleans()),
    "float": (pa.float64(), st.floats(allow_nan=False)),
    "text": (pa.string(), st.text(max_size=5)),
    "bytes": (pa.binary(), st.binary(max_size=5)),
    "decimal": (pa.decimal128(12, 2), st.decimals(-1000, 1000, places=2)),
    "time": (pa.timestamp("us", "UTC"), st.integers(0, 2**50)),
    "list": (pa.list_(pa.int32()), st.lists(st.integers(0, 5), max_size=3)),
    "struct": (pa.struct([("a", pa.int32())]), st.fixed_dictionaries({"a": st.one_of(st.none(), st.integers(0, 9))})),
}


@pytest.mark.parametrize("name", sorted(TYPES))
def test_chunks_and_slices_leave_no_trace(name: str) -> None:
    """Equal rows have equal digests, however they are chunked or sliced; different rows have different ones."""
    kind, strategy = TYPES[name]

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.one_of(st.none(), strategy), max_size=12), st.integers(0, 12), st.data())
    def check(values: list[Any], cut: int, data: st.DataObject) -> None:
        table = pa.table({"c": pa.array(values, kind)})
        whole = table_digest(table)
        pieces = [*table.slice(0, cut).to_batches(), *table.slice(cut).to_batches()]
        assert batches_digest(table.schema, pieces) == whole
        padded = pa.concat_tables([table.slice(0, min(1, len(values))), table]).slice(min(1, len(values)))
        assert table_digest(padded.combine_chunks()) == whole
        if values:
            index = data.draw(st.integers(0, len(values) - 1))
            other = list(values)
            other[index] = data.draw(st.one_of(st.none(), strategy))
            changed = pa.table({"c": pa.array(other, kind)})
            assert (table_digest(changed) == whole) == changed.equals(table)

    check()


def test_what_stands_behind_a_null_does_not_matter() -> None:
    """Two nulls are equal, whatever bytes lie below them."""
    found = set()
    for garbage in (0.0, -5.0, float("nan"), 7.0):
        values = np.array([1.0, garbage, 3.0])
        array = pa.Array.from_buffers(pa.float64(), 3, [pa.py_buffer(bytes([0b101])), pa.py_buffer(values)])
        found.add(table_digest(pa.table({"a": array})))
    assert len(found) == 1


def test_the_schema_is_part_of_it() -> None:
    """The same values under another name or type are another content."""
    values = [1, 2]
    tables = [
        pa.table({"a": pa.array(values, pa.int64())}),
        pa.table({"b": pa.array(values, pa.int64())}),
        pa.table({"a": pa.array(values, pa.int32())}),
    ]
    assert len({table_digest(t) for t in tables}) == 3


def test_null_empty_and_boundaries_differ() -> None:
    """Null is not empty, and bytes cannot wander from one value to the next."""
    contents: list[list[bytes | None]] = [[None, b"ab"], [b"", b"ab"], [b"a", b"b"], [b"ab", b""], [b"ab", None]]
    assert len({table_digest(pa.table({"a": pa.array(c, pa.binary())})) for c in contents}) == len(contents)


@pytest.mark.parametrize("item", ["element", "l", "child"])
def test_a_file_reads_back_as_it_was_written(item: str, tmp_path: Path) -> None:
    """Lists keep their digest through Parquet, which has a name of its own for their items."""
    inner = pa.struct([pa.field("tags", pa.list_(pa.field(item, pa.string())))])
    rows = [[{"tags": ["a", None]}], [], None]
    table = pa.table({"c": pa.array(rows, pa.list_(pa.field(item, inner)))})
    pq.write_table(table, tmp_path / "x.parquet")
    assert table_digest(pq.read_table(tmp_path / "x.parquet")) == table_digest(table)
    same = pa.table({"c": pa.array(rows, pa.list_(pa.struct([pa.field("tags", pa.list_(pa.string()))])))})
    assert table_digest(same) == table_digest(table)
    assert table_digest(pa.table({"c": pa.array([[]], pa.list_(pa.int8()))})) != table_digest(
        pa.table({"c": pa.array([[]], pa.large_list(pa.int8()))})
    )
