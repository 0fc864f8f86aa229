"""The raw file of a slice: the records as Kafka holds them, and in its footer what reading them established.

A file is a function of its records alone: row groups end at a number of rows or bytes, never where a fetch ended;
nothing in it depends on clock, host or attempt. The footer's record lets a later attempt adopt a published file
without reading Kafka again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.digest import Digest
from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice, TopicIdentity
from airflow_provider_eventlog.core.protocols import SliceRead
from airflow_provider_eventlog.core.staging import records

FORMAT = 1
HEADERS = pa.list_(pa.field("item", pa.struct([("key", pa.string()), ("value", pa.binary())])))
RAW_SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC")),
        pa.field("timestamp_type", pa.int8(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS, nullable=False),
    ]
)
# A row group is held in memory by writer and readers; 2**31 bytes is where 32-bit offsets end.
GROUP_ROWS = 131_072
GROUP_BYTES = 16 << 20
_KEY = b"eventlog"
# zstd at level 1 writes 25 % cheaper than at 3, for no bigger a file.
WRITING: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "write_page_checksum": True,
    "data_page_version": "1.0",
    "version": "2.6",
}


@dataclass(frozen=True, slots=True)
class RawFileInfo:
    """What a raw file's footer says of it."""

    piece: Slice
    rows: int
    digest: str
    aborted: int
    gaps: tuple[OffsetRange, ...]
    payload_bytes: int
    losses: tuple[OffsetRange, ...] = ()
    topic: TopicIdentity | None = None

    @property
    def lost(self) -> int:
        """Offsets of which nobody can tell what stood there."""
        return sum(map(len, self.losses))

    @property
    def invisible(self) -> int:
        """Offsets that are proved to hold no committed record."""
        return sum(map(len, self.gaps)) - self.lost


def write_slice(
    path: Path,
    batches: Iterable[pa.RecordBatch],
    piece: Slice,
    finished: Callable[[], SliceRead],
    topic: TopicIdentity | None = None,
) -> RawFileInfo:
    """Write the records of one slice; `finished` is asked after the last batch, `topic` says where they come from.

    Raises OSError and what `batches` raises; the file is then incomplete and must not be published.
    """
    digest = Digest(RAW_SCHEMA)
    rows = 0
    # Hashing and compressing hold no lock of the interpreter: a thread does them while the next group is read. One
    # group at most waits, so that memory stays bounded by two of them.
    with pq.ParquetWriter(path, RAW_SCHEMA, **_writing()) as writer, ThreadPoolExecutor(1) as thread:
        under_way: Future[None] | None = None
        for group in regroup(batches, RAW_SCHEMA):
            rows += group.num_rows
            if under_way is not None:
                under_way.result()
            under_way = thread.submit(_put, writer, digest, group)
            del group
        if under_way is not None:
            under_way.result()
        read = finished()
        info = RawFileInfo(piece, rows, digest.hexdigest(), read.aborted, read.gaps, read.bytes, read.losses, topic)
        writer.add_key_value_metadata({_KEY.decode(): _to_text(info)})
    return info


def _put(writer: pq.ParquetWriter, digest: Digest, group: pa.Table) -> None:
    for batch in group.to_batches():
        digest.update(batch)
    writer.write_table(group, row_group_size=group.num_rows)


def _writing() -> dict[str, Any]:
    # Dictionaries would be tried and given up on payloads, column by column; these three are constants.
    return {
        **WRITING,
        "use_dictionary": ["topic", "partition", "timestamp_type"],
        "write_statistics": ["offset", "timestamp"],
    }


