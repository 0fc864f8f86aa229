"""The files of a fold: immutable Parquet below the log's folder, named by number, kind and digest of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, Outcome, StagedFile
from airflow_provider_eventlog.core.rawfile import GROUP_ROWS, WRITING
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.windows import frames

# What a fold leaves. `state` is whole and stands in for all deltas before it; what has no rows has no file.
STATE, DELTA, UPSERTS, DELETES, CLOSED = "state", "delta", "upserts", "deletes", "closed"
# Late rows, and the keys of those that a corrected generation has taken back.
LATE, LATE_GONE = "late", "lategone"


def publish(
    engine: Engine, stream: str, log: FoldLog, n: int, tables: Mapping[str, pa.Table]
) -> dict[str, tuple[StagedFile, str]]:
    """Publish what fold n leaves, or adopt it where another attempt has; each with the digest of its rows.

    Files that stand are read whole before they are relied on. Raises the staging errors, StagingCorruptError.
    """
    made = {}
    for kind, table in tables.items():
        if not table.num_rows:
            continue
        digest = table_digest(table)
        path = paths.fold_file(stream, log.pipeline, log.output, log.log, n, kind, digest)

        def write(temporary: Path, table: pa.Table = table) -> None:
            engine.check_cancelled()
            _write(temporary, table)

        outcome, file = engine.staging.publish(path, write)
        if outcome is not Outcome.LANDED:
            partfile.verify_rows(engine.staging.open(path, file), digest)
        made[kind] = (file, digest)
    return made


def _write(path: Path, table: pa.Table) -> None:
    with pq.ParquetWriter(path, table.schema, **WRITING) as writer:
        for start in range(0, table.num_rows, GROUP_ROWS):
            writer.write_table(table.slice(start, GROUP_ROWS).combine_chunks(), row_group_size=GROUP_ROWS)


def local(engine: Engine, record: FoldRecord, kind: str) -> list[Path]:
    """Where the file of a kind can be read, its bytes verified; nothing for a fold that left none."""
    if kind not in record.files:
        return []
    file, _ = record.files[kind]
    return [engine.staging.open(file.path, file)]


def read(engine: Engine, record: FoldRecord, kind: str) -> list[pa.Table]:
    """The rows of a kind, as a list of one table or none; raises StagingMissingError, StagingCorruptError."""
    return [partfile.read_table(path) for path in local(engine, record, kind)]


def numbered(
    engine: Engine, folds: Sequence[FoldRecord], kind: str, names: Sequence[str] | None = None
) -> pa.Table | None:
    """The rows of a kind that folds leave together, of each the number of its fold as `_n`; None for none.

    names  the columns to keep; all by default
    Raises StagingMissingError, StagingCorruptError, ReadCancelledError.
    """
    tables = []
    for fold in folds:
        engine.check_cancelled()
        for table in read(engine, fold, kind):
            kept = table if names is None else table.select(list(names))
            tables.append(frames.with_numbers(kept, _n=np.full(table.num_rows, fold.n, np.int64)))
    return pa.concat_tables(tables) if tables else None
