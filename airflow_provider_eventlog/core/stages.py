"""The stages as plain functions over the protocols: what operators and the command line call.

plan >> land (by group) >> transform (by group) >> validate >> load. Every stage may be run again at any time, by
several processes at once: it finds what is done and does what is missing. Reports are JSON values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RawExpiredError, RecipeChangedError, RequestError, RunNotPlannedError
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, PlannedBatch, RunPlan, SliceRef, people
from airflow_provider_eventlog.core.planning.generations import RECOMPUTE
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.core.redriving.decided import REDRIVE
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_eventlog.core.redriving.decided import Redrive

# A line names so many ranges; the report has them all.
_NAMED = 20


def check(pipeline: Pipeline) -> dict[str, Any]:
    """Check SQL, checks and columns without data; returns the output columns as {name: type}.

    Raises TransformError, CheckDefinitionError, EventTimeError, WindowDefinitionError, CompletenessDefinitionError.
    """
    from airflow_provider_eventlog.core.checks.measuring import check_rules
    from airflow_provider_eventlog.core.completeness.plan import plan_of
    from airflow_provider_eventlog.core.transforming import analyze

    plan_of(pipeline)
    columns = dict(analyze(pipeline).columns)
    check_rules(pipeline)
    describe_windows(pipeline)
    return columns


def describe_windows(pipeline: Pipeline) -> list[str]:
    """One line for each windows output: which aggregates are merged, and which computed again from rows.

    Raises WindowDefinitionError, EventTimeError.
    """
    outputs = [output for output in pipeline.outputs if isinstance(output, Windows)]
    if not outputs:
        return []
    from airflow_provider_eventlog.core.folding.partials import window_plan
    from airflow_provider_eventlog.core.session import session

    with session(threads=1) as connection:
        return [window_plan(connection, pipeline, output).describe() for output in outputs]


def plan(engine: Engine, pipeline: Pipeline, request: RunRequest, run_key: str) -> RunPlan:
    """Freeze what the run takes and register the pipeline.

    The recipe is checked first: nothing is planned for a transform that cannot run. Raises what
    `check` and `planning.plan_run` raise.
    """
    from airflow_provider_eventlog.core import deciding
    from airflow_provider_eventlog.core.folding import recipes
    from airflow_provider_eventlog.core.planning import plan_run
    from airflow_provider_eventlog.core.rebuilding import declared

    check(pipeline)
    engine.check_cancelled()
    planned = engine.ledger.run(run_key, pipeline.name) is not None
    recipes.refuse_change(engine, pipeline, bound=planned)
    chosen = redrives(engine, pipeline, request, run_key)
    left: list[tuple[BatchPlan, int]] = []
    if request.mode == "resume" and not planned:
        from airflow_provider_eventlog.core import resuming

        resuming.decide(engine, pipeline, request)
        left = resuming.left(engine, pipeline)
    made = plan_run(
        engine.ledger, lambda: engine.source(pipeline.stream), pipeline, request, run_key, engine.clock(), chosen, left
    )
    declared.register(engine, pipeline, replay=planned)
    deciding.write_down(engine, pipeline.stream.name)
    return made


def preview(engine: Engine, pipeline: Pipeline, request: RunRequest, run_key: str = "preview") -> RunPlan:
    """The plan that `plan` would make now; nothing is kept."""
    from airflow_provider_eventlog.core.folding import recipes
    from airflow_provider_eventlog.core.planning import preview_run

    check(pipeline)
    recipes.refuse_change(engine, pipeline, bound=engine.ledger.run(run_key, pipeline.name) is not None)
    chosen = redrives(engine, pipeline, request, run_key)
    left: list[tuple[BatchPlan, int]] = []
    if request.mode == "resume":
        from airflow_provider_eventlog.core import resuming

        left = resuming.left(engine, pipeline)
    return preview_run(
        engine.ledger, lambda: engine.source(pipeline.stream), pipeline, request, run_key, engine.clock(), chosen, left
    )


def redrives(engine: Engine, pipeline: Pipeline, request: RunRequest, run_key: str) -> list[Redrive]:
    """What a redrive runs again: chosen now, or what the run is bound to; nothing for another request.

    Raises what `redriving.choosing.choose` raises.
    """
    if request.mode != "redrive":
        return []
    from airflow_provider_eventlog.core.redriving import choosing

    assert request.selection is not None
    bound = engine.ledger.run(run_key, pipeline.name)
    if bound is None:
        try:
            return choosing.choose(engine, pipeline, request.selection, again=request.recompute)
        except RequestError:
            # Another attempt of this very run may have bound it since: its generations are what stands in the way.
            bound = engine.ledger.run(run_key, pipeline.name)
            if bound is None:
                raise
    return choosing.chosen(engine, pipeline.name, bound)


def land(engine: Engine, pipeline: Pipeline, run_key: str, group: int) -> dict[str, Any]:
    """Land the slices of one group, and publish the manifest of every batch that is whole by then.

    Raises the source and staging errors; what was published stays, and a retry lands the rest.
    """
    from airflow_provider_eventlog.core import accounting, landing

    bound = engine.ledger.run_plan(run_key, pipeline.name)
    refs = _group(bound, group)
    losses: list[OffsetRange] = []
    total, done, counts = sum(len(r.range) for r in refs), 0, []
    for ref in refs:
        engine.check_cancelled()
        planned = bound.batch(ref.batch_id)
        if planned.mode == REDRIVE:
            # Its records are in the quarantine; the raw file may be gone by now.
            continue
        record = landing.land_slice(engine, pipeline.stream, bound.identity, planned.batch, ref.range)
        counts.append(accounting.landing_counts(record))
        losses += record.losses
        done += len(ref.range)
        engine.progress("landed offsets", done, total)
    landed = [p.batch for p in bound.batches if p.mode != REDRIVE]
    sealed = [batch.batch_id for batch in landed if landing.seal(engine, batch, bound.identity)]
    return {
        "stage": "land",
        "group": group,
        "slices": len(refs),
        "batches_landed": sealed,
        "losses": [str(r) for r in losses],
        "accounting": accounting.total(counts, accounting.LANDING),
    }


def transform(engine: Engine, pipeline: Pipeline, run_key: str, group: int) -> dict[str, Any]:
    """Decode and transform the slices of one group into parts of their generations.

    Raises DecodeError with the first offsets, TransformError, EventTimeError, RecipeChangedError if the recipe
    is not the one that was planned.
    """
    from airflow_provider_eventlog.core import accounting, deriving

    bound = engine.ledger.run_plan(run_key, pipeline.name)
    _same_recipe(bound, pipeline)
    refs = _group(bound, group)
    total, done, counts = sum(len(r.range) for r in refs), 0, []
    for ref in refs:
        engine.check_cancelled()
        planned = bound.batch(ref.batch_id)
        counts.append(deriving.derive(engine, pipeline, planned, ref.range))
        if pipeline.completeness and planned.mode != REDRIVE:
            _count(engine, pipeline, planned, ref.range)
        done += len(ref.range)
        engine.progress("transformed offsets", done, total)
    return {
        "stage": "transform",
        "group": group,
        "slices": len(refs),
        "accounting": accounting.total(counts, accounting.TRANSFORM),
    }


def _count(engine: Engine, pipeline: Pipeline, planned: PlannedBatch, wanted: OffsetRange) -> None:
    """Count a slice for completeness here, where slices are worked on side by side; validate counts what is missing."""
    from airflow_provider_eventlog.core.completeness import plan, tally

    (record,) = (r for r in engine.ledger.slices(planned.batch.batch_id) if r.range == wanted)
    # Where the raw file has expired validate says so, if it needs the count at all.
    with suppress(RawExpiredError):
        tally.slice_tally(engine, pipeline.name, planned.batch, record, plan.plan_of(pipeline))


def validate(engine: Engine, pipeline: Pipeline, run_key: str) -> dict[str, Any]:
    """Prove every batch of the run whole and balanced, and stop it before publishing where a check says so.

    Raises NotReadyError, AccountingError, CheckFailedError (the batch is held then; nothing of the run loads).
    """
    from airflow_provider_eventlog.core import validating

    bound = engine.ledger.run_plan(run_key, pipeline.name)
    _same_recipe(bound, pipeline)
    return {"stage": "validate", "batches": validating.validate_run(engine, pipeline, bound)}


def load(engine: Engine, pipeline: Pipeline, run_key: str) -> dict[str, Any]:
    """Load every batch of the run into every output, in order; twice has the effect of once.

    Windows take what stands at their frontier, of this run or of others, and wait at a hole or at a held batch, which
    the report says. Raises NotReadyError before validation, and the errors of folding and targets of `core.errors`.
    """
    from airflow_provider_eventlog.core import loading

    bound = engine.ledger.run_plan(run_key, pipeline.name)
    _same_recipe(bound, pipeline)
    batches = []
    for index, planned in enumerate(bound.batches, 1):
        engine.check_cancelled()
        batches.append(loading.load_batch(engine, pipeline, planned))
        engine.progress("loaded batches", index, len(bound.batches))
    return {"stage": "load", "batches": batches, "windows": fold(engine, pipeline, bound)}


def fold(engine: Engine, pipeline: Pipeline, bound: RunPlan | None = None) -> dict[str, Any]:
    """Fold and load what the pipeline's windows can take; of each output what `advancing.advance` says.

    bound  the run that comes by, for batches of it that enter elsewhere than at the frontier
    """
    outputs = [output for output in pipeline.outputs if isinstance(output, Windows)]
    if not outputs:
        return {}
    from airflow_provider_eventlog.core.folding.advancing import advance

    chosen = [planned.batch for planned in bound.batches] if bound is not None else []
    return {output.name: advance(engine, pipeline, output, chosen) for output in outputs}


def unfolded(engine: Engine, pipeline: Pipeline, run_key: str, folded: Mapping[str, Any]) -> list[str]:
    """For each windows output that has not taken all batches of a run: what it waits for, for people.

    folded  what `fold` has just said. A batch that windows were let past counts as taken.
    """
    from airflow_provider_eventlog.core.folding import logs

    bound = engine.ledger.run_plan(run_key, pipeline.name)
    found = []
    for name, report in folded.items():
        log = logs.newest(engine, pipeline.name, name)
        missing = [
            planned.batch.batch_id
            for planned in bound.batches
            if log is None or not engine.ledger.folds_about(pipeline.name, name, log.log, planned.batch.batch_id)
        ]
        if missing:
            found.append(f"windows {name} have not taken batch {missing[0]}; they wait for {report['waiting']}")
    return found


def run(engine: Engine, pipeline: Pipeline, request: RunRequest, run_key: str | None = None) -> dict[str, Any]:
    """All stages in this process; a run that failed goes on where it stopped when it is asked for again.

    Without a run key it is derived from the request, so that the same request finds the same batches; what came
    since the last batch, and what is to be computed anew, is a new question each time, unless the last one is
    unfinished.
    """
    made = plan(engine, pipeline, request, run_key or _own_key(engine, pipeline, request))
    landed = [land(engine, pipeline, made.run_key, group) for group in range(len(made.groups))]
    transformed = [transform(engine, pipeline, made.run_key, group) for group in range(len(made.groups))]
    return {
        "run": describe(made),
        "land": landed,
        "transform": transformed,
        "validate": validate(engine, pipeline, made.run_key),
        "load": load(engine, pipeline, made.run_key),
    }


def windows_lines(folded: Mapping[str, Any]) -> list[str]:
    """What `fold` has done, one line an output, for people."""
    lines = []
    for name, report in folded.items():
        late = sum(fold.get("late", 0) + fold.get("corrected_late", 0) for fold in report["folded"])
        lines.append(
            f"windows {name}: {len(report['folded'])} folds, {report['applied']} change-sets loaded, watermark "
            f"{report['watermark'] or 'unknown'}"
            + (f", {late:,} rows were late" if late else "")
            + (f"; waiting for {report['waiting']}" if report["waiting"] else "")
        )
    return lines


def batch_table(engine: Engine, pipeline: Pipeline, run_key: str) -> pa.Table:
    """The decoded rows of a landed run, typed, with their meta columns; in batch, partition and offset order."""
    from airflow_provider_eventlog.core import deriving

    return deriving.decoded(engine, pipeline, engine.ledger.run_plan(run_key, pipeline.name))


def describe(made: RunPlan) -> dict[str, Any]:
    """A plan as JSON values."""
    from airflow_provider_eventlog.core.planning.words import when

    def instant(value: int | None) -> str | None:
        return None if value is None else when(value)

    return {
        "run_key": made.run_key,
        "pipeline": made.pipeline,
        "stream": made.stream,
        "epoch": made.epoch,
        "topic": {"name": made.identity.topic, "id": made.identity.topic_id, "cluster": made.identity.cluster_id},
        "recipe": made.recipe,
        "offsets": sum(p.batch.length for p in made.batches),
        "groups": len(made.groups),
        "batches": [
            {
                "batch_id": p.batch.batch_id,
                "generation": p.generation,
                "mode": p.mode,
                "kind": p.batch.kind,
                "from": instant(p.batch.from_instant),
                "to": instant(p.batch.to_instant),
                "offsets": p.batch.length,
                "ranges": [str(r) for r in p.batch.ranges],
                "slices": len(p.batch.slices),
            }
            for p in made.batches
        ],
        "notes": list(made.notes),
    }


def headline(made: RunPlan) -> str:
    """One line that says what a run takes."""
    if not made.batches:
        return f"{made.pipeline}: nothing to take. {' '.join(made.notes)}".rstrip()
    new = sum(p.mode == "new" for p in made.batches)
    offsets = sum(p.batch.length for p in made.batches)
    return (
        f"{made.pipeline}: {offsets} offsets of topic {made.identity.topic!r} in {len(made.batches)} batches "
        f"({new} new, {len(made.batches) - new} replayed), {len(made.groups)} groups. {' '.join(made.notes)}"
    ).rstrip()


def loss_headline(landed: Mapping[str, Any]) -> str | None:
    """One line that says which offsets are lost by a report of `land`; None if none is."""
    found = [OffsetRange.parse(text) for text in landed["losses"]]
    if not found:
        return None
    return (
        f"Data loss: {landed['accounting']['lost']:,} offsets had expired before they were landed and are recorded as "
        f"lost: {people(found, _NAMED)}."
    )


def _group(bound: RunPlan, group: int) -> Sequence[SliceRef]:
    if not 0 <= group < len(bound.groups):
        raise RunNotPlannedError(
            f"Run {bound.run_key!r} has {len(bound.groups)} groups, not a group {group}; clear it from plan."
        )
    return bound.groups[group]


def _same_recipe(bound: RunPlan, pipeline: Pipeline) -> None:
    if bound.batches and bound.recipe != pipeline.recipe:
        raise RecipeChangedError(
            f"Pipeline {pipeline.name!r} has another recipe ({pipeline.recipe[:12]}) than run {bound.run_key!r} was "
            f"planned under ({bound.recipe[:12]}). Clear the run from plan to derive it again."
        )


def _own_key(engine: Engine, pipeline: Pipeline, request: RunRequest) -> str:
    if request.mode in ("since_last", "resume"):
        asked = f"cli/{request.mode}/"
    elif request.recompute or request.mode == "redrive":
        asked = f"cli/{'redrive' if request.mode == 'redrive' else 'recompute'}/{request.digest()[:24]}/"
    else:
        return f"cli/{request.digest()[:24]}"
    bound = {r.run_key for r in engine.ledger.runs(pipeline.name) if r.run_key.startswith(asked)}
    # What was computed anew is told of by decisions too, which outlive the ledger.
    kinds = (RECOMPUTE, REDRIVE)
    decided = {str(d.payload["run"]) for kind in kinds for d in engine.ledger.decisions(pipeline.stream.name, kind)}
    numbers = [n for key in bound | decided if (n := key.removeprefix(asked)).isdecimal()]
    newest = max(map(int, numbers), default=0)
    key = f"{asked}{newest}"
    if key in bound and not _finished(engine, pipeline.name, engine.ledger.run_plan(key, pipeline.name).batches):
        return key
    return f"{asked}{newest + 1}"


def _finished(engine: Engine, pipeline: str, batches: Sequence[PlannedBatch]) -> bool:
    return all(
        engine.ledger.generation(pipeline, p.batch.batch_id, p.generation).state is GenerationState.LOADED
        for p in batches
    )