def regroup(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Row groups by rows and bytes alone: a group ends before the row that would take it past either bound.

    A row that is larger than the bound stands alone. However the rows arrive chunked, the groups are the same.
    """
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        sizes = _row_bytes(batch)
        while start < batch.num_rows:
            room = min(GROUP_ROWS - rows, batch.num_rows - start)
            ends = sizes[start + 1 : start + room + 1] - sizes[start]
            take = int(np.searchsorted(ends, GROUP_BYTES - size, side="right"))
            if take == 0 and rows == 0:
                take = 1
            if take:
                waiting.append(batch.slice(start, take))
                size += int(ends[take - 1])
                rows += take
                start += take
            if rows and (rows == GROUP_ROWS or start < batch.num_rows):
                yield _joined(waiting, schema)
                rows = size = 0
    if rows:
        yield _joined(waiting, schema)


def _joined(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """One chunk a column: the writer ends pages within chunks only, so that chunks would show in the bytes."""
    table = pa.Table.from_batches(batches, schema).combine_chunks()
    # The parts must not stay in memory beside their sum.
    batches.clear()
    return table


def _row_bytes(batch: pa.RecordBatch) -> Any:
    """Running sum of the variable-width bytes of key, value and headers, one longer than the batch."""
    total = np.zeros(batch.num_rows + 1, np.int64)
    for name in ("key", "value"):
        if name in batch.schema.names:
            total[1:] += arrow.lengths_of(batch.column(name))
    if "headers" in batch.schema.names:
        headers = batch.column("headers")
        pairs = headers.flatten()
        if len(pairs):
            # Eight bytes a header stand for what its place in the lists takes.
            names, values = map(arrow.lengths_of, pairs.flatten())
            running = np.concatenate(([0], np.cumsum(names + values + 8)))
            ends = np.cumsum(arrow.lengths_of(headers))
            total[1:] += np.diff(running[ends], prepend=0)
    return np.cumsum(total)


def _to_text(info: RawFileInfo) -> str:
    return sealed(
        {
            "stream": info.piece.stream,
            "epoch": info.piece.epoch,
            "range": str(info.piece.range),
            "rows": info.rows,
            "digest": info.digest,
            "aborted": info.aborted,
            "gaps": [[g.start, g.end] for g in info.gaps],
            "losses": [[g.start, g.end] for g in info.losses],
            "payload_bytes": info.payload_bytes,
            "topic": None if info.topic is None else info.topic.to_json(),
        },
        FORMAT,
    )


def sealed(record: dict[str, Any], number: int) -> str:
    """A footer record with its own hash: page checksums do not reach the footer."""
    return records.dump(record, number).decode()


def read_info(path: Path) -> RawFileInfo:
    """What the footer says; raises StagingCorruptError, ManifestVersionError."""
    value = footer(path, _KEY, FORMAT)
    piece = Slice(value["stream"], value["epoch"], OffsetRange.parse(value["range"]))
    return RawFileInfo(
        piece=piece,
        rows=value["rows"],
        digest=value["digest"],
        aborted=value["aborted"],
        gaps=tuple(OffsetRange(piece.partition, start, end) for start, end in value["gaps"]),
        payload_bytes=value["payload_bytes"],
        losses=tuple(OffsetRange(piece.partition, start, end) for start, end in value["losses"]),
        topic=None if value["topic"] is None else TopicIdentity(**value["topic"]),
    )


def footer(path: Path, key: bytes, newest: int) -> dict[str, Any]:
    """The record that this package keeps under `key` in a Parquet footer; its own hash is checked."""
    with reading(path):
        data = (pq.read_metadata(path).metadata or {})[key]
    return records.load(str(path), data, newest)


def verify_rows(path: Path, expected: str) -> None:
    """Read every row and compare the logical digest; raises StagingCorruptError.

    For a file that an earlier attempt published and nobody has recorded: its bytes are not known to be whole.
    """
    digest = Digest(RAW_SCHEMA)
    with reading(path):
        same = pq.read_schema(path).remove_metadata().equals(RAW_SCHEMA)
        for batch in iter_batches(path):
            digest.update(batch)
    if not same or digest.hexdigest() != expected:
        raise StagingCorruptError(f"The rows of {path} are not the ones that were written; remove it and land again.")


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All rows, page checksums verified; raises StagingCorruptError."""
    with reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns)


def iter_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Rows in order, a row group at a time, page checksums verified; raises StagingCorruptError."""
    with reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for index in range(file.num_row_groups):
            yield from file.read_row_group(index, columns).to_batches()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow says of damaged bytes into StagingCorruptError."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StagingCorruptError(
            f"{path} cannot be read as a staged file: {error}; restore it from a copy."
        ) from error
