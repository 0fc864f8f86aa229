"""A table of an output made anew from staging: the newest validated generation of each batch of all epochs, in order.

Kafka is not asked and nothing is derived. The table in use stays as it is until the new one is whole, and is kept under
another name then. Loads of running DAGs go on into the table in use meanwhile; what they brought is taken over before
the two change places, in the same transaction that proves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import quarantine, retention
from airflow_provider_eventlog.core.auditing.derived import tabled
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError, RecipeChangedError, RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import format_ranges
from airflow_provider_eventlog.core.partfile import part_schema
from airflow_provider_eventlog.core.protocols import GenerationRecord, GenerationState, OutputId, PartRecord, Target
from airflow_provider_eventlog.core.rebuilding import windows
from airflow_provider_eventlog.core.rebuilding.table import NewTable, Standing
from airflow_provider_eventlog.declare.outputs import Rows
from airflow_provider_eventlog.declare.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

_READY = (GenerationState.VALIDATED, GenerationState.LOADED)
_NAMED = 5


def rebuild_outputs(
    engine: Engine, pipeline: Pipeline, output: str | None = None, *, replace: bool = False, keep: bool = True
) -> dict[str, Any]:
    """Make the tables of a pipeline's outputs anew, or that of one; with keep=False only say what would be done.

    output   the name of an output, "quarantine" for the quarantine's table; None for all
    replace  a table that stands may be replaced; it is kept under another name. A table that is not the output's own
             is never touched

    Returns JSON values, an element for each output. Raises RequestError for an unknown output, or a table that stands
    without `replace`; RecipeChangedError for batches that were derived with other columns; StagingMissingError for
    parts that are gone; AccountingError for what the table holds and the ledger does not know; and the target errors.
    After a failure every table is as before, but for an output that was finished, and batches that were loaded into a
    table that had never been made; the next call goes on.
    """
    every: list[_Work | windows.WindowsWork] = [_Work(engine, pipeline, *one) for one in _outputs(pipeline)]
    every += windows.works(engine, pipeline)
    works = [work for work in every if output in (None, work.name)]
    if not works:
        known = ", ".join(work.name for work in every)
        raise RequestError(f"Pipeline {pipeline.name!r} has no output {printable(output)}; it has {known}.")
    # All of them are looked at before the first is changed.
    reports = [work.look(replace=replace, keep=keep) for work in works]
    if keep:
        reports = [{**report, **work.do(replace=replace)} for work, report in zip(works, reports, strict=True)]
    return {"pipeline": pipeline.name, "recipe": pipeline.recipe, "kept": keep, "outputs": reports}


def _outputs(pipeline: Pipeline) -> list[tuple[str, str, Rows]]:
    """(name, kind of part, output) of all tables that rows are loaded into."""
    found = [(output.name, TYPED, output) for output in pipeline.outputs if isinstance(output, Rows)]
    if pipeline.quarantine is not None:
        found.append((quarantine.KIND, quarantine.KIND, Rows(pipeline.quarantine, name=quarantine.KIND)))
    return found


@dataclass(frozen=True, slots=True)
class _Load:
    """A generation as one table takes it."""

    batch_id: str
    generation: int
    recipe: str
    ranges: str
    digest: str
    rows: int
    parts: tuple[PartRecord, ...]


@dataclass
class _Work:
    engine: Engine
    pipeline: Pipeline
    name: str
    kind: str
    output: Rows
    target: Target = field(init=False)
    id: OutputId = field(init=False)
    table: NewTable = field(init=False)
    loads: dict[str, _Load] = field(init=False)

    def look(self, *, replace: bool, keep: bool) -> dict[str, Any]:
        """What there is, and what would be loaded; raises what stands against it."""
        self.target = self.engine.open_target(self.output)
        self.id = OutputId(self.engine.ledger.ledger_id, self.pipeline.name, self.name)
        self.table = self.target.new_table(self.id, self._schema())
        self.loads = {load.batch_id: load for load in self._wanted()}
        self._refuse_other_columns()
        self._refuse_missing()
        self._refuse_unknown(self.table.old)
        declared, standing = self.output.target, self.table.standing
        refused = None
        if standing is Standing.OWN and not replace:
            refused = (
                f"Table {declared.schema}.{declared.table} of {declared.path} stands and holds {len(self.table.old)} "
                f"batches. Nothing was done; with --replace it is made anew and the old one is kept under another name."
            )
            if keep:
                raise RequestError(refused)
        already = sum(self._has(self.table, load) for load in self.loads.values())
        return {
            "output": self.name,
            "table": f"{declared.path}, {declared.schema}.{declared.table}",
            "found": standing.value,
            "difference": list(self.table.difference),
            "batches": len(self.loads),
            "rows": sum(load.rows for load in self.loads.values()),
            "bytes": sum(part.file.bytes for load in self.loads.values() for part in load.parts),
            "begun": already,
            "refused": refused,
        }

    def do(self, *, replace: bool) -> dict[str, Any]:
        """Load everything, then let the new table take its place."""
        if self.table.standing is Standing.NEVER:
            # Nothing stands in the way, and loads of running DAGs may make the table first: it takes both.
            for done, load in enumerate(self.loads.values(), 1):
                self._step(done, len(self.loads))
                self.target.apply_rows(self.id, *_named(load), self._files(load), self._schema())
            return {"replaced": None}
        self.table.begin()
        if any(self._strange(batch_id) for batch_id in self.table.held):
            self.table.begin(anew=True)
        self._load(list(self.loads.values()))
        while (swap := self.table.swap(replace=replace)).behind:
            self._load(self._newer(swap.behind))
        return {"replaced": swap.aside}

    def _load(self, loads: Sequence[_Load]) -> None:
        waiting = [load for load in loads if not self._has(self.table, load)]
        for done, load in enumerate(waiting, len(loads) - len(waiting) + 1):
            self._step(done, len(loads))
            self.table.apply_rows(*_named(load), self._files(load))

    def _step(self, done: int, total: int) -> None:
        self.engine.check_cancelled()
        self.engine.progress(f"rebuilt batches of {self.name}", done, total)

    def _files(self, load: _Load) -> list[Path]:
        return [self.engine.staging.open(part.file.path, part.file) for part in load.parts]

    def _schema(self) -> pa.Schema:
        return part_schema(self.pipeline) if self.kind == TYPED else quarantine.SCHEMA

    def _has(self, table: NewTable, load: _Load) -> bool:
        held = table.held.get(load.batch_id)
        return held is not None and (held.generation, held.digest) == (load.generation, load.digest)

    def _strange(self, batch_id: str) -> bool:
        """Whether an earlier attempt has loaded what this one would not, or could not take back."""
        held, load = self.table.held[batch_id], self.loads.get(batch_id)
        if load is None or held.generation > load.generation:
            return True
        return held.generation == load.generation and held.digest != load.digest

    def _wanted(self, only: Iterable[str] | None = None) -> list[_Load]:
        """The newest ready generation of each batch, in the order of the chain, then off-chain."""
        ledger, name = self.engine.ledger, self.pipeline.name
        newest: dict[str, GenerationRecord] = {}
        for generation in ledger.generations(name):
            if generation.state in _READY:
                newest[generation.batch_id] = generation
        chosen = None if only is None else set(only)
        found = []
        for plan, _ in ledger.batches(self.pipeline.stream.name):
            record = newest.get(plan.batch_id)
            if record is None or (chosen is not None and plan.batch_id not in chosen):
                continue
            parts = ledger.parts(name, plan.batch_id, record.generation)
            digest, rows = tabled(record, parts)[self.kind]
            mine = tuple(part for part in parts if part.kind == self.kind)
            ranges = format_ranges(plan.ranges)
            found.append(_Load(plan.batch_id, record.generation, record.recipe, ranges, str(digest), rows, mine))
        return found

    def _newer(self, behind: Sequence[str]) -> list[_Load]:
        """What running loads have brought into the table in use meanwhile."""
        fresh = {load.batch_id: load for load in self._wanted(behind)}
        self.loads |= fresh
        table = self.target.new_table(self.id, self._schema())
        self._refuse_unknown({batch_id: load for batch_id, load in table.old.items() if batch_id in behind})
        self._refuse_other_columns()
        self._refuse_missing()
        return list(fresh.values())

    def _refuse_unknown(self, old: Any) -> None:
        unknown = sorted(
            batch_id
            for batch_id, held in old.items()
            if batch_id not in self.loads or self.loads[batch_id].generation < held.generation
        )
        if unknown:
            raise AccountingError(
                f"The table of output {self.name!r} holds {len(unknown)} batches, or generations of them, that this "
                f"ledger does not know as validated: {', '.join(unknown[:_NAMED])}. The new table would lack them; "
                f"`eventlog fsck` says more. Nothing was moved."
            )

    def _refuse_other_columns(self) -> None:
        """Raise RecipeChangedError for generations of other recipes whose parts have other columns."""
        if self.kind != TYPED:
            return
        import pyarrow.parquet as pq

        wanted, fits = self._schema(), {self.pipeline.recipe: True}
        for load in self.loads.values():
            if load.recipe not in fits and load.parts and self.engine.staging.exists(load.parts[0].file.path):
                # One recipe gives all of its parts the same columns.
                found = pq.read_schema(self.engine.staging.open(load.parts[0].file.path, load.parts[0].file))
                fits[load.recipe] = found.remove_metadata().equals(wanted.remove_metadata(), check_metadata=True)
        other = [load for load in self.loads.values() if load.parts and not fits.get(load.recipe, True)]
        if other:
            ranges = ",".join(load.ranges for load in other[:_NAMED])
            raise RecipeChangedError(
                f"{len(other)} batches of pipeline {self.pipeline.name!r} were derived under an earlier recipe, with "
                f"other columns than this one gives, first {other[0].batch_id}. Derive them again first: clear their "
                f"runs from plan, or `eventlog backfill --pipeline FILE.py:VARIABLE --offsets {ranges}"
                f"{',...' if len(other) > _NAMED else ''}`; their load fails until the table is rebuilt. Nothing was "
                f"moved."
            )

    def _refuse_missing(self) -> None:
        for load in self.loads.values():
            for part in load.parts:
                if not self.engine.staging.exists(part.file.path):
                    of = (self.pipeline.stream.name, self.pipeline.name, load.batch_id, load.generation)
                    raise retention.missing_part(self.engine, *of, part.file.path)


def _named(load: _Load) -> tuple[str, int, str]:
    return load.batch_id, load.generation, load.digest
