"""The ledger in SQL: one method a decision, one transaction a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from airflow_provider_eventlog.core.errors import StagingNotSharedError
from airflow_provider_eventlog.core.ledger import (
    bindings,
    chain,
    decisions,
    folds,
    near,
    progress,
    rivals,
    schema,
    waiting,
)
from airflow_provider_eventlog.core.ledger.backend import Database
from airflow_provider_eventlog.core.ledger.planning import SqlPlanning
from airflow_provider_eventlog.core.ledger.upkeep import SqlAudit, repoint_part, repoint_slice
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, RunPlan
from airflow_provider_eventlog.core.protocols import (
    BatchState,
    Decision,
    EpochRecord,
    FoldLog,
    FoldRecord,
    GenerationRecord,
    GenerationState,
    PartRecord,
    RunBinding,
    SliceRecord,
)


class SqlLedger:
    """`core.protocols.Ledger` over a database that `connect.open_ledger` has prepared; safe to share by threads.

    Every method may raise LedgerUnavailableError: the database is locked beyond the deadline, full or gone. A
    method that raises has changed nothing; where the connection to a server is lost during the commit itself, only
    calling it again tells, and every method may be called again. Each read method sees one state of the ledger.
    """

    def __init__(self, database: Database, ledger_id: str) -> None:
        self.engine = database.engine
        self._reading, self._writing = database.reading, database.writing
        self._ledger_id = ledger_id

    @property
    def ledger_id(self) -> str:
        """The ledger's own id, made when it was created."""
        return self._ledger_id

    def check_staging(self, root: str, root_id: str) -> None:
        """Record the staging root at first use; afterwards raise StagingNotSharedError for another id."""
        with self._reading.connect() as connection:
            known = _staging(connection)
        if known is None:
            values = [{"key": "staging_root", "value": root}, {"key": "staging_id", "value": root_id}]
            with self._writing.begin() as connection:
                rivals.add(connection, schema.meta, values)
                known = _staging(connection) or (root, root_id)
        if known[1] != root_id:
            raise StagingNotSharedError(
                f"This worker sees the staging root {root} with id {root_id}, but the ledger was begun with "
                f"{known[0]}, id {known[1]}: it is another store, or its id file was lost. Mount or configure the same "
                f"staging root on every worker ([eventlog] staging_root), or use another ledger for another root. "
                f"Nothing was changed."
            )

    def planning(self, stream: str, declaration: str | None) -> SqlPlanning:
        """Open the one planning transaction of a stream: a context manager; commits on success, else rolls back.

        A declaration of None leaves the one of a known stream as it is.
        """
        return SqlPlanning(self._writing, stream, declaration)

    def streams(self) -> tuple[tuple[str, str], ...]:
        """(name, declaration at its last plan) of all streams, by name."""
        query = select(schema.stream.c.name, schema.stream.c.declaration).order_by(schema.stream.c.name)
        with self._reading.connect() as connection:
            return tuple((name, declaration) for name, declaration in connection.execute(query))

    def epochs(self, stream: str) -> tuple[EpochRecord, ...]:
        """The stream's epochs in order; empty if it was never planned."""
        with self._reading.connect() as connection:
            return chain.epochs(connection, stream)

    def run(self, run_key: str, pipeline: str) -> RunBinding | None:
        """What a run is bound to."""
        with self._reading.connect() as connection:
            return bindings.find(connection, run_key, pipeline)

    def runs(self, pipeline: str | None = None, limit: int | None = None) -> tuple[RunBinding, ...]:
        """The newest `limit` runs of one pipeline or of all, in the order of their first binding."""
        with self._reading.connect() as connection:
            return bindings.newest(connection, pipeline, limit)

    def run_plan(self, run_key: str, pipeline: str) -> RunPlan:
        """The bound run in full; raises RunNotPlannedError."""
        with self._reading.connect() as connection:
            return bindings.plan(connection, run_key, pipeline)

    def batch(self, batch_id: str) -> tuple[BatchPlan, BatchState]:
        """A batch's plan and state; raises KeyError."""
        with self._reading.connect() as connection:
            return chain.batches_by_id(connection, [batch_id])[batch_id]

    def batches(self, stream: str, epoch: int | None = None) -> tuple[tuple[BatchPlan, BatchState], ...]:
        """Batches of a stream: chain batches in chain order, then off-chain ones by id."""
        with self._reading.connect() as connection:
            return chain.batches(connection, stream, epoch)

    def cuts(self, stream: str, epoch: int) -> tuple[Cut, ...]:
        """Cuts in order of their instants."""
        with self._reading.connect() as connection:
            return chain.cuts(connection, stream, epoch)

    def totals(self, stream: str, epoch: int | None = None) -> tuple[int, int]:
        """How many batches an epoch, or the whole stream, has, and how many offsets they have together."""
        with self._reading.connect() as connection:
            return near.totals(connection, stream, epoch)

    def holes(self, stream: str, epoch: int) -> tuple[tuple[Cut, Cut, tuple[OffsetRange, ...]], ...]:
        """Segments that no chain batch has taken, each with its offsets that off-chain batches do not have either."""
        with self._reading.connect() as connection:
            return near.holes(connection, stream, epoch)

    def standing(self, pipeline: str, stream: str) -> Mapping[GenerationState, int]:
        """How many of a stream's batches have a newest generation of the pipeline in each state."""
        with self._reading.connect() as connection:
            return near.standing(connection, stream, pipeline)

    def newest_offsets(self, stream: str, epoch: int) -> Mapping[int, int] | None:
        """The offsets of an epoch's newest cut by partition; None before the first."""
        with self._reading.connect() as connection:
            newest = near.newest_cut(connection, stream, epoch)
        return None if newest is None else newest.offsets

    def waiting_offsets(self, pipeline: str, stream: str, epoch: int) -> int:
        """How many offsets are in chain batches that the pipeline has not taken and whose raw files still stand."""
        with self._reading.connect() as connection:
            return waiting.offsets(connection, stream, epoch, pipeline)

    def bounds(self, batch_id: str) -> tuple[Cut | None, Cut | None]:
        """The cuts at both ends of a chain batch, (None, None) for an off-chain batch; raises KeyError."""
        with self._reading.connect() as connection:
            return chain.bounds(connection, batch_id)

    def decide(self, decision: Decision) -> None:
        """Keep a decision; the same one again is nothing new."""
        with self._writing.begin() as connection:
            decisions.keep(connection, decision)

    def decisions(self, stream: str, kind: str | None = None, batch_id: str | None = None) -> tuple[Decision, ...]:
        """Decisions about a stream, of one kind or all, about one batch or any, by time and id."""
        with self._reading.connect() as connection:
            return decisions.find(connection, stream, kind, batch_id)

    def unwritten(self, stream: str) -> tuple[Decision, ...]:
        """Decisions about a stream of which `written` was not told, by time and id."""
        with self._reading.connect() as connection:
            return decisions.unwritten(connection, stream)

    def written(self, ids: Iterable[str]) -> None:
        """Note that the records of decisions stand in staging."""
        with self._writing.begin() as connection:
            decisions.written(connection, ids)

    def audit(self, stream: str) -> SqlAudit:
        """The stream in bulk, read only."""
        return SqlAudit(self._reading, stream)

    def repoint_slice(self, batch_id: str, record: SliceRecord, manifest_digest: str | None) -> None:
        """Let a landed slice name another file with the same rows, and a sealed batch the manifest that says so.

        Raises ContentMismatchError for other rows.
        """
        with self._writing.begin() as connection:
            repoint_slice(connection, batch_id, record, manifest_digest)

    def repoint_part(self, pipeline: str, batch_id: str, generation: int, part: PartRecord) -> None:
        """Let a generation name another file with the same rows; raises ContentMismatchError for other rows."""
        with self._writing.begin() as connection:
            repoint_part(connection, pipeline, batch_id, generation, part)

    def coverage(self, stream: str, epoch: int, *, landed: bool = False) -> tuple[OffsetRange, ...]:
        """Planned ranges, or only what of them is landed; sorted, merged where they touch."""
        with self._reading.connect() as connection:
            return chain.coverage(connection, stream, epoch, landed=landed)

    def unlanded(self, stream: str, epoch: int, ends: Mapping[int, int]) -> tuple[OffsetRange, ...]:
        """What lies between the epoch's first cut and the ends of its log and is not landed, sorted and merged.

        A partition that no cut knows is wanted from offset 0. Without a cut it is what is planned and not landed.
        """
        with self._reading.connect() as connection:
            return near.unlanded(connection, stream, epoch, ends)

    def losses(self, stream: str, epoch: int) -> tuple[OffsetRange, ...]:
        """Offsets that were landed as lost, sorted, merged where they touch."""
        with self._reading.connect() as connection:
            return chain.losses(connection, stream, epoch)

    def record_slice(self, batch_id: str, record: SliceRecord) -> SliceRecord:
        """Record a landed slice once; returns the recorded one.

        Raises ContentMismatchError for other content, AccountingError for a slice that is not planned or whose
        numbers do not balance.
        """
        with self._writing.begin() as connection:
            return progress.record_slice(connection, batch_id, record)

    def slices(self, batch_id: str) -> tuple[SliceRecord, ...]:
        """Landed slices of a batch, by partition and start."""
        with self._reading.connect() as connection:
            return progress.landed(connection, batch_id)

    def seal_batch(self, batch_id: str, manifest_digest: str) -> None:
        """Mark a batch landed; raises ContentMismatchError for another digest, NotReadyError, KeyError."""
        with self._writing.begin() as connection:
            progress.seal(connection, batch_id, manifest_digest)

    def register_pipeline(self, pipeline: str, stream: str, recipe: str, declaration: str) -> None:
        """Keep the pipeline's declaration under its recipe, and make it the pipeline's current one."""
        registered = (pipeline, stream, recipe, declaration)
        # Every plan registers, and nearly always what stands: a look spares the write lock and the disk.
        with self._reading.connect() as connection:
            if registered in _pipelines(connection, pipeline):
                return
        with self._writing.begin() as connection:
            rivals.put(connection, schema.pipeline, {"name": pipeline}, {"stream": stream, "recipe": recipe})
            key = {"pipeline": pipeline, "recipe": recipe}
            rivals.put(connection, schema.recipe, key, {"stream": stream, "declaration": declaration})

    def pipelines(self) -> tuple[tuple[str, str, str, str], ...]:
        """(pipeline, stream, current recipe, declaration) of all registered pipelines, by name."""
        with self._reading.connect() as connection:
            return _pipelines(connection)

    def generation(self, pipeline: str, batch_id: str, generation: int) -> GenerationRecord:
        """One generation; raises KeyError."""
        with self._reading.connect() as connection:
            return progress.find_generation(connection, pipeline, batch_id, generation)

    def generations(self, pipeline: str, batch_id: str | None = None) -> tuple[GenerationRecord, ...]:
        """Generations of a pipeline, of one batch or of all, in order of batch and number."""
        with self._reading.connect() as connection:
            return progress.generations(connection, pipeline, batch_id)

    def record_part(self, pipeline: str, batch_id: str, generation: int, part: PartRecord) -> PartRecord:
        """Record a derived file once; raises ContentMismatchError for other content, KeyError."""
        with self._writing.begin() as connection:
            return progress.record_part(connection, pipeline, batch_id, generation, part)

    def parts(self, pipeline: str, batch_id: str, generation: int) -> tuple[PartRecord, ...]:
        """Parts of a generation by kind, partition and start."""
        with self._reading.connect() as connection:
            return progress.parts(connection, pipeline, batch_id, generation)

    def advance_generation(
        self,
        pipeline: str,
        batch_id: str,
        generation: int,
        state: GenerationState,
        *,
        digest: str | None = None,
        accounting: Mapping[str, Any] | None = None,
    ) -> None:
        """Move a generation's state forward (held may become validated); a state behind it changes nothing.

        Raises ContentMismatchError for a digest other than the recorded one, KeyError.
        """
        with self._writing.begin() as connection:
            progress.advance(connection, pipeline, batch_id, generation, state, digest, accounting)

    def open_fold_log(self, log: FoldLog) -> FoldLog:
        """Open a log once; returns the one that stands under its number."""
        with self._writing.begin() as connection:
            return folds.open_log(connection, log)

    def fold_logs(self, pipeline: str, output: str) -> tuple[FoldLog, ...]:
        """An output's logs in order."""
        with self._reading.connect() as connection:
            return folds.logs(connection, pipeline, output)

    def record_fold(self, record: FoldRecord) -> FoldRecord:
        """Record fold n once, if n is the next of its log; returns the one that stands at n, which may be another's.

        Raises AccountingError for an n that leaves a gap, KeyError for a log that is not open.
        """
        with self._writing.begin() as connection:
            return folds.record(connection, record)

    def folds(self, pipeline: str, output: str, log: int, after: int = 0) -> tuple[FoldRecord, ...]:
        """Folds of a log with a number above `after`, in order."""
        with self._reading.connect() as connection:
            return folds.after(connection, pipeline, output, log, after)

    def folds_about(self, pipeline: str, output: str, log: int, batch_id: str) -> tuple[FoldRecord, ...]:
        """The folds of a log that a batch entered by, in order."""
        with self._reading.connect() as connection:
            return folds.about(connection, pipeline, output, log, batch_id)

    def chain_from(self, stream: str, epoch: int, instant: int, limit: int = 1) -> tuple[BatchPlan, ...]:
        """The first `limit` chain batches that begin at `instant` or later, in chain order."""
        with self._reading.connect() as connection:
            return folds.chain_from(connection, stream, epoch, instant, limit)

    def newest_instant(self, stream: str, epoch: int) -> int | None:
        """The instant of an epoch's newest cut; None before the first."""
        with self._reading.connect() as connection:
            return folds.newest_instant(connection, stream, epoch)

    def last_fold(self, pipeline: str, output: str, log: int) -> FoldRecord | None:
        """The newest fold of a log."""
        with self._reading.connect() as connection:
            return folds.last(connection, pipeline, output, log)

    def close(self) -> None:
        """Release connections; safe to call twice."""
        self.engine.dispose()


def _staging(connection: Connection) -> tuple[str, str] | None:
    query = select(schema.meta.c.key, schema.meta.c.value).where(schema.meta.c.key.in_(["staging_root", "staging_id"]))
    known = {key: value for key, value in connection.execute(query)}  # noqa: C416
    return (known["staging_root"], known["staging_id"]) if known else None


def _pipelines(connection: Connection, name: str | None = None) -> tuple[tuple[str, str, str, str], ...]:
    p, r = schema.pipeline, schema.recipe
    query = (
        select(p.c.name, p.c.stream, p.c.recipe, r.c.declaration)
        .join_from(p, r, (r.c.pipeline == p.c.name) & (r.c.recipe == p.c.recipe))
        .order_by(p.c.name)
    )
    if name is not None:
        query = query.where(p.c.name == name)
    return tuple((one, stream, recipe, text) for one, stream, recipe, text in connection.execute(query))
