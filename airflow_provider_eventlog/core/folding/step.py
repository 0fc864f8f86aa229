"""One fold: what enters is read, folded, published, and becomes real by one row of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_eventlog.core.completeness import spans
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError
from airflow_provider_eventlog.core.folding import files, head, logs
from airflow_provider_eventlog.core.folding.frontier import Pass
from airflow_provider_eventlog.core.folding.head import Head, Span
from airflow_provider_eventlog.core.folding.partials import kind_of
from airflow_provider_eventlog.core.folding.past import Made, Reader, before_ms, meets
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import FoldRecord, GenerationRecord
from airflow_provider_eventlog.core.windows import state, watermark
from airflow_provider_eventlog.core.windows.corrected import LateAgain, late_again, unchanged
from airflow_provider_eventlog.core.windows.fold import Arrival, Folded, Past, fold
from airflow_provider_eventlog.core.windows.plan import WindowPlan
from airflow_provider_eventlog.core.windows.watermark import Seen
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import duckdb

BATCH, OUTSIDE, CORRECTION, SKIPPED = "batch", "outside", "correction", "skip"


@dataclass
class Stepper:
    """Makes the folds of one log, one after another; `head` and `state` are those of the newest fold it knows."""

    engine: Engine
    stream: str
    pipeline: str
    output: Windows
    plan: WindowPlan
    connection: duckdb.DuckDBPyConnection
    head: Head
    state: pa.Table

    @property
    def reader(self) -> Reader:
        """Reads what folds need."""
        return Reader(self.engine, self.pipeline, self.output.name, self.plan, self.connection)

    def enter(self, batch: BatchPlan, generation: GenerationRecord, *, moves: bool) -> FoldRecord | None:
        """Fold a batch that enters for the first time; `moves` if it stands at the frontier.

        None if another attempt made fold n of something else: look at the log again. Raises the errors of folding and
        staging; nothing has entered then.
        """
        made, reader = (batch.batch_id, generation.generation), self.reader
        ahead = self._moved(batch, generation) if moves else self.head
        after = self._watermark(batch, generation, chain=moves)
        arrival = Arrival(reader.partials(made), lambda wanted: reader.rows([made], wanted))
        folded = self._fold(arrival, reader.past(self._folds), after, ahead.holes)
        self._balance(made, folded)
        inputs = ((*made, generation.digest or ""),)
        more = {"generation": made[1], "times": self._times(made)}
        return self._record(BATCH if moves else OUTSIDE, batch, ahead, after, folded, inputs, more)

    def correct(self, batch: BatchPlan, generation: GenerationRecord) -> FoldRecord | None:
        """Let a newer generation take the place of the one by which the batch had entered; None as for `enter`.

        Open windows that either touches are made again from all that entered; final ones stay unless the output amends.
        What these do not hold of the corrected generation is late, and what is late of the replaced one alone is gone.
        """
        made, folds, reader = (batch.batch_id, generation.generation), self._folds(), self.reader
        entered = head.current(folds)
        old = (batch.batch_id, int(entered[batch.batch_id].accounting["generation"]))
        span = self._reach([self._times(old), self._times(made)])
        near = [
            made if batch_id == batch.batch_id else (batch_id, int(fold.accounting["generation"]))
            for batch_id, fold in entered.items()
            if batch_id == batch.batch_id or meets(fold.accounting["times"], span)
        ]

        def rows(wanted: pa.Table) -> pa.Table:
            return reader.in_time(reader.rows(near, wanted), folds)

        partials = [table for one in near for table in reader.partials(one, span)]
        arrival = Arrival(partials, rows, [*reader.partials(old), *reader.partials(made)])
        known = self.state
        if self.plan.grid is None and not self.plan.amends:
            known = pa.concat_tables([known, reader.last_final(folds)])
        folded = self._fold(arrival, reader.past(self._folds), self.head.watermark, self.head.holes, known)
        inputs = ((*made, generation.digest or ""), *((*one, "") for one in near if one != made))
        again = self._late_again(made, folds, folded)
        folded = replace(folded, late=again.late, counts=folded.counts | again.counts)
        more = {"generation": made[1], "times": self._times(made), "instead_of": old[1]}
        return self._record(CORRECTION, batch, self.head, self.head.watermark, folded, inputs, more, again.gone)

    def _late_again(self, made: Made, folds: Sequence[FoldRecord], folded: Folded) -> LateAgain:
        """What the correction does to the late output."""
        before, reader = self.head.watermark, self.reader
        if self.plan.amends or before is None:
            return unchanged(self.plan)
        return late_again(
            self.connection,
            self.plan,
            # A row at or behind the watermark has no window that is final.
            made=reader.rows([made], before_ms(before)),
            held=reader.held(folds, made[0]),
            known=reader.late(folds, made[0]),
            left=folded.left,
            before_us=before * 1000,
        )

    def skip(self, passed: Pass) -> FoldRecord | None:
        """Let the frontier pass a segment; windows that it may touch are not whole. None as for `enter`."""
        span: Span = (passed.since - self.output.disorder_ms, passed.until)
        ahead = replace(self.head, epoch=passed.epoch, instant=passed.until, holes=(*self.head.holes, span))
        folded = self._fold(Arrival([], _none), Past(), self.head.watermark, ahead.holes)
        return self._record(SKIPPED, passed.batch, ahead, self.head.watermark, folded, (), {"why": passed.why})

    def _moved(self, batch: BatchPlan, generation: GenerationRecord) -> Head:
        assert batch.to_instant is not None
        assert batch.from_instant is not None
        holes = (*self.head.holes, *spans.holes(generation.accounting, self.output.disorder_ms))
        if any(record.losses for record in self.engine.ledger.slices(batch.batch_id)):
            holes = (*holes, (batch.from_instant - self.output.disorder_ms, batch.to_instant))
        return replace(self.head, epoch=batch.epoch, instant=batch.to_instant, holes=holes)

    def _watermark(self, batch: BatchPlan, generation: GenerationRecord, *, chain: bool) -> int | None:
        reached = self._reached(batch, (batch.batch_id, generation.generation), chain=chain)
        limit = spans.limit(generation.accounting, self.output.disorder_ms) if chain else None
        if limit is None or reached is None:
            return reached
        return watermark.later(self.head.watermark, min(reached, limit))

    def _reached(self, batch: BatchPlan, made: Made, *, chain: bool) -> int | None:
        before = self.head.watermark
        parts = self.reader.parts(made)[kind_of(self.output.name)]
        by_end = self.output.time == "processing" or (
            self.output.time == "ingest" and (not parts or any("stamp" in p.counts for p in parts))
        )
        if by_end:
            return watermark.processed(before, batch.to_instant, chain=chain)
        records = {r.range: r.rows for r in self.engine.ledger.slices(batch.batch_id)}
        seen = [Seen(p.range.partition, records[p.range], p.counts["rows"], p.counts.get("believed")) for p in parts]
        _, end = self.engine.ledger.bounds(batch.batch_id)
        scheduled = end.instant if end is not None and end.kind == "interval" else None
        return watermark.advance(before, seen, self.output.disorder_ms, instant=scheduled, chain=chain)

    def _fold(
        self,
        arrival: Arrival,
        past: Past,
        after: int | None,
        holes: tuple[Span, ...],
        known: pa.Table | None = None,
    ) -> Folded:
        return fold(
            self.connection,
            self.plan,
            self.state if known is None else known,
            arrival,
            before=self.head.watermark,
            after=after,
            past=past,
            holes=holes,
        )

    def _balance(self, made: Made, folded: Folded) -> None:
        """Every typed row is in a window, late, or outside of all sessions; raises AccountingError otherwise."""
        parts, counts = self.reader.parts(made), folded.counts
        typed = sum(part.counts["passed"] for part in parts[TYPED])
        placed = {name: counts[name] for name in ("placed", "late", "outside")}
        if not typed == counts["rows"] == sum(placed.values()):
            raise AccountingError(
                f"Output {self.output.name!r}: batch {made[0]}, generation {made[1]} has {typed} rows; "
                f"{counts['rows']} came to be folded, of which {placed}. Nothing has entered; this is a defect."
            )

    def _times(self, made: Made) -> dict[str, int]:
        """The oldest and greatest times of a generation's rows; nothing if it has none."""
        counts = [p.counts for p in self.reader.parts(made)[kind_of(self.output.name)] if "oldest" in p.counts]
        if not counts:
            return {}
        return {"oldest": min(c["oldest"] for c in counts), "greatest": max(c["greatest"] for c in counts)}

    def _reach(self, times: list[dict[str, int]]) -> tuple[int, int]:
        """The times of all rows that may share a window with rows of these times."""
        known = [t for t in times if t]
        if not known:
            return 0, -1
        if self.plan.grid is None:
            # Where a session is cut at its longest, one row may move every later cut.
            return -(2**62), 2**62
        far = self.plan.grid.longest_ms
        return min(t["oldest"] for t in known) - far, max(t["greatest"] for t in known) + far

    def _folds(self) -> tuple[FoldRecord, ...]:
        log = self.head.log
        found = self.engine.ledger.folds(log.pipeline, log.output, log.log)
        return tuple(one for one in found if one.n <= self.head.n)

    def _record(
        self,
        cause: str,
        batch: BatchPlan | None,
        ahead: Head,
        after: int | None,
        folded: Folded,
        inputs: tuple[tuple[str, int, str], ...],
        more: Mapping[str, Any],
        late_gone: pa.Table | None = None,
    ) -> FoldRecord | None:
        engine, log, n = self.engine, self.head.log, self.head.n + 1
        if n == 1 and logs.open_log(engine, self.stream, log) != log:
            return None
        behind = state.apply(self.connection, self.plan, self.state, [folded.delta])
        kept = {files.STATE: behind} if n % head.COMPACTED == 0 else {files.DELTA: folded.delta}
        tables = {
            **kept,
            files.UPSERTS: folded.upserts,
            files.DELETES: folded.deletes,
            files.LATE: folded.late,
            **({} if late_gone is None else {files.LATE_GONE: late_gone}),
            files.CLOSED: folded.closed,
        }
        moves = batch is not None and cause in (BATCH, SKIPPED)
        record = FoldRecord(
            pipeline=self.pipeline,
            output=self.output.name,
            log=log.log,
            n=n,
            cause=cause,
            batch_id=batch.batch_id if batch is not None and moves else None,
            inputs=inputs,
            files=files.publish(engine, self.stream, log, n, tables),
            watermark=after,
            accounting={**folded.counts, **ahead.to_json(), **more, "open": behind.num_rows},
            about=None if batch is None else batch.batch_id,
        )
        try:
            stands = engine.ledger.record_fold(record)
        except AccountingError:
            # Somebody has folded the batch, or the numbers before this one are not there any more.
            return None
        if stands != record:
            return None
        self.head, self.state = replace(ahead, n=n, watermark=after), behind
        return record


def _none(wanted: pa.Table) -> pa.Table:
    raise LookupError(f"Nothing entered, so that no rows can be asked for ({wanted.num_rows} keys were).")
