"""The table of windows made anew: every change-set of the newest fold log, in order, into a new table.

Folds that are made meanwhile are applied before the two tables change places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError, RequestError
from airflow_provider_eventlog.core.folding import applying, files, logs
from airflow_provider_eventlog.core.folding.partials import window_plan
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, OutputId, Target
from airflow_provider_eventlog.core.rebuilding.table import NewTable, Standing
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import pyarrow as pa


def works(engine: Engine, pipeline: Pipeline) -> list[WindowsWork]:
    """One for each table of windows that a pipeline has, those of late rows too."""
    found = []
    for output in pipeline.outputs:
        if isinstance(output, Windows):
            found.append(WindowsWork(engine, pipeline, output, output.name, output.target, late=False))
            if output.late is not None:
                name = applying.late_output(output.name)
                found.append(WindowsWork(engine, pipeline, output, name, output.late, late=True))
    return found


@dataclass
class WindowsWork:
    """The rebuild of one table of an output."""

    engine: Engine
    pipeline: Pipeline
    windows: Windows
    name: str
    declared: DuckDB
    late: bool
    target: Target = field(init=False)
    id: OutputId = field(init=False)
    table: NewTable = field(init=False)
    log: FoldLog = field(init=False)
    _schema: pa.Schema = field(init=False)
    _key: tuple[str, ...] = field(init=False)

    def look(self, *, replace: bool, keep: bool) -> dict[str, Any]:
        """What there is, and what would be applied; raises what stands against it."""
        engine, name = self.engine, self.pipeline.name
        log = logs.newest(engine, name, self.windows.name)
        if log is None:
            raise RequestError(f"Output {self.name!r} of pipeline {name!r} has no fold log: nothing was folded yet.")
        self.log = log
        self.target = engine.open_target(Rows(self.declared, name=self.name))
        self.id = OutputId(engine.ledger.ledger_id, name, self.name)
        with session(threads=1) as connection:
            plan = window_plan(connection, self.pipeline, self.windows)
        self._schema, self._key = (plan.late, applying.LATE_KEY) if self.late else (plan.result, plan.key)
        self.table = self.target.new_table(self.id, self._schema, folded=True)
        folds = engine.ledger.folds(name, self.windows.name, log.log)
        self._refuse_ahead(len(folds))
        refused = None
        if self.table.standing is Standing.OWN and not replace:
            refused = (
                f"Table {self.declared.schema}.{self.declared.table} of {self.declared.path} stands. Nothing was done; "
                f"with --replace it is made anew and the old one is kept under another name."
            )
            if keep:
                raise RequestError(refused)
        used = [file for fold in folds for kind, (file, _) in fold.files.items() if kind in self._kinds]
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
        """Apply everything, then let the new table take its place."""
        if self.table.standing is Standing.NEVER:
            # Nothing stands in the way, and loads of running DAGs may make the table first: it takes both.
            at = self.target.cursor(self.id)
            for fold in self._folds(at[1] if at is not None and at[0] == self.log.log else 0):
                self.target.apply_changes(self.id, self.log.log, fold.n, *self._changes(fold), self._schema, self._key)
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

    @property
    def _kinds(self) -> tuple[str, str]:
        return applying.LATE_KINDS if self.late else applying.KINDS

    def _folds(self, after: int) -> list[FoldRecord]:
        folds = self.engine.ledger.folds(self.pipeline.name, self.windows.name, self.log.log, after)
        for fold in folds:
            self.engine.progress(f"change-sets of {self.name}", fold.n, folds[-1].n)
        return list(folds)

    def _changes(self, fold: FoldRecord) -> tuple[str, Any, Any]:
        self.engine.check_cancelled()
        upserts, deletes = (files.local(self.engine, fold, kind) for kind in self._kinds)
        return applying.change_digest(fold, self._kinds), upserts, deletes

    def _refuse_ahead(self, newest: int) -> None:
        at = self.target.cursor(self.id) if self.table.standing is Standing.OWN else None
        if at is not None and at > (self.log.log, newest):
            raise AccountingError(
                f"The table of output {self.name!r} stands at change-set {at[1]} of log {at[0]}, the ledger at "
                f"{newest} of log {self.log.log}: the new table would lack some. `eventlog fsck` says more."
            )
