"""The planning transaction: one at a time per stream, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from airflow_provider_eventlog.core.errors import AccountingError, ContentMismatchError
from airflow_provider_eventlog.core.ledger import bindings, chain, decisions, near, rivals, schema, waiting
from airflow_provider_eventlog.core.ledger.rows import plan_text
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, TopicIdentity, subtract
from airflow_provider_eventlog.core.protocols import (
    BatchState,
    Decision,
    EpochRecord,
    GenerationState,
    RunBinding,
    Waiting,
)


class SqlPlanning:
    """`core.protocols.PlanningTransaction` over the `writing` engine of a database.

    Good for one `with` block. Raises LedgerUnavailableError where the lock, the commit or a statement fails;
    nothing of the transaction is kept then.
    """

    def __init__(self, engine: Engine, stream: str, declaration: str | None) -> None:
        self._engine, self._stream, self._declaration = engine, stream, declaration
        self._open: Connection | None = None

    @property
    def _connection(self) -> Connection:
        if self._open is None:
            raise RuntimeError("A planning transaction is used inside its `with` block only.")
        return self._open

    def __enter__(self) -> Self:
        connection = self._engine.connect()
        try:
            connection.begin()
            self._lock(connection)
        except BaseException:
            connection.close()
            raise
        self._open = connection
        return self

    def __exit__(self, *exc: object) -> None:
        connection, self._open = self._connection, None
        # Closing rolls back what was not committed.
        try:
            if exc[0] is None:
                connection.commit()
        finally:
            connection.close()

    def _lock(self, connection: Connection) -> None:
        # Before anything is read: what is read afterwards no other planner of the stream changes.
        values: dict[str, Any] = {"revision": schema.stream.c.revision + 1}
        if self._declaration is not None:
            values["declaration"] = self._declaration
        rivals.put(connection, schema.stream, {"name": self._stream}, values, {"revision": 1})

    def bound(self, run_key: str, pipeline: str) -> RunBinding | None:
        """An earlier plan of the run."""
        return bindings.find(self._connection, run_key, pipeline)

    def epochs(self) -> tuple[EpochRecord, ...]:
        """Epochs of the stream in order."""
        return chain.epochs(self._connection, self._stream)

    def add_epoch(self, identity: TopicIdentity, reason: str) -> EpochRecord:
        """Open the next epoch; an identity has one, so the epoch of one that is known is returned.

        A weak identity may come back as another topic: it is known only as the newest epoch, for the same reason.
        """
        known = self.epochs()
        for record in reversed(known):
            if record.identity == identity and not (
                identity.weak and (record is not known[-1] or record.reason != reason)
            ):
                return record
        made = EpochRecord(self._stream, len(known) + 1, identity, reason)
        connection = self._connection
        connection.execute(
            insert(schema.epoch).values(
                stream=self._stream,
                epoch=made.epoch,
                cluster_id=identity.cluster_id,
                topic=identity.topic,
                topic_id=identity.topic_id,
                reason=reason,
            )
        )
        return made

    def cuts(self, epoch: int) -> tuple[Cut, ...]:
        """All cuts by instant."""
        return chain.cuts(self._connection, self._stream, epoch)

    def cuts_between(self, epoch: int, low: int, high: int) -> tuple[Cut, ...]:
        """Cuts from one instant to another, both included, in order."""
        return near.cuts(self._connection, self._stream, epoch, low, high)

    def neighbours(self, epoch: int, instant: int) -> tuple[Cut | None, Cut | None]:
        """The nearest cuts at or before `instant`, and after it."""
        return chain.neighbours(self._connection, self._stream, epoch, instant)

    def first_instant(self, epoch: int) -> int | None:
        """The instant of the first cut."""
        return near.first_instant(self._connection, self._stream, epoch)

    def newest_cut(self, epoch: int) -> Cut | None:
        """The cut with the greatest instant."""
        return near.newest_cut(self._connection, self._stream, epoch)

    def add_cut(self, epoch: int, cut: Cut) -> None:
        """Add a cut; the same cut again is nothing new.

        Raises ContentMismatchError where another cut has its instant, and AccountingError where its offsets run
        backwards over the instants.
        """
        before, after = chain.neighbours(self._connection, self._stream, epoch, cut.instant)
        where = f"stream {self._stream!r}, epoch {epoch}, instant {cut.instant}"
        if before is not None and before.instant == cut.instant:
            if before.offsets != cut.offsets:
                raise ContentMismatchError(f"A cut with other offsets stands already ({where}); a cut is made once.")
            return
        for low, high in pairwise(c for c in (before, cut, after) if c is not None):
            for partition, offset in low.offsets.items():
                if high.offsets.get(partition, offset) < offset:
                    raise AccountingError(
                        f"Cuts run backwards in partition {partition}: offset {offset} at instant {low.instant}, "
                        f"{high.offsets[partition]} at {high.instant} ({where})."
                    )
        made = self._connection.execute(
            insert(schema.cut).values(stream=self._stream, epoch=epoch, kind=cut.kind, instant=cut.instant)
        )
        assert made.inserted_primary_key is not None
        (cut_id,) = made.inserted_primary_key
        if cut.offsets:
            self._connection.execute(
                insert(schema.cut_offset),
                [
                    {"cut_id": cut_id, "partition": p, "offset": offset, "found_by": cut.found_by[p]}
                    for p, offset in sorted(cut.offsets.items())
                ],
            )

    def batches(self, epoch: int) -> tuple[BatchPlan, ...]:
        """All batches: chain batches in chain order, then off-chain ones."""
        return tuple(plan for plan, _ in chain.batches(self._connection, self._stream, epoch))

    def segments(self, epoch: int, start: int, end: int) -> tuple[BatchPlan, ...]:
        """Chain batches of which a part lies between two instants, in chain order."""
        return near.segments(self._connection, self._stream, epoch, start, end)

    def segment_around(self, epoch: int, instant: int) -> BatchPlan | None:
        """The chain batch that begins before an instant and ends after it."""
        found = near.segments(self._connection, self._stream, epoch, instant, instant)
        return found[0] if found else None

    def batches_by_id(self, ids: Iterable[str]) -> Mapping[str, BatchPlan]:
        """Those of the batches that exist."""
        return near.batches(self._connection, ids)

    def coverage(self, epoch: int, partitions: Sequence[int] | None = None) -> tuple[OffsetRange, ...]:
        """Planned ranges, sorted, merged where they touch."""
        return chain.coverage(self._connection, self._stream, epoch, partitions)

    def covered(self, epoch: int, wanted: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
        """Planned slices that have any of the wanted offsets, sorted, merged where they touch."""
        return near.covered(self._connection, self._stream, epoch, wanted)

    def add_batch(self, plan: BatchPlan) -> None:
        """Add a batch with its slices; the same batch again is nothing new.

        Raises AccountingError (its ranges overlap coverage, its slices do not tile its ranges, its cuts do not
        stand or bound another batch) and ContentMismatchError (its id stands for another plan).
        """
        known = chain.batches_by_id(self._connection, [plan.batch_id]).get(plan.batch_id)
        if known is not None:
            if known[0] != plan:
                raise ContentMismatchError(f"Batch {plan.batch_id} stands already with another plan; a plan is frozen.")
            return
        _tiled(plan)
        if plan.stream != self._stream:
            raise AccountingError(f"Batch {plan.batch_id} is of stream {plan.stream!r}, not of {self._stream!r}.")
        for wanted in near.overlapped(self._connection, self._stream, plan.epoch, plan.ranges):
            last = near.last_before(self._connection, self._stream, plan.epoch, wanted)
            assert last is not None
            raise AccountingError(
                f"Batch {plan.batch_id} of stream {self._stream!r} takes {wanted.people}, but {last.people} "
                f"({last}) is planned already: no offset counts twice."
            )
        try:
            with self._connection.begin_nested():
                self._insert(plan)
        except IntegrityError as error:
            raise AccountingError(
                f"Batch {plan.batch_id} of stream {self._stream!r} begins or ends at a cut where another batch does, "
                f"or its epoch {plan.epoch} is not opened."
            ) from error

    def _insert(self, plan: BatchPlan) -> None:
        begins = self._cut_id(plan, plan.from_instant)
        self._connection.execute(
            insert(schema.batch).values(
                batch_id=plan.batch_id,
                stream=plan.stream,
                epoch=plan.epoch,
                kind=plan.kind,
                from_cut=begins,
                to_cut=self._cut_id(plan, plan.to_instant),
                plan=plan_text(plan),
                length=plan.length,
                state=BatchState.PLANNED.value,
            )
        )
        key = {"stream": plan.stream, "epoch": plan.epoch, "batch_id": plan.batch_id}
        if plan.slices:
            self._connection.execute(
                insert(schema.slices),
                [{**key, "partition": r.partition, "start": r.start, "end": r.end} for r in plan.slices],
            )
        if begins is not None and plan.from_instant is not None:
            here = update(schema.cut).where(schema.cut.c.cut_id == begins)
            self._connection.execute(here.values(begins=plan.batch_id))
            waiting.lower(self._connection, plan.stream, plan.epoch, plan.from_instant)

    def _cut_id(self, plan: BatchPlan, instant: int | None) -> int | None:
        if instant is None:
            return None
        found = chain.cut_id(self._connection, plan.stream, plan.epoch, instant)
        if found is None:
            raise AccountingError(
                f"Batch {plan.batch_id} of stream {plan.stream!r}: no cut stands at instant {instant}."
            )
        return found

    def waiting(self, pipeline: str, epoch: int, limit: int | None = None, *, landed: bool = False) -> Waiting:
        """The first `limit` chain batches that the pipeline has not taken and whose raw files retention has not let go.

        landed  only landed ones of them
        """
        return waiting.find(self._connection, self._stream, epoch, pipeline, limit, landed=landed)

    def landed(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of the batches that are landed."""
        return near.landed(self._connection, ids)

    def gone(self, ids: Iterable[str]) -> Mapping[str, Decision]:
        """Those of the batches whose raw files retention has let go, each with the decision that did."""
        return near.gone(self._connection, ids)

    def owners(self, epoch: int, wanted: Sequence[OffsetRange]) -> tuple[BatchPlan, ...]:
        """Batches that hold any of the wanted offsets: chain batches in chain order, then off-chain ones."""
        return near.owners(self._connection, self._stream, epoch, wanted)

    def allocated(self, pipeline: str, batch_id: str, inputs: str) -> int | None:
        """The generation with this input digest."""
        c = schema.generation.c
        query = select(c.gen).where(c.pipeline == pipeline, c.batch_id == batch_id, c.inputs == inputs)
        return self._connection.execute(query).scalar()

    def allocate(self, pipeline: str, batch_id: str, recipe: str, inputs: str) -> int:
        """The generation with this input digest, else the next number; AccountingError for an unknown batch."""
        c = schema.generation.c
        of_batch = (c.pipeline == pipeline, c.batch_id == batch_id)
        existing: int | None = self._connection.execute(select(c.gen).where(*of_batch, c.inputs == inputs)).scalar()
        if existing is not None:
            return existing
        gen: int = self._connection.execute(select(func.coalesce(func.max(c.gen), 0) + 1).where(*of_batch)).scalar_one()
        made = {
            "pipeline": pipeline,
            "batch_id": batch_id,
            "gen": gen,
            "recipe": recipe,
            "inputs": inputs,
            "state": GenerationState.PLANNED.value,
        }
        if not rivals.add(self._connection, schema.generation, [made]):
            raise AccountingError(f"No generation of batch {batch_id}: there is no such batch.")
        return gen

    def mean_bytes(self, epoch: int) -> float | None:
        """Mean payload bytes per offset of the landed slices; None before the first landing."""
        return chain.landed_bytes(self._connection, self._stream, epoch)

    def decide(self, decision: Decision) -> None:
        """Keep a decision; the same one again is nothing new. Raises AccountingError for another stream's."""
        if decision.stream != self._stream:
            raise AccountingError(f"A decision about stream {decision.stream!r} does not belong to {self._stream!r}.")
        decisions.keep(self._connection, decision)

    def decisions(self, kind: str | None = None) -> tuple[Decision, ...]:
        """Decisions about the stream, by time and id."""
        return decisions.find(self._connection, self._stream, kind)

    def bind(self, binding: RunBinding) -> None:
        """Bind the run, or replace generations, groups, request and notes of its earlier binding.

        Raises AccountingError where the earlier binding has other batches.
        """
        found = chain.batches_by_id(self._connection, [batch_id for batch_id, _, _ in binding.batches])
        numbers = sorted({plan.epoch for plan, _ in found.values()})
        epochs = self.epochs()
        if len(numbers) > 1 or not epochs or any(plan.stream != self._stream for plan, _ in found.values()):
            raise AccountingError(
                f"Run {binding.run_key!r} of pipeline {binding.pipeline!r} cannot be bound: its batches must be "
                f"of one epoch of stream {self._stream!r}."
            )
        bindings.keep(self._connection, self._stream, numbers[0] if numbers else epochs[-1].epoch, binding)


def _tiled(plan: BatchPlan) -> None:
    """Raise AccountingError unless the slices cover the ranges exactly and nothing twice."""
    for name, ranges in (("ranges", plan.ranges), ("slices", plan.slices)):
        for left, right in pairwise(sorted(ranges)):
            if left.partition == right.partition and right.start < left.end:
                raise AccountingError(f"Batch {plan.batch_id}: its {name} {left} and {right} overlap.")
    rest = (*subtract(plan.ranges, plan.slices), *subtract(plan.slices, plan.ranges))
    empty = [r for r in plan.slices if not len(r)]
    if rest or empty:
        differing = ", ".join(map(str, (*rest, *empty)[:5]))
        raise AccountingError(f"Batch {plan.batch_id}: its slices do not tile its ranges; they differ at {differing}.")
