"""Advancing: fold every consecutive validated batch, whichever run comes by; nobody waits for anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.folding import frontier, head, logs
from airflow_provider_eventlog.core.folding.applying import apply_changes
from airflow_provider_eventlog.core.folding.frontier import Enter, Pass, Wait
from airflow_provider_eventlog.core.folding.partials import window_plan
from airflow_provider_eventlog.core.folding.step import Stepper
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, GenerationRecord
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import duckdb

# Another attempt that was quicker shows in the log at once; so often in vain there is none.
_REFUSED = 5
_LATE = ("late", "late_pairs", "corrected_late", "late_gone")
_TOLD = ("rows", "placed", "outside", *_LATE, "windows", "final", "amended", "deleted", "kept")


def advance(engine: Engine, pipeline: Pipeline, output: Windows, batches: Sequence[BatchPlan] = ()) -> dict[str, Any]:
    """Fold all that can be folded into an output's windows, and bring its table up to the log.

    batches  what the run that comes by has loaded: those that are not at the frontier enter too, where they stand
             outside of the chain, or take the place of an earlier generation of theirs

    Any number of processes may do this at once; the ledger decides on each number. Raises the errors of folding,
    staging and target; folds that stand stay, and a retry goes on. The report as JSON: `folded`, `applied`, `waiting`
    (what the frontier waits for, or None), `watermark`.
    """
    log = logs.of_output(engine, pipeline, output)
    if log is None:
        waiting = "the first interval of the schedule; the windows begin there"
        return {"outcome": "waiting", "folded": [], "applied": 0, "waiting": waiting, "watermark": None}
    with session(threads=1) as connection:
        plan = window_plan(connection, pipeline, output)
        made: list[FoldRecord] = []
        refused: dict[tuple[int, int], int] = {}
        while True:
            log = logs.newest(engine, pipeline.name, output.name) or log
            stepper = _stepper(engine, pipeline, output, log, plan, connection)
            done, waiting = _fold_on(stepper, batches, made)
            if done:
                break
            at = (log.log, stepper.head.n)
            refused[at] = refused.get(at, 0) + 1
            if refused[at] > _REFUSED:
                raise AccountingError(
                    f"Output {output.name!r} of pipeline {pipeline.name!r}: the ledger takes no fold behind number "
                    f"{at[1]} of log {at[0]}, and has none. It was edited; rebuild it (eventlog ledger rebuild)."
                )
        applied = apply_changes(engine, pipeline, output, plan, log)
    mark = stepper.head.watermark
    return {
        "outcome": "folded" if made else "waiting" if waiting else "nothing",
        "folded": [{"n": r.n, "cause": r.cause, "batch_id": r.about, **_told(r)} for r in made],
        "applied": applied,
        "waiting": waiting or None,
        "watermark": None if mark is None else when(mark),
    }


def _stepper(
    engine: Engine,
    pipeline: Pipeline,
    output: Windows,
    log: FoldLog,
    plan: WindowPlan,
    connection: duckdb.DuckDBPyConnection,
) -> Stepper:
    last = engine.ledger.last_fold(log.pipeline, log.output, log.log)
    at = logs.begin(pipeline, log) if last is None else head.after(log, last)
    if last is not None:
        # Its attempt may have been killed before it wrote the record down.
        logs.write_down(engine, pipeline.stream.name, last)
    before = head.state_of(engine, connection, plan, log, at.n)
    return Stepper(engine, pipeline.stream.name, pipeline.name, output, plan, connection, at, before)


def _fold_on(stepper: Stepper, batches: Sequence[BatchPlan], made: list[FoldRecord]) -> tuple[bool, str]:
    """Fold until the frontier waits; (False, "") where another attempt was quicker and the log must be read again."""
    engine, pipeline = stepper.engine, stepper.pipeline
    for batch in _apart(stepper, batches):
        ready = frontier.newest(engine, stepper.stream, stepper.head.log, batch.batch_id)
        entered = engine.ledger.folds_about(pipeline, stepper.output.name, stepper.head.log.log, batch.batch_id)
        known = [int(f.accounting["generation"]) for f in entered if "generation" in f.accounting]
        if ready is None or (known and max(known) >= ready.generation):
            continue
        if not _keep(stepper, batch, ready, made, corrects=bool(known)):
            return False, ""
    while True:
        engine.check_cancelled()
        if _behind(stepper):
            return False, ""
        found = frontier.next_of(engine, stepper.stream, stepper.head)
        if isinstance(found, Wait):
            return True, found.why
        record = _take(stepper, found)
        if record is None:
            return False, ""
        _note(stepper, record, made)


def _behind(stepper: Stepper) -> bool:
    """Whether others have folded on: what would be made now might be of other inputs, and its files nobody's."""
    at = stepper.head
    last = stepper.engine.ledger.last_fold(at.log.pipeline, at.log.output, at.log.log)
    return last is not None and last.n != at.n


def _take(stepper: Stepper, found: Enter | Pass) -> FoldRecord | None:
    if isinstance(found, Pass):
        return stepper.skip(found)
    return stepper.enter(found.batch, found.generation, moves=True)


def _keep(
    stepper: Stepper, batch: BatchPlan, ready: GenerationRecord, made: list[FoldRecord], *, corrects: bool
) -> bool:
    record = stepper.correct(batch, ready) if corrects else stepper.enter(batch, ready, moves=False)
    if record is not None:
        _note(stepper, record, made)
    return record is not None


def _note(stepper: Stepper, record: FoldRecord, made: list[FoldRecord]) -> None:
    logs.write_down(stepper.engine, stepper.stream, record)
    made.append(record)
    stepper.engine.progress(f"folds of {record.output}", record.n, record.n)


def _apart(stepper: Stepper, batches: Sequence[BatchPlan]) -> list[BatchPlan]:
    """Batches that enter otherwise than at the frontier: those outside of the chain, and those that it has passed.

    Before the first fold also what was loaded outside of the chain earlier, so that nothing of it is late.
    """
    at, engine = stepper.head, stepper.engine
    chosen = list(batches)
    if at.n == 0:
        taken = {g.batch_id for g in engine.ledger.generations(stepper.pipeline)}
        known = {b.batch_id for b in chosen}
        stored = [b for b, _ in engine.ledger.batches(stepper.stream) if b.batch_id in taken - known]
        chosen += [b for b in stored if b.kind != "chain"]
    return [b for b in chosen if b.to_instant is None or (b.epoch, b.to_instant) <= (at.epoch, at.instant)]


def _told(record: FoldRecord) -> dict[str, Any]:
    return {name: record.accounting[name] for name in _TOLD if name in record.accounting}
