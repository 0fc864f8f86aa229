"""A DuckDB table made anew beside the one in use, which it replaces in one transaction when it is whole.

The new one is an owned table like any other, under the name `<table>__rebuild`: what a killed process has loaded into
it stays, and the next one goes on. Every step names the UUID of the new table that it began with, so that two processes
never work on each other's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    TargetBusyError,
    TargetOwnedError,
    TargetReplacedError,
    TargetSchemaError,
)
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.protocols import ApplyResult, LoadedBatch, OutputId
from airflow_provider_eventlog.core.rebuilding.table import Standing, Swap
from airflow_provider_eventlog.core.targets import duckdb_changes
from airflow_provider_eventlog.core.targets import duckdb_tables as tables
from airflow_provider_eventlog.declare.outputs import DuckDB

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget

_Loads = dict[str, LoadedBatch]


class DuckDBNewTable:
    """Implements `NewTable`.

    target, declared         the table in use
    beside, beside_declared  the new one
    folded                   whether it takes change-sets, which know no batches
    """

    def __init__(
        self,
        target: DuckDBTarget,
        declared: DuckDB,
        beside: DuckDBTarget,
        beside_declared: DuckDB,
        output: OutputId,
        schema: pa.Schema,
        folded: bool,
    ) -> None:
        self._more = () if folded else tables.ROW_COLUMNS
        self._target, self._declared = target, declared
        self._beside, self._beside_declared = beside, beside_declared
        self._output, self._schema = output, schema
        self._uuid: str | None = None
        self.standing, self.difference = Standing.NEVER, tuple[str, ...]()
        self.old: Mapping[str, LoadedBatch] = {}
        self.held: Mapping[str, LoadedBatch] = {}
        target.read(self._look, None)

    def _look(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.begin()
        self.standing, uuid_ = self._stands(connection)
        if self.standing is Standing.OWN:
            wanted = tables.wanted_columns(connection, self._schema, self._more)
            self.difference = tables.difference(tables.look(connection, self._declared, self._output), wanted)
        self.old = _loads(connection, uuid_)
        self.held = _loads(connection, tables.own_uuid(connection, self._beside_declared, self._output))

    def _stands(self, connection: duckdb.DuckDBPyConnection) -> tuple[Standing, str | None]:
        """What has the name, and the UUID that the output's table has or had; raises TargetOwnedError and others."""
        mine = tables.own_uuid(connection, self._declared, self._output)
        found = tables.relation(connection, self._declared.schema, self._declared.table)
        if found is None:
            return (Standing.NEVER if mine is None else Standing.GONE), mine
        tables.look(connection, self._declared, self._output)
        return Standing.OWN, mine

    def begin(self, *, anew: bool = False) -> None:
        """Make the new table, or go on with one that was begun under the same columns."""
        fresh = uuid.uuid4().hex

        def work(connection: duckdb.DuckDBPyConnection) -> tuple[str, _Loads]:
            wanted = tables.wanted_columns(connection, self._schema, self._more)
            known = tables.own_uuid(connection, self._beside_declared, self._output)
            try:
                table = tables.look(connection, self._beside_declared, self._output)
            except TargetReplacedError:
                if tables.relation(connection, self._beside_declared.schema, self._beside_declared.table) is not None:
                    raise
                # Somebody dropped what an earlier attempt had begun.
                assert known is not None
                tables.forget(connection, known)
            else:
                if known is not None and not anew and not tables.difference(table, wanted):
                    return known, _loads(connection, known)
                if known is not None:
                    connection.execute(f"DROP TABLE {tables.name(self._beside_declared)}").fetchall()
                    tables.forget(connection, known)
            tables.create(connection, self._beside_declared, self._output, fresh, wanted)
            return fresh, {}

        def settle(connection: duckdb.DuckDBPyConnection) -> tuple[str, _Loads] | None:
            known = tables.own_uuid(connection, self._beside_declared, self._output)
            return (fresh, {}) if known == fresh else None

        self._uuid, self.held = self._target.transact(work, settle)

    def apply_rows(self, batch_id: str, generation: int, digest: str, files: Sequence[Path]) -> ApplyResult:
        """Load a generation into the new table; see `Target.apply_rows`."""
        assert self._uuid is not None, "begin comes first"
        return self._beside.apply_rows(self._output, batch_id, generation, digest, files, self._schema, only=self._uuid)

    def apply_changes(
        self, log: int, n: int, digest: str, upserts: Sequence[Path], deletes: Sequence[Path], key: Sequence[str]
    ) -> ApplyResult:
        """Apply a change-set to the new table; see `Target.apply_changes`."""
        assert self._uuid is not None, "begin comes first"
        return self._beside.apply_changes(self._output, log, n, digest, upserts, deletes, self._schema, key)

    @property
    def position(self) -> tuple[int, int] | None:
        """(log, n) of the newest change-set of the new table."""
        return self._beside.cursor(self._output)

    def swap(self, *, replace: bool) -> Swap:
        """Take the place of the table in use, all in one transaction; see `NewTable.swap`."""
        assert self._uuid is not None, "begin comes first"
        new = self._uuid

        def settle(connection: duckdb.DuckDBPyConnection) -> Swap | None:
            stands = tables.own_uuid(connection, self._declared, self._output) == new
            # Which name the old one was given is found by what it carries.
            return Swap(_aside_of(connection, new) if stands else None) if stands else None

        return self._target.transact(lambda connection: self._swap(connection, new, replace), settle)

    def _swap(self, connection: duckdb.DuckDBPyConnection, new: str, replace: bool) -> Swap:
        if tables.own_uuid(connection, self._beside_declared, self._output) != new:
            raise TargetBusyError(tables.taken_away(self._beside_declared))
        tables.look(connection, self._beside_declared, self._output)
        standing, old = self._stands(connection)
        if standing is Standing.OWN and not replace:
            raise TargetOwnedError(
                f"Table {tables.name(self._declared)} stands, and must not be replaced; nothing was moved. Call "
                f"{tables.rebuild_command(self._output, ' --replace')} to keep it under another name."
            )
        if self._folded_behind(connection, new, old):
            return Swap(None, ("change-sets",))
        held, before = _loads(connection, new), _loads(connection, old)
        behind = [b for b, load in before.items() if b not in held or held[b].generation < load.generation]
        if behind:
            return Swap(None, tuple(sorted(behind)))
        if self._more:
            self._prove(connection, new)
        aside = self._set_aside(connection, new) if standing is Standing.OWN else None
        if old is not None:
            tables.forget(connection, old)
        _rename(connection, self._beside_declared, self._declared.table)
        connection.execute(
            "UPDATE main._eventlog_output SET table_name = ? WHERE table_uuid = ?", [self._declared.table, new]
        ).fetchall()
        return Swap(aside)

    def _folded_behind(self, connection: duckdb.DuckDBPyConnection, new: str, old: str | None) -> bool:
        """Whether the table in use has taken change-sets that the new one lacks."""
        before = duckdb_changes.cursor(connection, old) if old is not None else None
        held = duckdb_changes.cursor(connection, new)
        return before is not None and (held is None or held[:2] < before[:2])

    def _prove(self, connection: duckdb.DuckDBPyConnection, new: str) -> None:
        contents = tables.contents(connection, self._beside_declared, new)
        recorded: dict[str | None, int] = {batch_id: load.rows for batch_id, load in contents.loads if load.rows}
        if recorded != contents.rows:
            differing = sorted(str(b) for b in {*recorded, *contents.rows} if recorded.get(b) != contents.rows.get(b))
            raise ContentMismatchError(
                f"Table {tables.name(self._beside_declared)} has other rows than were loaded, first of batch "
                f"{differing[0]}: somebody else writes to it. Nothing was moved; drop it and rebuild again."
            )

    def _set_aside(self, connection: duckdb.DuckDBPyConnection, new: str) -> str:
        number, aside = 1, ""
        while not aside or tables.relation(connection, self._declared.schema, aside) is not None:
            aside, number = f"{self._declared.table}__replaced_{number}", number + 1
        try:
            _rename(connection, self._declared, aside)
        except duckdb.DependencyException as error:
            raise TargetSchemaError(
                f"Table {tables.name(self._declared)} has indexes or other entries that depend on it, so that it "
                f"cannot be renamed. Nothing was moved; drop them and rebuild again, then make them on the new table."
            ) from error
        where = f"{quote(self._declared.schema)}.{quote(aside)}"
        connection.execute(f"COMMENT ON TABLE {where} IS 'eventlog replaced by:{new}'").fetchall()
        return aside


def _rename(connection: duckdb.DuckDBPyConnection, declared: DuckDB, to: str) -> None:
    connection.execute(f"ALTER TABLE {tables.name(declared)} RENAME TO {quote(to)}").fetchall()


def _aside_of(connection: duckdb.DuckDBPyConnection, new: str) -> str | None:
    found = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE comment = ?", [f"eventlog replaced by:{new}"]
    ).fetchall()
    return str(found[0][0]) if found else None


def _loads(connection: duckdb.DuckDBPyConnection, table_uuid: str | None) -> _Loads:
    return {} if table_uuid is None else dict(tables.loads(connection, table_uuid))
