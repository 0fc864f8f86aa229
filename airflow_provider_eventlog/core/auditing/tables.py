"""Targets: each table holds of each batch the newest loaded generation, all of its rows, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from airflow_provider_eventlog.core import quarantine
from airflow_provider_eventlog.core.auditing.derived import Derived, Loaded, tabled
from airflow_provider_eventlog.core.auditing.findings import LOAD, TABLE, Audit, Finding, Fix
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.errors import EventLogError, TargetOwnedError, TargetReplacedError
from airflow_provider_eventlog.core.folding import listing
from airflow_provider_eventlog.core.folding.applying import late_output
from airflow_provider_eventlog.core.holdings import TargetContents
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.protocols import GenerationState, LoadedBatch, OutputId, Target, TargetState
from airflow_provider_eventlog.core.staging.records import canonical
from airflow_provider_eventlog.declare.outputs import DuckDB, Rows

_AGAIN = "`eventlog fsck --repair` loads it again from staging."
_BEHIND = "The ledger is older than the table: bring it back from a copy, or make it again (eventlog ledger rebuild)."
_STRANGE = "Somebody else wrote them: delete them, or restore the table from a copy."
AS_IT_SAYS = "As it says; nothing is loaded until then."
FREE = "Run `eventlog fsck` again when the target is free."
WINDOWS = "windows"
_READY = (GenerationState.VALIDATED, GenerationState.LOADED)


class TableOf(NamedTuple):
    """A table that a declaration names, and what kind of part is loaded into it."""

    kind: str
    output: str
    target: DuckDB


def declared(declaration: str) -> tuple[tuple[TableOf, ...], tuple[str, ...]]:
    """The tables of a registered declaration; and, as text, its outputs that cannot be audited so."""
    value = json.loads(declaration)
    found, others = [], []
    for output in value["outputs"]:
        target = output.get("rows", {}).get("target", {}).get("duckdb")
        if "windows" in output:
            # `auditing.folds` has an eye on them.
            continue
        if target is None:
            others.append(canonical(output))
        else:
            found.append(TableOf(TYPED, output["rows"]["name"], _duckdb(target)))
    target = (value.get("quarantine") or {}).get("duckdb")
    if target is not None:
        found.append(TableOf(quarantine.KIND, quarantine.KIND, _duckdb(target)))
    return tuple(found), tuple(others)


def windows_tables(declaration: str) -> tuple[TableOf, ...]:
    """The tables of the windows that a registered declaration names, those of late rows too."""
    found = []
    for name, output in listing.outputs_of(json.loads(declaration)).items():
        found.append(TableOf(WINDOWS, name, _duckdb(output["target"]["duckdb"])))
        if output.get("late"):
            found.append(TableOf(WINDOWS, late_output(name), _duckdb(output["late"]["duckdb"])))
    return tuple(found)


def _duckdb(target: Mapping[str, str]) -> DuckDB:
    return DuckDB(target["path"], target["table"], target["schema"])


def audit(run: Audit, derived: Derived, declaration: str) -> Iterator[Finding]:
    """Findings about the tables of one pipeline, as its registered declaration names them.

    A generation is expected in the tables that its own recipe named.
    """
    found, others = declared(declaration)
    for text in others:
        yield Finding("output_unknown", f"pipeline {derived.pipeline}: {text[:200]}", "Not compared.", damaged=False)
    by_recipe = {recipe: declared(text)[0] for recipe, text in run.ledger.declarations(derived.pipeline).items()}
    for table in found:
        run.engine.check_cancelled()
        run.checked["tables"] += 1
        wanted = {}
        for batch_id, generations in derived.loaded.items():
            mine = [g for g in generations if table in by_recipe.get(g.recipe, found)]
            if mine:
                wanted[batch_id] = mine[-1]
        one = _Table(run, derived.pipeline, table, wanted)
        try:
            yield from one.findings()
        except TargetReplacedError as error:
            yield one.wrong("table_replaced", str(error), replaced(table.output))
        except TargetOwnedError as error:
            yield one.wrong("table_replaced", str(error), AS_IT_SAYS)
        except EventLogError as error:
            yield one.wrong("table_unchecked", str(error), FREE)


def rebuild(output: str, more: str = "") -> str:
    """The command that makes an output's table anew."""
    return f"`eventlog rebuild --pipeline FILE.py:VARIABLE --output-name {output}{more}`"


def replaced(output: str) -> str:
    """What to do about a table that is gone, or is another one now."""
    return f"{rebuild(output)} makes it anew from staging; nothing is loaded until then."


