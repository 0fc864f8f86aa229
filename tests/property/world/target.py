"""Tables in memory that keep the contract of `Target`: whole transactions, one owner, a record of what is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.errors import ContentMismatchError, NotReadyError, TargetOwnedError
from airflow_provider_eventlog.core.holdings import AddedUp, Differing, TargetContents
from airflow_provider_eventlog.core.protocols import (
    ApplyResult,
    LoadedBatch,
    Outcome,
    OutputId,
    TargetState,
    TargetTable,
)
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.targets.duckdb_tables import wanted_columns
from airflow_provider_eventlog.declare import DuckDB

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_eventlog.core.rebuilding.table import NewTable

Row = dict[str, Any]


@dataclass
class Table:
    """What is committed of one table."""

    owner: OutputId
    columns: tuple[tuple[str, str], ...]
    loads: dict[str, LoadedBatch] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    cursor: tuple[int, int, str] | None = None
    windows: dict[tuple[Any, ...], Row] = field(default_factory=dict)


class SimTarget:
    """Implements `Target` for one table of a database, which is shared by all attempts."""

    def __init__(self, database: dict[str, Table], declared: DuckDB) -> None:
        self._database, self._name = database, declared.table

    def _table(self, output: OutputId) -> Table | None:
        found = self._database.get(self._name)
        if found is not None and found.owner != output:
            raise TargetOwnedError(f"Table {self._name} belongs to {found.owner}, not to {output}.")
        return found

    def state(self, output: OutputId) -> TargetTable:
        found = self._table(output)
        if found is None:
            return TargetTable(TargetState.ABSENT, None, ())
        return TargetTable(TargetState.OWNED, f"uuid-{self._name}", found.columns)

    def loaded(self, output: OutputId, batch_id: str) -> LoadedBatch | None:
        found = self._table(output)
        return None if found is None else found.loads.get(batch_id)

    def contents(self, output: OutputId) -> TargetContents:
        found = self._table(output)
        if found is None:
            return TargetContents((), {})
        counted: dict[str | None, int] = {name: len(rows) for name, rows in found.rows.items() if rows}
        return TargetContents(tuple(sorted(found.loads.items())), counted)

    def owner(self) -> OutputId | None:
        found = self._database.get(self._name)
        return None if found is None else found.owner

    def cursor(self, output: OutputId) -> tuple[int, int] | None:
        found = self._table(output)
        return None if found is None or found.cursor is None else found.cursor[:2]

    def apply_rows(
        self,
        output: OutputId,
        batch_id: str,
        generation: int,
        digest: str,
        files: Sequence[Path],
        schema: pa.Schema,
        *,
        again: bool = False,
    ) -> ApplyResult:
        rows = _rows(files, schema)
        table = self._made(output, schema)
        found = table.loads.get(batch_id)
        if found is not None and found.generation > generation:
            return ApplyResult(Outcome.EXISTED, found.rows, superseded=True)
        if found is not None and found.generation == generation and not again:
            if found.digest != digest:
                raise ContentMismatchError(f"Generation {generation} of batch {batch_id} is there with another digest.")
            return ApplyResult(Outcome.EXISTED, found.rows)
        table.loads[batch_id], table.rows[batch_id] = LoadedBatch(generation, digest, len(rows)), rows
        self._database[self._name] = table
        return ApplyResult(Outcome.LANDED, len(rows))

    def apply_changes(
        self,
        output: OutputId,
        log: int,
        n: int,
        digest: str,
        upserts: Sequence[Path],
        deletes: Sequence[Path],
        schema: pa.Schema,
        key: Sequence[str],
    ) -> ApplyResult:
        table = self._made(output, schema)
        at = table.cursor
        if at is not None and at[:2] >= (log, n):
            if at[:2] == (log, n) and at[2] != digest:
                raise ContentMismatchError(f"Another change-set {n} of log {log} is there.")
            return ApplyResult(Outcome.EXISTED, 0, superseded=at[:2] != (log, n))
        before = at[1] if at is not None and at[0] == log else 0
        if n != before + 1:
            raise NotReadyError(f"The table stands at {before} of log {log} and cannot take {n}.")
        table.windows = _changed({} if n == 1 else table.windows, upserts, deletes, schema, key)
        table.cursor = (log, n, digest)
        self._database[self._name] = table
        return ApplyResult(Outcome.LANDED, len(table.windows))

    def differing(self, output: OutputId, wanted: AddedUp, limit: int) -> Differing | None:
        found = self._table(output)
        if found is None or found.cursor is None or found.cursor[:2] != wanted.at:
            return None
        rows: dict[tuple[Any, ...], Row] = {}
        for _, upserts, deletes in wanted.changes:
            rows = _changed(rows, upserts, deletes, wanted.schema, wanted.key)
        keys = [k for k in {**rows, **found.windows} if rows.get(k) != found.windows.get(k)]
        return Differing(len(keys), tuple(("changed", tuple(map(str, k))) for k in keys[:limit]))

    def new_table(self, output: OutputId, schema: pa.Schema, *, folded: bool = False) -> NewTable:
        raise AssertionError("no rule makes a table anew")

    def _made(self, output: OutputId, schema: pa.Schema) -> Table:
        found = self._table(output)
        if found is not None:
            return found
        with session(threads=1) as connection:
            return Table(output, wanted_columns(connection, schema, ()))


def _changed(
    windows: Mapping[tuple[Any, ...], Row],
    upserts: Sequence[Path],
    deletes: Sequence[Path],
    schema: pa.Schema,
    key: Sequence[str],
) -> dict[tuple[Any, ...], Row]:
    """What a change-set makes of a table."""
    gone = [row for path in deletes for row in partfile.read_table(path).to_pylist()]
    kept = {k: row for k, row in windows.items() if k not in {tuple(g[name] for name in key) for g in gone}}
    return kept | {tuple(row[name] for name in key): row for row in _rows(upserts, schema)}


def _rows(files: Sequence[Path], schema: pa.Schema) -> list[Row]:
    return [row for batch in partfile.iter_batches(files, schema) for row in batch.to_pylist()]
