"""The plan of a run: bound once, found again by every retry and clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from airflow_provider_eventlog.core import retention
from airflow_provider_eventlog.core.errors import RequestError, TopicReplacedError
from airflow_provider_eventlog.core.offsets import (
    BatchPlan,
    PlannedBatch,
    RunPlan,
    SliceRef,
    TopicIdentity,
)
from airflow_provider_eventlog.core.planning import past, rounds
from airflow_provider_eventlog.core.planning.chain import Chain
from airflow_provider_eventlog.core.planning.explicit import by_offsets
from airflow_provider_eventlog.core.planning.generations import Generations
from airflow_provider_eventlog.core.planning.observe import Observations
from airflow_provider_eventlog.core.planning.sizes import pack
from airflow_provider_eventlog.core.protocols import (
    EpochRecord,
    Ledger,
    LogSource,
    PlanningTransaction,
    RunBinding,
)
from airflow_provider_eventlog.core.redriving.decided import REDRIVE, Redrive
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare.pipeline import Pipeline


def plan_run(
    ledger: Ledger,
    source: Callable[[], LogSource],
    pipeline: Pipeline,
    request: RunRequest,
    run_key: str,
    now: int,
    redrives: Sequence[Redrive] = (),
    left: Sequence[tuple[BatchPlan, int]] = (),
) -> RunPlan:
    """Bind the run to its batches, or find what it is bound to, and give each batch this recipe's generation.

    `source` is called only for a run that is not bound yet: a cleared run needs no Kafka to be planned again, nor does
    a redrive, whose records are in `redrives`, also when it is planned again, nor a run of mode resume, whose
    generations are in `left`.
    One ledger transaction decides; a failure leaves the ledger as it was. Raises the planning errors of
    `core.errors`: TopicReplacedError, FutureIntervalError, IntervalExpiredError, OffsetsLostError,
    OffsetRangeError and what the source raises.
    """
    return _plan(ledger, source, pipeline, request, run_key, now, redrives, left, keep=True)


def preview_run(
    ledger: Ledger,
    source: Callable[[], LogSource],
    pipeline: Pipeline,
    request: RunRequest,
    run_key: str,
    now: int,
    redrives: Sequence[Redrive] = (),
    left: Sequence[tuple[BatchPlan, int]] = (),
) -> RunPlan:
    """The plan that `plan_run` would make now, with nothing kept."""
    return _plan(ledger, source, pipeline, request, run_key, now, redrives, left, keep=False)


def _plan(
    ledger: Ledger,
    source: Callable[[], LogSource],
    pipeline: Pipeline,
    request: RunRequest,
    run_key: str,
    now: int,
    redrives: Sequence[Redrive],
    left: Sequence[tuple[BatchPlan, int]],
    *,
    keep: bool,
) -> RunPlan:
    known = ledger.run(run_key, pipeline.name) is not None or request.mode in ("redrive", "resume")
    observed = None if known else Observations(source(), now, pipeline.stream.max_future_skew_ms)

    def work(tx: PlanningTransaction) -> RunPlan:
        bound = tx.bound(run_key, pipeline.name)
        if bound is not None:
            return _again(tx, pipeline, request, bound, now, redrives)
        if request.mode == "redrive":
            return _redrive(tx, pipeline, request, run_key, now, redrives)
        if request.mode == "resume":
            return _resume(tx, pipeline, request, run_key, now, left)
        assert observed is not None
        return _first(tx, observed, pipeline, request, run_key)

    made = rounds.decide(ledger, pipeline.stream, observed, work, keep=keep)
    return made if observed is None else replace(made, looked=observed.looked)


def _again(
    tx: PlanningTransaction,
    pipeline: Pipeline,
    request: RunRequest,
    bound: RunBinding,
    now: int,
    redrives: Sequence[Redrive],
) -> RunPlan:
    """The bound batches, under the recipe of now."""
    epochs = tx.epochs()
    by_id = tx.batches_by_id(batch_id for batch_id, _, _ in bound.batches)
    chosen = [(by_id[batch_id], mode) for batch_id, _, mode in bound.batches]
    number = chosen[0][0].epoch if chosen else epochs[-1].epoch
    epoch = next(e for e in epochs if e.epoch == number)
    kept = RunRequest.from_json({**bound.request, "parallelism": request.parallelism})
    before = {batch_id: generation for batch_id, generation, _ in bound.batches}
    generations = Generations(tx, pipeline.name, pipeline.recipe, bound.run_key, kept.recompute, before, now)
    if kept.mode == "resume":
        return _bind(generations, epoch, pipeline, kept, chosen, bound.notes, fixed=before)
    if kept.mode == "redrive":
        return _bind(generations, epoch, pipeline, kept, chosen, bound.notes, redrives)
    _refuse_expired(generations, pipeline, [batch for batch, _ in chosen])
    return _bind(generations, epoch, pipeline, kept, chosen, bound.notes)


def _redrive(
    tx: PlanningTransaction,
    pipeline: Pipeline,
    request: RunRequest,
    run_key: str,
    now: int,
    redrives: Sequence[Redrive],
) -> RunPlan:
    """The batches of which records are run again, from staging alone."""
    epoch = next(e for e in tx.epochs() if e.epoch == redrives[-1].batch.epoch)
    generations = Generations(tx, pipeline.name, pipeline.recipe, run_key, request.recompute, {}, now)
    records, rows = sum(one.records for one in redrives), sum(one.rows for one in redrives)
    note = f"{records:,} records with {rows:,} rows in the quarantine of {len(redrives)} batches are run again."
    return _bind(generations, epoch, pipeline, request, [(r.batch, REDRIVE) for r in redrives], (note,), redrives)


def _resume(
    tx: PlanningTransaction,
    pipeline: Pipeline,
    request: RunRequest,
    run_key: str,
    now: int,
    left: Sequence[tuple[BatchPlan, int]],
) -> RunPlan:
    """Generations that were left validated, or held and released; the windows take what they can by themselves."""
    epochs = tx.epochs()
    if not epochs:
        raise RequestError(f"Stream {pipeline.stream.name!r} was never planned: there is nothing to go on with.")
    generations = Generations(tx, pipeline.name, pipeline.recipe, run_key, False, {}, now)
    note = f"{len(left)} batches that were left before loading are loaded; windows take what they can."
    fixed = {batch.batch_id: number for batch, number in left}
    return _bind(
        generations, epochs[-1], pipeline, request, [(batch, "replay") for batch, _ in left], (note,), fixed=fixed
    )


def _first(
    tx: PlanningTransaction, observed: Observations, pipeline: Pipeline, request: RunRequest, run_key: str
) -> RunPlan:
    stream, identity = pipeline.stream, observed.topic.identity
    epoch = pin_epoch(tx, identity)
    earlier = past.of_request(tx, pipeline.name, request)
    generations = Generations(tx, pipeline.name, pipeline.recipe, run_key, request.recompute, {}, observed.now)
    if earlier is not None:
        _refuse_expired(generations, pipeline, [batch for batch, _ in earlier.batches])
        return _bind(generations, earlier.epoch, pipeline, request, earlier.batches, earlier.notes)
    chain = Chain(tx, observed, stream, epoch.epoch)
    chosen = [(b, "new" if b.batch_id in chain.created else "replay") for b in _choose(chain, pipeline, request)]
    _refuse_expired(generations, pipeline, [batch for batch, mode in chosen if mode == "replay"])
    chain.note_held()
    notes = list(chain.notes)
    if identity.weak:
        notes.append(f"Topic {stream.topic!r} has no topic id on this broker: its identity is weak.")
    return _bind(generations, epoch, pipeline, request, chosen, tuple(notes))


def _choose(chain: Chain, pipeline: Pipeline, request: RunRequest) -> list[BatchPlan]:
    if request.mode == "interval":
        return chain.interval(request)
    if request.mode == "since_last":
        return chain.since_last(pipeline.name, request.max_batches)
    return by_offsets(chain, request.ranges)


def _bind(
    generations: Generations,
    epoch: EpochRecord,
    pipeline: Pipeline,
    request: RunRequest,
    chosen: Sequence[tuple[BatchPlan, str]],
    notes: tuple[str, ...],
    redrives: Sequence[Redrive] = (),
    fixed: Mapping[str, int] | None = None,
) -> RunPlan:
    run_key, recipe = generations.run_key, generations.recipe
    wanted = {one.batch.batch_id: one for one in redrives}

    def number(batch: BatchPlan) -> int:
        if fixed is not None:
            return fixed[batch.batch_id]
        if batch.batch_id in wanted:
            return generations.redrive(wanted[batch.batch_id], request)
        return generations.allocate(batch)

    planned = tuple(PlannedBatch(batch, number(batch), mode) for batch, mode in chosen)
    groups = pack([SliceRef(p.batch.batch_id, r) for p in planned for r in p.batch.slices], request.parallelism)
    generations.tx.bind(
        RunBinding(
            run_key=run_key,
            pipeline=pipeline.name,
            mode=request.mode,
            request=request.to_json(),
            batches=tuple((p.batch.batch_id, p.generation, p.mode) for p in planned),
            groups=tuple(tuple((ref.batch_id, str(ref.range)) for ref in group) for group in groups),
            notes=notes,
        )
    )
    return RunPlan(
        run_key, pipeline.name, pipeline.stream.name, epoch.epoch, epoch.identity, recipe, planned, groups, notes
    )


def _refuse_expired(generations: Generations, pipeline: Pipeline, batches: Sequence[BatchPlan]) -> None:
    """Raise RawExpiredError for batches that would have to be derived anew from raw files that retention let go.

    A generation that exists is resumed without them; a new one could never be finished.
    """
    fresh = [b.batch_id for b in batches if generations.missing(b)]
    if not fresh:
        return
    gone = generations.tx.gone(fresh)
    if gone:
        wanted = {batch_id: gone[batch_id] for batch_id in fresh if batch_id in gone}
        raise retention.raw_error(pipeline.stream.name, wanted, " Nothing was planned.")


def pin_epoch(tx: PlanningTransaction, identity: TopicIdentity) -> EpochRecord:
    """The stream's newest epoch, opened at first sight; raises TopicReplacedError for another topic or cluster."""
    epochs = tx.epochs()
    if not epochs:
        return tx.add_epoch(identity, "first plan")
    newest = epochs[-1]
    if newest.identity != identity:
        raise TopicReplacedError(replaced(newest.identity, identity))
    return newest


def replaced(pinned: TopicIdentity, found: TopicIdentity) -> str:
    """The message for a topic that is not the one that was pinned."""
    return (
        f"The topic is another one than this stream was pinned to: pinned {pinned}, found {found}. It was deleted and "
        f"created again, or the connection points at another cluster; offsets of the two cannot be compared. Restore "
        f"the connection; or go on with the topic that is there now (eventlog adopt --pipeline FILE.py:VARIABLE "
        f"--start earliest): what was landed of the old one stays readable and can be loaded again."
    )