class _Table:
    """One table against the generations that it should hold."""

    def __init__(self, run: Audit, pipeline: str, table: TableOf, wanted: Mapping[str, Loaded]) -> None:
        self._run, self._pipeline, self._table, self._wanted = run, pipeline, table, wanted
        self._ledger = run.engine.ledger
        self._output = OutputId(self._ledger.ledger_id, pipeline, table.output)
        self._target: Target = run.engine.open_target(Rows(table.target, name=table.output))
        self._where = f"{table.target.path}, table {table.target.schema}.{table.target.table}"

    def wrong(self, code: str, what: str, mend: str, **more: Any) -> Finding:
        """A finding about this table."""
        return Finding(code, self._where, what, mend, pipeline=self._pipeline, **more)

    def findings(self) -> Iterator[Finding]:
        """What differs. Raises the target errors of `core.errors`."""
        contents = self._target.contents(self._output)
        empty = not contents.loads and not contents.rows
        if self._wanted and empty and self._target.state(self._output).state is TargetState.ABSENT:
            fix = Fix(TABLE, lambda mender: mender.table(self._target, self._output))
            yield self.wrong("table_missing", "The table is gone, and with it all that was loaded.", _AGAIN, fix=fix)
        yield from self._strange(contents)
        loads = dict(contents.loads)
        for batch_id, expected in self._wanted.items():
            self._run.checked["loaded batches"] += 1
            yield from self._batch(batch_id, expected, loads.get(batch_id), contents.rows.get(batch_id, 0))

    def _strange(self, contents: TargetContents) -> Iterator[Finding]:
        """Records that are double, and batches that this ledger has not loaded."""
        seen: set[str] = set()
        for batch_id, load in contents.loads:
            if batch_id in seen:
                fix = self._fix(batch_id)
                yield self.wrong(
                    "load_double", f"Batch {batch_id} is recorded twice.", _AGAIN, batch_id=batch_id, fix=fix
                )
            elif batch_id not in self._wanted:
                yield self._stranger(batch_id, load, contents.rows.get(batch_id, 0))
            seen.add(batch_id)
        for name, count in contents.rows.items():
            if name is None:
                yield self.wrong("rows_unknown", f"{count:,} rows carry no batch id.", _STRANGE)
            elif name not in seen and name not in self._wanted:
                what = f"{count:,} rows carry batch id {printable(name)}, of which no load is recorded."
                yield self.wrong("rows_unknown", what, _STRANGE, batch_id=name)

    def _stranger(self, batch_id: str, load: LoadedBatch, counted: int) -> Finding:
        held = self._held(batch_id, load.generation)
        if held == (load.digest, load.rows) and counted == load.rows:
            return self._unfinished(batch_id, load.generation)
        what = f"The table holds generation {load.generation} of batch {batch_id} ({counted:,} rows), "
        what += "which this ledger does not know as validated."
        return self.wrong("batch_unknown", what, _BEHIND, batch_id=batch_id)

    def _batch(self, batch_id: str, expected: Loaded, load: LoadedBatch | None, counted: int) -> Iterator[Finding]:
        digest, rows = expected.rows[self._table.kind]
        if load == LoadedBatch(expected.number, str(digest), rows) and counted == rows:
            return
        if load is not None and load.generation > expected.number:
            # Loaded since the ledger was read, or by an attempt that was killed before it could say so.
            if self._held(batch_id, load.generation) == (load.digest, counted):
                yield self._unfinished(batch_id, load.generation)
            else:
                what = (
                    f"The table holds generation {load.generation} of batch {batch_id}, the ledger {expected.number}."
                )
                yield self.wrong("generation_unknown", what, _BEHIND, batch_id=batch_id)
            return
        code, what = self._difference(batch_id, expected, load, counted)
        more: dict[str, Any] = {"batch_id": batch_id, "generation": expected.number, "fix": self._fix(batch_id)}
        yield self.wrong(code, what, _AGAIN, **more)

    def _difference(self, batch_id: str, expected: Loaded, load: LoadedBatch | None, counted: int) -> tuple[str, str]:
        number, (digest, rows) = expected.number, expected.rows[self._table.kind]
        if load is None:
            return "load_missing", f"No load of batch {batch_id} is recorded; {counted:,} of {rows:,} rows are there."
        if load.generation != number:
            return "load_behind", f"The table holds generation {load.generation} of batch {batch_id}, not {number}."
        if load.digest != digest:
            return "load_differs", f"Generation {number} of batch {batch_id} is recorded with another digest."
        if load.rows != rows:
            return "load_differs", f"Batch {batch_id} is recorded with {load.rows:,} rows instead of {rows:,}."
        return "rows_differ", f"Batch {batch_id} has {counted:,} rows in the table instead of {rows:,}."

    def _unfinished(self, batch_id: str, number: int) -> Finding:
        what = f"Generation {number} of batch {batch_id} is in the table, and the ledger did not say so."
        mend = "Run or clear the load of its run, unless it is running."
        more: dict[str, Any] = {"batch_id": batch_id, "generation": number}
        return self.wrong("load_unfinished", what, mend, damaged=False, **more)

    def _fix(self, batch_id: str) -> Fix | None:
        expected = self._wanted.get(batch_id)
        if expected is None:
            return None
        number, kind = expected.number, self._table.kind
        return Fix(LOAD, lambda mender: mender.load(self._target, self._output, kind, batch_id, number))

    def _held(self, batch_id: str, number: int) -> tuple[str | None, int] | None:
        """What the ledger has of a generation now, if it may be loaded."""
        try:
            found = self._ledger.generation(self._pipeline, batch_id, number)
        except KeyError:
            return None
        if found.state not in _READY:
            return None
        return tabled(found, self._ledger.parts(self._pipeline, batch_id, number))[self._table.kind]
