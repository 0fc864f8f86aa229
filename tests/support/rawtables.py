"""Raw tables made of given payloads, for tests of what comes after landing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_eventlog.core import arrow, rawfile
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice
from airflow_provider_eventlog.core.protocols import SliceRead
from airflow_provider_eventlog.core.rawfile import HEADERS, RAW_SCHEMA


def raw_table(values: Sequence[bytes | None], *, partition: int = 0, start: int = 0) -> pa.Table:
    """One row a value, with offsets from `start` on, a key `k<offset>`, time 1000 ms + offset and no headers."""
    n = len(values)
    offsets = np.arange(start, start + n, dtype=np.int64)
    columns = [
        arrow.constant("topic", n),
        arrow.fixed(np.full(n, partition, np.int32), pa.int32()),
        arrow.fixed(offsets, pa.int64()),
        arrow.fixed(offsets + 1000, pa.timestamp("ms", "UTC")),
        arrow.fixed(np.zeros(n, np.int8), pa.int8()),
        arrow.binary([f"k{offset}".encode() for offset in offsets]),
        arrow.binary(list(values)),
        arrow.lists(np.zeros(n, np.int64), pa.nulls(0, HEADERS.value_type), HEADERS),
    ]
    return pa.Table.from_arrays(columns, schema=RAW_SCHEMA)


def raw_file(path: Path, values: Sequence[bytes | None]) -> Path:
    """The same rows as a landed slice's file."""
    piece = Slice("topic", 1, OffsetRange(0, 0, len(values)))
    rawfile.write_slice(path, raw_table(values).to_batches(), piece, lambda: SliceRead((), 0, 0))
    return path


def damage(path: Path) -> bytes:
    """Flip one bit in the last page of a Parquet file's first column; returns the bytes as they were."""
    chunk = pq.read_metadata(path).row_group(0).column(0)
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    last = start + chunk.total_compressed_size - 1
    whole = path.read_bytes()
    path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    return whole
