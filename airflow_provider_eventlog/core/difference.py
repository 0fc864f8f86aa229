"""The replay laboratory: what the current recipe would make of a batch's staged records, against what was made of them.

Nothing is published and nothing recorded: rows are derived into a scratch folder, compared there, and thrown away.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import gate, landing, quarantine, retention, validating
from airflow_provider_eventlog.core.checks import measuring
from airflow_provider_eventlog.core.comparing import KINDS, Comparer, Sides, comparer
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import NotReadyError, RequestError, StagingMissingError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import BatchPlan, PlannedBatch
from airflow_provider_eventlog.core.protocols import (
    GenerationRecord,
    GenerationState,
    PartRecord,
    SliceRecord,
    StagedFile,
)
from airflow_provider_eventlog.core.rawfile import reading
from airflow_provider_eventlog.core.transforming import TYPE_KEY, TransformResult, transform_slice
from airflow_provider_eventlog.core.verdicts import declared_checks, verdicts
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import pyarrow as pa

# What was published comes first; a batch of which nothing was is compared with what the gate has stopped.
_PUBLISHED = (GenerationState.LOADED, GenerationState.VALIDATED, GenerationState.HELD)


def difference(
    engine: Engine, pipeline: Pipeline, batch_id: str, *, limit: int = 10, scratch: Path | None = None
) -> dict[str, Any]:
    """Derive a batch again under `pipeline` as it is now, and compare with its published generation; JSON values.

    limit    up to so many examples of each kind: only before, only after, changed
    scratch  folder for files that are removed at the end; default: the system's

    Neither ledger, staging, targets nor Kafka are changed or, but for ledger and staging, looked at. Memory is that of
    one slice. Raises RequestError for a batch that the pipeline's stream does not have, NotReadyError for one of which
    no generation has come to validation, RawExpiredError and StagingMissingError where retention has let go what is
    needed, StagingCorruptError, and the errors of the transform.
    """
    batch, published = _published(engine, pipeline, batch_id)
    slices = landing.verified_slices(engine, batch)
    parts = engine.ledger.parts(pipeline.name, batch_id, published.generation)
    made: list[PartRecord] = []
    with tempfile.TemporaryDirectory(prefix="eventlog-diff-", dir=scratch) as folder:
        with comparer(Path(folder), limit) as comparing:
            schemas = _compare(engine, pipeline, batch, published, slices, parts, made, comparing, Path(folder))
        figures = validating.figures_of(pipeline, slices, tuple(made))
        kept = [_kept(Path(folder), number) for number in range(len(slices) if pipeline.batch_checks else 0)]
        figures = measuring.measured(pipeline, figures, kept)
    found = comparing.found
    rows = {kind: found.rows[kind] for kind in (*KINDS, "equal")}
    both = rows["changed"] + rows["equal"]
    reasons = [{"code": code, "check": check, **told} for (code, check), told in sorted(found.reasons.items())]
    return {
        "pipeline": pipeline.name,
        "stream": batch.stream,
        "batch_id": batch_id,
        "generation": published.generation,
        "state": published.state.value,
        "recipe": {
            "before": published.recipe,
            "after": pipeline.recipe,
            "same": published.recipe == pipeline.recipe,
        },
        "rows": {"before": both + rows["only_before"], "after": both + rows["only_after"], **rows},
        "changed_columns": dict(sorted(found.columns.items())),
        "schema": _schema_differences(schemas),
        "quarantine": {
            "before": dict((published.accounting or {}).get("quarantine", {})),
            "after": figures.get("quarantine", {}),
            "reasons": reasons,
        },
        "checks": _checks(engine, pipeline, batch, published, figures),
        "gate": _gate(engine, pipeline, batch, published, figures),
        "accounting": {"before": _counts(published.accounting), "after": figures["transform"]},
        "examples": found.examples,
        "notes": _notes(pipeline, published),
    }


def _published(engine: Engine, pipeline: Pipeline, batch_id: str) -> tuple[BatchPlan, GenerationRecord]:
    stream = pipeline.stream.name
    try:
        batch, _ = engine.ledger.batch(batch_id)
    except KeyError:
        batch = None
    if batch is None or batch.stream != stream:
        raise RequestError(
            f"Stream {printable(stream)} has no batch {printable(batch_id, 80)}; `eventlog batches --pipeline "
            f"{pipeline.name}` shows which there are."
        )
    known = engine.ledger.generations(pipeline.name, batch_id)
    for state in _PUBLISHED:
        if found := [g for g in known if g.state is state]:
            return batch, found[-1]
    raise NotReadyError(
        f"Pipeline {pipeline.name!r} has no validated, loaded or held generation of batch {batch_id} to compare with; "
        f"run it first, or see with `eventlog plan` what a run would take."
    )


def _compare(
    engine: Engine,
    pipeline: Pipeline,
    batch: BatchPlan,
    published: GenerationRecord,
    slices: Sequence[SliceRecord],
    parts: Sequence[PartRecord],
    made: list[PartRecord],
    comparing: Comparer,
    scratch: Path,
) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Derive and compare slice by slice; what was derived is told in `made`, its files are gone then."""
    recorded = {(p.kind, p.range): p for p in parts}
    of = (batch.stream, pipeline.name, batch.batch_id, published.generation)
    done, total, schemas = 0, sum(len(s.range) for s in slices), []
    for number, landed in enumerate(slices):
        engine.check_cancelled()
        typed = recorded.get((TYPED, landed.range))
        if typed is None:
            raise NotReadyError(f"Generation {published.generation} has no rows of {landed.range.people}.")
        stopped = recorded.get((quarantine.KIND, landed.range))
        before = _opened(engine, of, typed)
        stopped_before = None if stopped is None else _opened(engine, of, stopped)
        raw = retention.open_raw(engine, batch.stream, batch.batch_id, landed)
        result = transform_slice(pipeline, raw)
        made += _parts(pipeline, landed, result)
        schemas.append((_types(_schema(before)), _types(result.table.schema)))
        # Rows stay for checks of the batch as a whole; without any, a slice's take the place of the last one's.
        after = _written(_kept(scratch, number if pipeline.batch_checks else 0), result.table)
        stopped_after = None
        if result.stopped is not None:
            stopped_after = _written(scratch / "stopped.parquet", result.stopped.table())
        # The rows are on disk: the comparison need not share memory with them.
        del result
        comparing.add(Sides(before, after, stopped_before, stopped_after))
        done += len(landed.range)
        engine.progress("compared offsets", done, total)
    return schemas


