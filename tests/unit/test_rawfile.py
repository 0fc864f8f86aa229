"""The raw file of a slice: a function of its records, and proof against damage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice
from airflow_provider_eventlog.core.protocols import SliceRead

PIECE = Slice("s", 1, OffsetRange(0, 0, 1000))


def records(values: Sequence[bytes | None]) -> pa.Table:
    count = len(values)
    return pa.table(
        {
            "topic": ["t"] * count,
            "partition": [0] * count,
            "offset": list(range(count)),
            "timestamp": [1000 + i for i in range(count)],
            "timestamp_type": [1] * count,
            "key": [None] * count,
            "value": values,
            "headers": [[{"key": "h", "value": None}] if i % 3 == 0 else [] for i in range(count)],
        },
        schema=rawfile.RAW_SCHEMA,
    )


def chunked(table: pa.Table, sizes: list[int]) -> Iterator[pa.RecordBatch]:
    start = 0
    for size in [*sizes, table.num_rows]:
        yield from table.slice(start, size).to_batches()
        start += size


def write(path: Path, table: pa.Table, sizes: list[int], read: SliceRead | None = None) -> rawfile.RawFileInfo:
    found = read or SliceRead((), 0, 7)
    return rawfile.write_slice(path, chunked(table, sizes), PIECE, lambda: found)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=60),
    sizes=st.lists(st.integers(1, 20), max_size=8),
)
def test_chunks_leave_no_trace(tmp_path_factory: pytest.TempPathFactory, values: list[Any], sizes: list[int]) -> None:
    """The same records give the same bytes and digest, however they arrive, and read back as they were."""
    folder, table = tmp_path_factory.mktemp("raw"), records(values)
    one, other = write(folder / "1", table, []), write(folder / "2", table, sizes)
    assert one == other
    assert (folder / "1").read_bytes() == (folder / "2").read_bytes()
    assert rawfile.read_table(folder / "1").equals(table)


def test_row_groups_end_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups end at a number of rows or bytes, and one large record stands alone, whatever the chunks."""
    monkeypatch.setattr(rawfile, "GROUP_ROWS", 10)
    monkeypatch.setattr(rawfile, "GROUP_BYTES", 100)
    table = records([b"x"] * 25 + [b"y" * 60] * 3 + [b"z" * 500] + [b"e"])
    for sizes in ([], [7, 7, 7, 7], [1] * 29):
        groups = [g.num_rows for g in rawfile.regroup(chunked(table, sizes), rawfile.RAW_SCHEMA)]
        assert groups == [10, 10, 6, 1, 1, 1, 1]
        assert sum(groups) == table.num_rows


def test_the_footer_tells_what_reading_established(tmp_path: Path) -> None:
    """A later attempt learns rows, gaps, aborted records and digest from the file alone."""
    read = SliceRead((OffsetRange(0, 5, 7), OffsetRange(0, 9, 12)), 2, 123, losses=(OffsetRange(0, 9, 11),))
    info = write(tmp_path / "f", records([b"a", b"b"]), [], read)
    found = rawfile.read_info(tmp_path / "f")
    assert found == info
    assert (found.piece, found.rows, found.gaps, found.aborted, found.payload_bytes) == (PIECE, 2, read.gaps, 2, 123)
    assert found.losses == read.losses
    assert (found.invisible, found.lost) == (3, 2)


def test_a_slice_without_records_is_a_file(tmp_path: Path) -> None:
    """No records still make a file that says so."""
    assert write(tmp_path / "f", records([]), []).rows == 0
    assert rawfile.read_table(tmp_path / "f").num_rows == 0


def test_no_single_bit_flip_in_the_rows_is_read_back(tmp_path: Path) -> None:
    """Reading the rows with checksums, and comparing the digest, finds every flipped bit that changes them."""
    path = tmp_path / "f"
    table = records([b"%d" % i * 7 for i in range(200)])
    info = write(path, table, [])
    good = path.read_bytes()
    silent = 0
    for position in range(4, len(good) - 4, 7):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            rawfile.verify_rows(path, rawfile.read_info(path).digest)
            silent += not rawfile.read_table(path).equals(table) or rawfile.read_info(path) != info
        except StagingCorruptError:
            continue
    assert silent == 0


def test_a_writer_that_fails_passes_the_failure_on(tmp_path: Path) -> None:
    """An error of the source, or of the disk, reaches the caller from the writing thread."""

    def broken() -> Iterator[pa.RecordBatch]:
        yield records([b"a"]).to_batches()[0]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        rawfile.write_slice(tmp_path / "f", broken(), PIECE, lambda: SliceRead((), 0, 0))
    with pytest.raises(OSError, match="No such file"):
        write(tmp_path / "missing" / "f", records([b"a"]), [])
