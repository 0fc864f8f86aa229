"""A table of windows brought up, held against its change-sets, or made anew from them: all of the newest fold log.

Folds that are made meanwhile are applied before a new table takes the old one's place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError, NotReadyError, RequestError
from airflow_provider_eventlog.core.folding import applying, files, listing, logs
from airflow_provider_eventlog.core.folding.partials import window_plan
from airflow_provider_eventlog.core.holdings import AddedUp, Changes, Differing
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, OutputId, Target
from airflow_provider_eventlog.core.rebuilding.table import NewTable, Standing
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.core.windows.corrected import KEY
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import pyarrow as pa

# A table's columns and its key.
Shape = tuple["pa.Schema", tuple[str, ...]]


def works(engine: Engine, pipeline: Pipeline) -> list[WindowsWork]:
    """One for each table of windows that a pipeline has, those of late rows too."""
    found = []
    for output in pipeline.outputs:
        if isinstance(output, Windows):
            for late, declared in ((False, output.target), (True, output.late)):
                if declared is not None:
                    shape = _Declared(pipeline, output)
                    found.append(WindowsWork(engine, pipeline.name, output.name, declared, late, shape))
    return found


@dataclass
class WindowsWork:
    """What is done to one table of an output.

    windows  the output's name; `name` is the table's
    shape    gives columns and key, for the folds of a log
    """

    engine: Engine
    pipeline: str
    windows: str
    declared: DuckDB
    late: bool
    shape: Callable[[WindowsWork, int], Shape]
    table: NewTable = field(init=False)
    log: FoldLog = field(init=False)
    _schema: pa.Schema = field(init=False)
    _key: tuple[str, ...] = field(init=False)

    @property
    def name(self) -> str:
        """The name under which the table is owned."""
        return applying.late_output(self.windows) if self.late else self.windows

    @property
    def id(self) -> OutputId:
        """Whose the table is."""
        return OutputId(self.engine.ledger.ledger_id, self.pipeline, self.name)

    @cached_property
    def target(self) -> Target:
        """Where it is; raises the target errors."""
        return self.engine.open_target(Rows(self.declared, name=self.name))

    @property
    def kinds(self) -> tuple[str, str]:
        """Of what a fold leaves, what goes into this table: rows to upsert, and keys to delete."""
        return applying.LATE_KINDS if self.late else applying.KINDS

    def look(self, *, replace: bool, keep: bool) -> dict[str, Any]:
        """What there is, and what would be applied; raises what stands against it."""
        engine = self.engine
        self.log = self._newest()
        self._schema, self._key = self.shape(self, self.log.log)
        self.table = self.target.new_table(self.id, self._schema, folded=True)
        folds = engine.ledger.folds(self.pipeline, self.windows, self.log.log)
        self._refuse_ahead(len(folds))
        refused = None
        if self.table.standing is Standing.OWN and not replace:
            refused = (
                f"Table {self.declared.schema}.{self.declared.table} of {self.declared.path} stands. Nothing was done; "
                f"with --replace it is made anew and the old one is kept under another name."
            )
            if keep:
                raise RequestError(refused)
        used = [file for fold in folds for kind, (file, _) in fold.files.items() if kind in self.kinds]
        return {
            "output": self.name,
            "table": f"{self.declared.path}, {self.declared.schema}.{self.declared.table}",
            "found": self.table.standing.value,
            "difference": list(self.table.difference),
            "batches": len(folds),
            "rows": sum(int(fold.accounting.get("late_pairs" if self.late else "windows", 0)) for fold in folds),
            "bytes": sum(file.bytes for file in used),
            "begun": 0,
            "refused": refused,
        }

    def do(self, *, replace: bool) -> dict[str, Any]:
        """Apply everything, then let the new table take its place; `look` comes first."""
        if self.table.standing is Standing.NEVER:
            # Nothing stands in the way, and loads of running DAGs may make the table first: it takes both.
            self._bring_up()
            return {"replaced": None}
        self.table.begin()
        at = self.table.position
        if at is not None and at[0] != self.log.log:
            self.table.begin(anew=True)
            at = None
        while True:
            for fold in self._folds(0 if at is None else at[1]):
                self.table.apply_changes(self.log.log, fold.n, *self._changes(fold), self._key)
            swap = self.table.swap(replace=replace)
            if not swap.behind:
                return {"replaced": swap.aside}
            at = self.table.position

    def lacking(self) -> range:
        """The numbers of the change-sets of the newest log that the table lacks; raises RequestError without a log."""
        log = self._newest()
        newest = self.engine.ledger.last_fold(self.pipeline, self.windows, log.log)
        return range(self._reached(log) + 1, 1 if newest is None else newest.n + 1)

    def bring_up(self) -> int:
        """Apply what the table lacks of the newest log; how many change-sets that were.

        Loads may do the same meanwhile. Raises what `Target.apply_changes` raises, and what `shape` does; what was
        applied before stays.
        """
        self.log = self._newest()
        self._schema, self._key = self.shape(self, self.log.log)
        return self._bring_up()

    def differing(self, at: tuple[int, int], limit: int) -> Differing | None:
        """What differs in a table that stands at (log, n) from its change-sets; see `Target.differing`.

        Their files are not hashed again. Raises what that raises, StagingMissingError, and what `shape` does.
        """
        log, n = at
        folds = self.engine.ledger.folds(self.pipeline, self.windows, log)[:n]
        if [fold.n for fold in folds] != list(range(1, n + 1)):
            raise AccountingError(f"The ledger lacks folds of log {log} up to {n}: there is nothing to compare with.")
        schema, key = self.shape(self, log)
        return self.target.differing(self.id, AddedUp(at, self._added_up(folds), schema, key), limit)

    def _added_up(self, folds: Sequence[FoldRecord]) -> Iterator[Changes]:
        for fold in folds:
            self.engine.check_cancelled()
            upserts, deletes = (self._unhashed(fold, kind) for kind in self.kinds)
            yield fold.n, upserts, deletes
            self.engine.progress(f"change-sets of {self.name} added up", fold.n, len(folds))

    def _unhashed(self, fold: FoldRecord, kind: str) -> list[Any]:
        return [self.engine.staging.open(fold.files[kind][0].path)] if kind in fold.files else []

    def _newest(self) -> FoldLog:
        log = logs.newest(self.engine, self.pipeline, self.windows)
        if log is None:
            raise RequestError(
                f"Output {self.name!r} of pipeline {self.pipeline!r} has no fold log: nothing was folded yet."
            )
        return log

    def _reached(self, log: FoldLog) -> int:
        at = self.target.cursor(self.id)
        return at[1] if at is not None and at[0] == log.log else 0

    def _bring_up(self) -> int:
        applied = 0
        for fold in self._folds(self._reached(self.log)):
            self.target.apply_changes(self.id, self.log.log, fold.n, *self._changes(fold), self._schema, self._key)
            applied += 1
        return applied

    def _folds(self, after: int) -> list[FoldRecord]:
        folds = self.engine.ledger.folds(self.pipeline, self.windows, self.log.log, after)
        for fold in folds:
            self.engine.progress(f"change-sets of {self.name}", fold.n, folds[-1].n)
        return list(folds)

    def _changes(self, fold: FoldRecord) -> tuple[str, Any, Any]:
        self.engine.check_cancelled()
        upserts, deletes = (files.local(self.engine, fold, kind) for kind in self.kinds)
        return applying.change_digest(fold, self.kinds), upserts, deletes

    def _refuse_ahead(self, newest: int) -> None:
        at = self.target.cursor(self.id) if self.table.standing is Standing.OWN else None
        if at is not None and at > (self.log.log, newest):
            raise AccountingError(
                f"The table of output {self.name!r} stands at change-set {at[1]} of log {at[0]}, the ledger at "
                f"{newest} of log {self.log.log}: the new table would lack some. `eventlog fsck` says more."
            )


@dataclass(frozen=True, slots=True)
class _Declared:
    """The shape that a pipeline's code gives."""

    pipeline: Pipeline
    windows: Windows

    def __call__(self, work: WindowsWork, log: int) -> Shape:
        """Of the table as it is declared now."""
        with session(threads=1) as connection:
            plan = window_plan(connection, self.pipeline, self.windows)
        return (plan.late, KEY) if work.late else (plan.result, plan.key)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The shape without the code: as the folds' files have it or, where none of them left any, the table.

    stream  of which the pipeline is
    Raises NotReadyError where neither tells.
    """

    stream: str

    def __call__(self, work: WindowsWork, log: int) -> Shape:
        """Of the table as a log gives it."""
        schema = _of_files(work, log) or _of_columns(work.target.state(work.id).columns)
        if schema is None:
            raise NotReadyError(
                f"Nothing tells the columns of table {work.declared.table}: it was never made, and no fold left rows "
                f"for it. The next load makes it."
            )
        if work.late:
            return schema, KEY
        # A declaration may spell a column in another case than the rows do.
        names = {field.name.casefold(): field.name for field in schema}
        return schema, tuple(names[name.casefold()] for name in (*self._by(work, log), "window_start"))

    def _by(self, work: WindowsWork, log: int) -> Sequence[str]:
        """The keys that the log's folds go by, which need not be those that are declared now."""
        ledger = work.engine.ledger
        recipe = next(one.recipe for one in ledger.fold_logs(work.pipeline, work.windows) if one.log == log)
        text = ledger.audit(self.stream).declarations(work.pipeline).get(recipe)
        if text is None:
            raise NotReadyError(
                f"The ledger lacks the declaration of pipeline {work.pipeline!r} under the recipe {recipe[:12]}, by "
                f"which log {log} is folded: plan a run under it, which registers it."
            )
        found: Sequence[str] = listing.outputs_of(json.loads(text))[work.windows]["by"]
        return found


def _of_files(work: WindowsWork, log: int) -> pa.Schema | None:
    for fold in work.engine.ledger.folds(work.pipeline, work.windows, log):
        if work.kinds[0] in fold.files:
            file, _ = fold.files[work.kinds[0]]
            return partfile.read_schema(work.engine.staging.open(file.path, file))
    return None


def _of_columns(columns: Sequence[tuple[str, str]]) -> pa.Schema | None:
    import duckdb
    import pyarrow as pa

    if not columns:
        return None
    select = ", ".join(f"CAST(NULL AS {duckdb.sqltype(kind)}) AS {quote(name)}" for name, kind in columns)
    with session(threads=1) as connection:
        found = connection.sql(f"SELECT {select}").to_arrow_table().schema
    kinds = [{TYPE_KEY: kind.encode()} for _, kind in columns]
    return pa.schema([field.with_metadata(kind) for field, kind in zip(found, kinds, strict=True)])