def _kept(scratch: Path, number: int) -> Path:
    return scratch / f"after-{number}.parquet"


def _opened(engine: Engine, of: tuple[str, str, str, int], part: PartRecord) -> Path:
    try:
        return engine.staging.open(part.file.path, part.file)
    except StagingMissingError as error:
        raise retention.missing_part(engine, *of, part.file.path) from error


def _written(path: Path, table: pa.Table) -> Path:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="none")
    return path


def _schema(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    with reading(path):
        return pq.read_schema(path)


def _types(schema: pa.Schema) -> dict[str, str]:
    """The engine's types of a part's columns, without the position."""
    return {f.name: (f.metadata or {}).get(TYPE_KEY, str(f.type).encode()).decode() for f in list(schema)[:-3]}


def _parts(pipeline: Pipeline, landed: SliceRecord, result: TransformResult) -> list[PartRecord]:
    """What the ledger would record of the slice; its files have no name."""
    none = StagedFile("", 0, "")
    found = [PartRecord(TYPED, landed.range, none, "", pipeline.recipe, result.counts, result.failures)]
    if result.stopped is not None:
        codes = dict(sorted(result.stopped.codes.items()))
        found.append(PartRecord(quarantine.KIND, landed.range, none, "", pipeline.recipe, codes))
    return found


def _schema_differences(schemas: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]) -> list[dict[str, Any]]:
    """Columns that are not the same on both sides; slices of one generation may be of several recipes."""
    found: dict[tuple[str, str | None, str | None], None] = {}
    for before, after in schemas:
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                found[name, before.get(name), after.get(name)] = None
    return [{"column": name, "before": before, "after": after} for name, before, after in found]


def _checks(
    engine: Engine, pipeline: Pipeline, batch: BatchPlan, published: GenerationRecord, figures: Mapping[str, Any]
) -> list[dict[str, Any]]:
    text = engine.ledger.audit(batch.stream).declarations(pipeline.name).get(published.recipe)
    earlier = declared_checks(json.loads(text)) if text else []
    before = {v["check"]: v for v in verdicts(earlier, published.accounting)}
    after = {v["check"]: v for v in verdicts(declared_checks(pipeline.canonical()), figures)}
    return [
        {"check": name, "before": before.get(name), "after": after.get(name)}
        for name in dict.fromkeys([*before, *after])
    ]


def _gate(
    engine: Engine, pipeline: Pipeline, batch: BatchPlan, published: GenerationRecord, figures: Mapping[str, Any]
) -> dict[str, Any]:
    held = gate.held(pipeline, PlannedBatch(batch, published.generation, "replay"), figures)
    released = gate.released(engine, pipeline, PlannedBatch(batch, published.generation, "replay"))
    return {
        "before": {"holds": published.state is GenerationState.HELD, "released": released},
        "after": {"holds": held is not None, "rule": None if held is None else type(held).__name__},
    }


def _counts(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((figures or {}).get("transform", {}))


def _notes(pipeline: Pipeline, published: GenerationRecord) -> list[str]:
    notes = []
    if published.recipe == pipeline.recipe:
        notes.append(
            "The recipe is the one that made the published generation: a difference comes from what the transform "
            "reads beside the batch, or from another version of this package or of what it builds on."
        )
    if published.state is GenerationState.HELD:
        notes.append("Nothing of this batch was published: it is compared with the generation that the gate holds.")
    if any(isinstance(output, Windows) for output in pipeline.outputs):
        notes.append("Rows are compared before they are folded into windows.")
    return notes
