"""The part file of a slice: a transform's rows, and in its footer their accounting.

Like a raw file it is a function of its rows alone, has checksums on its pages, and carries what a later attempt needs
to adopt it without deriving it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import PartRecord, StagedFile
from airflow_provider_eventlog.core.rawfile import GROUP_ROWS, WRITING, footer, reading, sealed
from airflow_provider_eventlog.core.transforming import TransformResult, part_schema

__all__ = [
    "FORMAT",
    "TYPED",
    "PartInfo",
    "iter_batches",
    "part_schema",
    "read_part",
    "read_part_info",
    "read_schema",
    "read_table",
    "write_part",
]

FORMAT = 1
# The kind of the parts that hold rows; the quarantine and partial results have kinds of their own.
TYPED = "typed"
_KEY = b"eventlog"


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a part file's footer says of it; `digest` is the logical digest of its rows."""

    kind: str
    range: OffsetRange
    recipe: str
    digest: str
    rows: int
    counts: dict[str, int]
    failures: dict[str, Any]


def write_part(path: Path, result: TransformResult, *, kind: str, wanted: OffsetRange, recipe: str) -> PartInfo:
    """Write a transform's rows, in order, in row groups of a fixed number of rows.

    The same result gives the same bytes with the same writer version. Raises OSError; the file is then incomplete
    and must not be published.
    """
    table = result.table
    info = PartInfo(
        kind, wanted, recipe, table_digest(table), table.num_rows, dict(result.counts), dict(result.failures)
    )
    with pq.ParquetWriter(path, table.schema, **WRITING) as writer:
        for start in range(0, table.num_rows, GROUP_ROWS):
            # Row groups end where the rows say, not where the engine's chunks do.
            writer.write_table(table.slice(start, GROUP_ROWS).combine_chunks(), row_group_size=GROUP_ROWS)
        writer.add_key_value_metadata({_KEY.decode(): _to_text(info)})
    return info


def _to_text(info: PartInfo) -> str:
    record = {
        "kind": info.kind,
        "range": str(info.range),
        "recipe": info.recipe,
        "digest": info.digest,
        "rows": info.rows,
        "counts": info.counts,
        "failures": info.failures,
    }
    return sealed(record, FORMAT)


def read_part_info(path: Path) -> PartInfo:
    """What the footer says; raises StagingCorruptError, ManifestVersionError for a newer format."""
    value = footer(path, _KEY, FORMAT)
    with reading(path):
        return PartInfo(
            kind=value["kind"],
            range=OffsetRange.parse(value["range"]),
            recipe=value["recipe"],
            digest=value["digest"],
            rows=value["rows"],
            counts=value["counts"],
            failures=value["failures"],
        )


def read_part(path: Path, file: StagedFile) -> PartRecord:
    """The ledger's record of a published part; raises StagingCorruptError, ManifestVersionError."""
    info = read_part_info(path)
    return PartRecord(info.kind, info.range, file, info.digest, info.recipe, info.counts, info.failures)


def verify_rows(path: Path, expected: str) -> None:
    """Read every row and compare the logical digest; raises StagingCorruptError. See `rawfile.verify_rows`."""
    if table_digest(read_table(path)) != expected:
        raise StagingCorruptError(f"The rows of {path} are not the ones that were derived; remove it and derive again.")


def read_table(path: Path) -> pa.Table:
    """All rows, page checksums verified; raises StagingCorruptError."""
    with reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True).read()


def read_schema(path: Path) -> pa.Schema:
    """The columns of a part with what its fields say of their types; raises StagingCorruptError."""
    with reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True).schema_arrow


def iter_batches(paths: Sequence[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of several parts in order, a row group at a time, page checksums verified.

    Raises StagingCorruptError for damage, and for a part whose columns are not those of `schema`.
    """
    for path in paths:
        with reading(path):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            found = file.schema_arrow
        if not found.equals(schema):
            raise StagingCorruptError(
                f"{path} has the columns {printable(found.names)}, expected {printable(schema.names)}; clear its "
                f"transform task."
            )
        for index in range(file.num_row_groups):
            with reading(path):
                batches = file.read_row_group(index).to_batches()
            yield from batches
