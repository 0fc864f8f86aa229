"""The logical digest across encodings, nested types and releases."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_eventlog.core.digest import Digest, batches_digest, table_digest

NESTED: dict[str, tuple[pa.DataType, list[Any]]] = {
    "map": (pa.map_(pa.string(), pa.int8()), [[("a", 1), ("b", None)], None, [], [("a", 2)]]),
    "pairs": (pa.list_(pa.int8(), 2), [[1, 2], None, [3, None], [3, 4]]),
    "lists": (pa.list_(pa.list_(pa.string())), [[["a"], []], None, [], [None, ["b", None]]]),
    "large": (pa.large_list(pa.large_string()), [["a", ""], None, [], ["ab"]]),
    "struct": (pa.struct([("a", pa.list_(pa.bool_()))]), [{"a": [True]}, None, {"a": None}, {"a": []}]),
    "null": (pa.null(), [None, None, None, None]),
}


@pytest.mark.parametrize("name", sorted(NESTED))
def test_nested_values_are_told_apart_and_chunks_are_not(name: str) -> None:
    """Null, empty and filled nested values differ wherever they stand; one row at a time gives the same digest."""
    kind, rows = NESTED[name]
    table = pa.table({"c": pa.array(rows, kind)})
    assert batches_digest(table.schema, table.to_batches(max_chunksize=1)) == table_digest(table)
    assert table_digest(pa.concat_tables([table.slice(0, 3), table.slice(3)])) == table_digest(table)
    singles = [table_digest(table.slice(i, 1)) for i in range(len(rows))]
    assert len(set(singles)) == (1 if name == "null" else len(rows))


def test_an_encoding_does_not_matter() -> None:
    """A dictionary or a run-length encoding is the same column; another width of text is another one."""
    plain = pa.array(["x", None, "x", "y"])
    digest = table_digest(pa.table({"c": plain}))
    assert table_digest(pa.table({"c": plain.dictionary_encode()})) == digest
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([3, 4], pa.int32()), pa.array(["x", "y"]))
    assert table_digest(pa.table({"c": runs})) == table_digest(pa.table({"c": ["x", "x", "x", "y"]}))
    assert table_digest(pa.table({"c": plain.cast(pa.large_string())})) != digest


def test_a_batch_with_other_columns_is_refused() -> None:
    """Rows of another shape cannot slip into a digest."""
    with pytest.raises(ValueError, match="cannot join"):
        Digest(pa.schema([("a", pa.int8())])).update(pa.record_batch({"b": pa.array([1], pa.int8())}))


def test_the_digest_is_pinned() -> None:
    """Version 1 stays what it is: later releases must find recorded digests again."""
    rows = pa.table({"n": pa.array([1, None], pa.int64()), "b": pa.array([b"", b"x"], pa.binary())})
    assert table_digest(rows) == "2caf9c9ca79ad66d176234677923b07373a4f886bc6a328c5d2d9ad5194e6a29"
