"""Mending what an audit found, and only that: everything is made again from what still proves it.

A raw file comes from Kafka, a part from raw files, records from the ledger, loads from parts. Nothing is published that
does not reproduce the recorded digest. A file in the way is set aside first, never removed; where another release of
the writer gives the same rows in other bytes, ledger and commit record are led to the new file by a decision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core import deciding, deriving, landing, partfile, quarantine, rawfile, retention
from airflow_provider_eventlog.core.auditing.derived import balance, expected_commit, tabled
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    AccountingError,
    ContentMismatchError,
    NotReadyError,
    OffsetsLostError,
    RecipeChangedError,
    StagingMissingError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.holdings import HeldBatch
from airflow_provider_eventlog.core.offsets import BatchPlan, PlannedBatch, Slice
from airflow_provider_eventlog.core.planning.plan import replaced
from airflow_provider_eventlog.core.protocols import (
    Decision,
    EpochRecord,
    GenerationRecord,
    OutputId,
    PartRecord,
    SliceRead,
    SliceRecord,
    StagedFile,
    Target,
    TargetState,
)
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.core.validating import rows_digest
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.stream import Stream

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_eventlog.core.rebuilding.windows import WindowsWork

REPAIRED = "repaired"


class Mender:
    """Acts on the findings of one stream; every method says in words what it did, or would do with `dry_run`.

    stream     how to reach its topic
    pipelines  by name: parts are derived again only under the recipe that made them
    who        for the decisions' records

    Methods raise the errors of `core.errors`; what was in the way is then set aside at most, and a retry goes on.
    """

    def __init__(
        self, engine: Engine, stream: Stream, pipelines: Iterable[Pipeline], *, who: str, dry_run: bool
    ) -> None:
        self._engine, self._stream, self._who, self._dry = engine, stream, who, dry_run
        self._pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}

    def raw(self, epoch: EpochRecord, batch: BatchPlan, record: SliceRecord) -> str:
        """Land a slice again from Kafka; raises TopicReplacedError, OffsetsLostError, ContentMismatchError."""
        source = self._engine.source(self._stream)
        found = source.describe().identity
        if found != epoch.identity:
            raise TopicReplacedError(replaced(epoch.identity, found))
        start, kept = source.log_starts().get(record.range.partition, 0), record.losses
        wanted = record.range
        if wanted.start < start and not kept:
            raise OffsetsLostError(
                f"Kafka begins at offset {start} of partition {wanted.partition}: {wanted.people} can only come back "
                f"from a copy of {record.file.path}."
            )
        if self._dry:
            return f"would land {wanted.people} again from Kafka"
        piece = Slice(batch.stream, batch.epoch, wanted)

        def write(temporary: Path) -> None:
            rows = source.read(wanted, record_loss=True) if kept else source.read(wanted)
            info = rawfile.write_slice(temporary, rows, piece, lambda: self._as_recorded(record), epoch.identity)
            if (info.digest, source.last_read.gaps) != (record.digest, record.gaps):
                raise ContentMismatchError(
                    f"Kafka gives other records for {wanted.people} now than were landed ({info.rows} of "
                    f"{record.rows} rows): compaction or deletion changed them. Nothing was published; restore "
                    f"{record.file.path} from a copy."
                )
            self._set_aside(record.file.path, record.file)
            self._engine.check_cancelled()

        _, file = self._engine.staging.publish(record.file.path, write)
        if file != record.file:
            rawfile.verify_rows(self._engine.staging.open(file.path, file), record.digest)
            self._repoint_slice(epoch, batch, dataclasses.replace(record, file=file), record.file)
        return f"landed {wanted.people} again from Kafka"

    @staticmethod
    def _as_recorded(record: SliceRecord) -> SliceRead:
        # What was established at the first landing: how many offsets were aborted may not show any more.
        return SliceRead(record.gaps, record.aborted, record.payload_bytes, record.losses)

    def _repoint_slice(self, epoch: EpochRecord, batch: BatchPlan, record: SliceRecord, before: StagedFile) -> None:
        ledger = self._engine.ledger
        slices = tuple(record if s.range == record.range else s for s in ledger.slices(batch.batch_id))
        sealed = ledger.audit(batch.stream).manifest_digest(batch.batch_id)
        self._decide_repaired(batch, None, record.file, before, record.digest)
        if sealed is None:
            ledger.repoint_slice(batch.batch_id, record, None)
            return
        made = landing.manifest(batch, epoch.identity, slices, ledger.bounds(batch.batch_id))
        ledger.repoint_slice(batch.batch_id, record, records.digest(made))
        self._publish(paths.manifest(batch.stream, batch.epoch, batch.batch_id), made)

    def manifest(self, epoch: EpochRecord, held: HeldBatch) -> str:
        """Publish a manifest again from the ledger; raises ContentMismatchError if that gives another one."""
        plan, ledger = held.plan, self._engine.ledger
        path = paths.manifest(plan.stream, plan.epoch, plan.batch_id)
        made = landing.manifest(plan, epoch.identity, ledger.slices(plan.batch_id), ledger.bounds(plan.batch_id))
        if records.digest(made) != ledger.audit(plan.stream).manifest_digest(plan.batch_id):
            raise ContentMismatchError(
                f"The ledger gives another manifest for batch {plan.batch_id} than the one that was sealed; restore "
                f"{path} from a copy, or publish it with the release that wrote it."
            )
        return self._publish(path, made)

    def part(self, batch: HeldBatch, generation: GenerationRecord, part: PartRecord) -> str:
        """Derive a part again from raw; raises RecipeChangedError, ContentMismatchError and what deriving raises."""
        pipeline = self._recipe(generation)
        if self._dry:
            return f"would derive {part.range.people} again from raw"
        raw = next(r for r in self._engine.ledger.slices(generation.batch_id) if r.range == part.range)
        planned = PlannedBatch(batch.plan, generation.generation, "replay")
        again = deriving.rewriter(self._engine, pipeline, planned, raw, part.kind)

        def write(temporary: Path) -> None:
            again(temporary)
            if partfile.read_part_info(temporary).digest != part.digest:
                raise ContentMismatchError(
                    f"Deriving {part.range.people} again under the same recipe gives other rows than generation "
                    f"{generation.generation} has: the transform depends on more than its input. Nothing was "
                    f"published; clear its run from plan with a new version of the pipeline."
                )
            self._set_aside(part.file.path, part.file)
            self._engine.check_cancelled()

        _, file = self._engine.staging.publish(part.file.path, write)
        if file != part.file:
            partfile.verify_rows(self._engine.staging.open(file.path, file), part.digest)
            self._decide_repaired(batch.plan, generation.pipeline, file, part.file, part.digest)
            made = dataclasses.replace(part, file=file)
            self._engine.ledger.repoint_part(generation.pipeline, generation.batch_id, generation.generation, made)
            if generation.digest is not None:
                self.commit(batch, generation)
        return f"derived {part.range.people} again from raw"

    def commit(self, batch: HeldBatch, generation: GenerationRecord) -> str:
        """Publish a commit record again from the ledger; raises AccountingError where that contradicts itself."""
        number = generation.generation
        parts = self._engine.ledger.parts(generation.pipeline, generation.batch_id, number)
        for finding in balance(batch, generation, parts):
            raise AccountingError(f"{finding.where}: {finding.what} Nothing was published from such a ledger.")
        path = paths.commit(batch.plan.stream, generation.pipeline, generation.batch_id, number)
        return self._publish(path, expected_commit(generation, parts))

    def decision(self, decision: Decision) -> str:
        """Write a decision down again."""
        return self._publish(paths.decision(decision.stream, decision.kind, decision.id), decision.to_json())

    def record(self, path: str, record: Mapping[str, Any]) -> str:
        """Write a record of the ledger down again."""
        return self._publish(path, record)

    def load(self, target: Target, output: OutputId, kind: str, batch_id: str, number: int) -> str:
        """Load a generation's parts of one kind again, in place of what the table has of the batch."""
        ledger = self._engine.ledger
        generation = ledger.generation(output.pipeline, batch_id, number)
        parts = ledger.parts(output.pipeline, batch_id, number)
        digest, _ = tabled(generation, parts)[kind]
        if digest is None or rows_digest(parts) != generation.digest:
            raise ContentMismatchError(f"The parts of batch {batch_id}, generation {number} are not the loaded ones.")
        if self._dry:
            return f"would load batch {batch_id} again"
        files = [self._open(generation, p) for p in parts if p.kind == kind]
        schema = quarantine.SCHEMA if kind == quarantine.KIND else self._schema(generation, files)
        result = target.apply_rows(output, batch_id, number, digest, files, schema, again=True)
        if result.superseded:
            raise ContentMismatchError(f"The table holds a later generation of batch {batch_id} than {number}.")
        return f"loaded batch {batch_id} again, {result.rows} rows"

    def _open(self, generation: GenerationRecord, part: PartRecord) -> Path:
        try:
            return self._engine.staging.open(part.file.path, part.file)
        except StagingMissingError as error:
            stream = self._engine.ledger.batch(generation.batch_id)[0].stream
            of = (generation.pipeline, generation.batch_id, generation.generation)
            raise retention.missing_part(self._engine, stream, *of, part.file.path) from error

    def table(self, target: Target, output: OutputId) -> str:
        """See that a table that was gone is there, which the loads before have made; raises NotReadyError."""
        if self._dry:
            return "would make the table by loading"
        if target.state(output).state is TargetState.ABSENT:
            raise NotReadyError("The table is still missing: no batch could be loaded again.")
        return "made the table by loading"

    def changes(self, work: WindowsWork) -> str:
        """Apply the change-sets that a table of windows lacks; raises what `WindowsWork.bring_up` raises."""
        lacking = work.lacking()
        if not lacking:
            return "the table has taken its change-sets meanwhile"
        if self._dry:
            return f"would apply change-sets {lacking[0]} to {lacking[-1]}"
        return f"applied {work.bring_up()} change-sets"

    def anew(self, work: WindowsWork) -> str:
        """Make a table of windows anew from its change-sets, and keep the old one under another name."""
        found = work.look(replace=True, keep=not self._dry)
        if self._dry:
            return f"would make the table anew from {found['batches']} change-sets and keep the old one"
        return f"made the table anew; the old one is kept as {work.do(replace=True)['replaced']}"

    def restored(self, pipeline: str | None, payload: Mapping[str, Any]) -> None:
        """Write down that files which retention had let go are back."""
        if not self._dry:
            why, now = "eventlog fsck --restore", self._engine.clock()
            stream = self._stream.name
            made = Decision(retention.RESTORED, stream, None, pipeline, None, self._who, why, now, payload)
            deciding.decide(self._engine, made)

    def _schema(self, generation: GenerationRecord, files: list[Path]) -> pa.Schema:
        import pyarrow.parquet as pq

        pipeline = self._pipelines.get(generation.pipeline)
        if pipeline is not None and pipeline.recipe == generation.recipe:
            return partfile.part_schema(pipeline)
        if not files:
            return partfile.part_schema(self._recipe(generation))
        with rawfile.reading(files[0]):
            return pq.read_schema(files[0])

    def _recipe(self, generation: GenerationRecord) -> Pipeline:
        """The pipeline that made a generation; raises RecipeChangedError where it was not given."""
        pipeline = self._pipelines.get(generation.pipeline)
        if pipeline is None or pipeline.recipe != generation.recipe:
            given = "was not given" if pipeline is None else f"has the recipe {pipeline.recipe[:12]} now"
            raise RecipeChangedError(
                f"Generation {generation.generation} of batch {generation.batch_id} was made by pipeline "
                f"{generation.pipeline!r} under the recipe {generation.recipe[:12]}; the pipeline {given}. Name it "
                f"with --pipeline FILE.py:VARIABLE as it was then, or clear the batch's run from plan."
            )
        return pipeline

    def _publish(self, path: str, record: Mapping[str, Any]) -> str:
        if self._dry:
            return f"would publish {path} again"
        data = records.dump(record)
        self._set_aside(path, StagedFile(path, len(data), sha256(data).hexdigest()))
        self._engine.staging.publish_json(path, record)
        return f"published {path} again"

    def _set_aside(self, path: str, good: StagedFile) -> None:
        """Clear the way for a good file, if another one stands in it."""
        found = self._engine.staging.stat(path)
        if found is not None and found != good:
            self._engine.staging.set_aside(path, found)

    def _decide_repaired(
        self, batch: BatchPlan, pipeline: str | None, file: StagedFile, before: StagedFile, digest: str
    ) -> None:
        payload = {"path": file.path, "sha256": file.sha256, "instead_of": before.sha256, "digest": digest}
        why, now = "the same rows in other bytes", self._engine.clock()
        made = Decision(REPAIRED, batch.stream, batch.epoch, pipeline, batch.batch_id, self._who, why, now, payload)
        deciding.decide(self._engine, made)
