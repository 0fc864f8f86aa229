"""The generations of a batch as the lost ledger had them, from commit records, part files, decisions and loads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_eventlog.core import gate, partfile
from airflow_provider_eventlog.core.auditing.derived import tabled
from airflow_provider_eventlog.core.auditing.tables import TableOf
from airflow_provider_eventlog.core.checks import measuring
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.errors import AccountingError, CheckDefinitionError
from airflow_provider_eventlog.core.offsets import PlannedBatch
from airflow_provider_eventlog.core.planning.generations import RECOMPUTE, inputs
from airflow_provider_eventlog.core.protocols import Decision, GenerationRecord, GenerationState, PartRecord, Staging
from airflow_provider_eventlog.core.rebuilding import reading
from airflow_provider_eventlog.core.rebuilding.evidence import Evidence, Problem
from airflow_provider_eventlog.core.rebuilding.loads import Loads
from airflow_provider_eventlog.core.rebuilding.reading import Declared, Landed
from airflow_provider_eventlog.core.redriving.decided import REDRIVE
from airflow_provider_eventlog.core.staging.records import digest
from airflow_provider_eventlog.core.validating import figures_of, rows_digest
from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline, Rows, Stream
from airflow_provider_eventlog.declare.batch_checks import batch_checks

# Stands for a recipe that nothing tells of any more; no digest looks like it.
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Made:
    """A generation with its parts and the digest of what it was made from."""

    record: GenerationRecord
    inputs: str
    parts: tuple[PartRecord, ...] = ()


class Generations:
    """Tells the generations of each batch; what cannot be as it was is in `problems`."""

    def __init__(self, staging: Staging, evidence: Evidence, loads: Loads) -> None:
        self._staging, self._evidence, self._loads = staging, evidence, loads
        self.problems: list[Problem] = []
        self._recipes = {(one.pipeline, one.recipe): one for of in evidence.declared.values() for one in of}
        self._recomputed: dict[tuple[str, str], dict[int, Decision]] = {}
        for decision in evidence.decisions:
            if decision.kind in (RECOMPUTE, REDRIVE) and decision.pipeline and decision.batch_id:
                of_batch = self._recomputed.setdefault((decision.pipeline, decision.batch_id), {})
                of_batch[decision.payload["generation"]] = decision
        keys = {*evidence.commits, *self._recomputed, *(key[:2] for key in evidence.uncommitted)}
        keys |= {(pipeline, batch_id) for (pipeline, _), held in loads.held.items() for batch_id in held}
        self._pipelines: dict[str, list[str]] = {}
        for pipeline, batch_id in sorted(keys):
            self._pipelines.setdefault(batch_id, []).append(pipeline)
        self._uncommitted: dict[tuple[str, str], dict[int, tuple[PartRecord, ...]]] = {}
        for (pipeline, batch_id, number), parts in evidence.uncommitted.items():
            self._uncommitted.setdefault((pipeline, batch_id), {})[number] = parts

    def of(self, landed: Landed) -> list[Made]:
        """The batch's generations by pipeline and number. Raises what reading a commit record raises."""
        pipelines = self._pipelines.get(landed.plan.batch_id, ())
        return [made for pipeline in pipelines for made in self._of(pipeline, landed)]

    def _of(self, pipeline: str, landed: Landed) -> Iterable[Made]:
        key = (pipeline, landed.plan.batch_id)
        commits, uncommitted = self._evidence.commits.get(key, {}), self._uncommitted.get(key, {})
        recomputed = self._recomputed.get(key, {})
        taken: set[str] = set()
        numbers = sorted({*commits, *uncommitted, *recomputed})
        for number in numbers:
            if number in commits:
                record, parts = self._committed(commits[number], landed)
            else:
                record, parts = self._uncommitted_one(pipeline, number, uncommitted.get(number, ()), landed)
            decided = recomputed.get(number)
            if decided is not None and record.recipe == UNKNOWN:
                record = replace(record, recipe=decided.payload["recipe"])
            plain = str(decided.payload["inputs"]) if decided else inputs(record.recipe, landed.plan)
            if plain in taken or record.recipe == UNKNOWN:
                plain = digest([*key, number])
            taken.add(plain)
            yield Made(record, plain, parts)
        yield from self._reserved(pipeline, landed, max(numbers, default=0))

    def _committed(self, path: str, landed: Landed) -> tuple[GenerationRecord, tuple[PartRecord, ...]]:
        found = reading.committed(self._staging, path, landed.plan.stream)
        record = GenerationRecord(
            pipeline=found.pipeline,
            batch_id=found.batch_id,
            generation=found.number,
            recipe=found.recipe,
            state=GenerationState.VALIDATED,
            digest=found.digest,
            accounting=found.accounting,
        )
        if self._loaded(record, found.parts):
            record = replace(record, state=GenerationState.LOADED)
        return record, found.parts

    def _loaded(self, record: GenerationRecord, parts: tuple[PartRecord, ...]) -> bool:
        """Whether every table that its recipe declares holds the generation or a later one."""
        tables = self._tables(record.pipeline, record.recipe)
        for table in tables:
            load = self._loads.held[record.pipeline, table].get(record.batch_id)
            if load is None or load.generation < record.generation:
                return False
            if load.generation == record.generation and load.digest != tabled(record, parts)[table.kind][0]:
                self.problems.append(
                    Problem(
                        f"{table.target.path}, table {table.target.table}",
                        f"Generation {load.generation} of batch {record.batch_id} is recorded with other content than "
                        f"staging has.",
                        "`eventlog fsck` says more; clear its run from plan.",
                    )
                )
                return False
        return bool(tables)

    def _tables(self, pipeline: str, recipe: str) -> tuple[TableOf, ...]:
        known = self._loads.tables.get(pipeline, {})
        newest = next(reversed(known.values()), ())
        return known.get(recipe, newest)

    def _uncommitted_one(
        self, pipeline: str, number: int, parts: tuple[PartRecord, ...], landed: Landed
    ) -> tuple[GenerationRecord, tuple[PartRecord, ...]]:
        recipes = {part.recipe for part in parts}
        recipe = recipes.pop() if len(recipes) == 1 else UNKNOWN
        batch_id = landed.plan.batch_id
        record = GenerationRecord(pipeline, batch_id, number, recipe, GenerationState.PLANNED, None, None)
        written = self._recipes.get((pipeline, recipe))
        typed = {part.range for part in parts if part.kind == TYPED}
        if written is None or typed != set(landed.plan.slices):
            return record, parts
        rules = rules_of(written)
        try:
            figures = self._figures(rules, landed, parts)
        except (AccountingError, CheckDefinitionError):
            return record, parts
        whole = replace(record, state=GenerationState.LOADED, digest=rows_digest(parts), accounting=figures)
        if any(
            load is not None and load.generation == number
            for table in self._tables(pipeline, recipe)
            if (load := self._loads.held[pipeline, table].get(batch_id))
        ) and self._loaded(whole, parts):
            what = f"The commit record of generation {number} of batch {batch_id}, which is loaded, is missing."
            mend = "`eventlog fsck --repair` publishes it again."
            self.problems.append(Problem(f"pipeline {pipeline}", what, mend))
            return whole, parts
        if gate.held(rules, PlannedBatch(landed.plan, number, "replay"), figures) is not None:
            record = replace(record, state=GenerationState.HELD, accounting=figures)
        return record, parts

    def _figures(self, rules: Pipeline, landed: Landed, parts: tuple[PartRecord, ...]) -> dict[str, Any]:
        figures = figures_of(rules, landed.slices, parts)
        typed = {part.range: part for part in parts if part.kind == TYPED}
        if not rules.batch_checks or not typed:
            return figures
        files = [self._staging.open(typed[r].file.path, typed[r].file) for r in landed.plan.slices]
        return measuring.measured(rules, figures, files, partfile.read_schema(files[0]))

    def _reserved(self, pipeline: str, landed: Landed, newest: int) -> Iterable[Made]:
        """A number that a table holds and staging knows nothing of, so that no other generation ever gets it."""
        batch_id = landed.plan.batch_id
        tables = {table: held.get(batch_id) for (of, table), held in self._loads.held.items() if of == pipeline}
        highest = max((load.generation for load in tables.values() if load is not None), default=0)
        if highest <= newest:
            return
        where = next(t for t, load in tables.items() if load is not None and load.generation == highest)
        what = f"It holds generation {highest} of batch {batch_id}, of which nothing is in staging."
        mend = "Clear the batch's run from plan: it is derived and loaded again as the next generation."
        self.problems.append(Problem(f"{where.target.path}, table {where.target.table}", what, mend))
        record = GenerationRecord(pipeline, batch_id, highest, UNKNOWN, GenerationState.PLANNED, None, None)
        yield Made(record, digest([pipeline, batch_id, highest]))


def rules_of(written: Declared) -> Pipeline:
    """A pipeline with the checks and limits of a written declaration, for validation; nothing else of it is real."""
    said: Mapping[str, Any] = written.declaration
    return Pipeline(
        written.pipeline,
        stream=Stream(said["stream"]["topic"], name=written.stream),
        outputs=[Rows(DuckDB("none", table="none"))],
        checks=[Check(**check) for check in said["checks"]],
        batch_checks=batch_checks(said.get("batch_checks")),
        max_quarantine_ratio=said["max_quarantine_ratio"],
    )
