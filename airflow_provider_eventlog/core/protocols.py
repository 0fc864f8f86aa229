"""The four protocols through which every side effect on data goes; `values` has what they exchange.

Stages know these shapes only; tests wrap them to count, delay and kill effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, RunPlan, TopicIdentity
from airflow_provider_eventlog.core.values import (
    ApplyResult,
    BatchState,
    Decision,
    EpochRecord,
    FoldLog,
    FoldRecord,
    FoundOffset,
    GenerationRecord,
    GenerationState,
    LoadedBatch,
    Outcome,
    OutputId,
    PartRecord,
    Retention,
    RunBinding,
    SliceRead,
    SliceRecord,
    StagedFile,
    TargetState,
    TargetTable,
    TopicDescription,
    Waiting,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_eventlog.core.holdings import AddedUp, Differing, LedgerAudit, StoredFile, TargetContents
    from airflow_provider_eventlog.core.rebuilding.table import NewTable

__all__ = [
    "ApplyResult",
    "BatchState",
    "Decision",
    "EpochRecord",
    "FoldLog",
    "FoldRecord",
    "FoundOffset",
    "GenerationRecord",
    "GenerationState",
    "Ledger",
    "LoadedBatch",
    "LogSource",
    "Outcome",
    "OutputId",
    "PartRecord",
    "PlanningTransaction",
    "Retention",
    "RunBinding",
    "SliceRead",
    "SliceRecord",
    "StagedFile",
    "Staging",
    "Target",
    "TargetState",
    "TargetTable",
    "TopicDescription",
    "Waiting",
]


class LogSource(Protocol):
    """A topic of a Kafka cluster, opened for bounded reading. Not safe to share between threads."""

    def describe(self) -> TopicDescription:
        """Ask the cluster for the topic; raises the source errors of `core.errors`."""

    def log_starts(self) -> dict[int, int]:
        """First retained offset of every partition, in one request."""

    def log_ends(self) -> dict[int, int]:
        """Last stable offset of every partition (read_committed), in one request."""

    def high_watermarks(self) -> dict[int, int]:
        """Offset behind the last replicated record of every partition, committed or not, in one request.

        The last stable offset stays below it at the first record of an open transaction.
        """

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        """First visible record with a timestamp at or after `instant`, for all partitions in one request."""

    def group_offsets(self, group: str) -> dict[int, int]:
        """Committed offsets of a consumer group; partitions without one are left out."""

    def retention(self) -> Retention:
        """What the topic's configuration says of when records go; raises SourceAuthorizationError without the right."""

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        """From `start` on, the first record with instant <= timestamp <= believed_until, within `limit` offsets."""

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield exactly the visible records of the range in offset order, in the raw schema.

        `last_read` is valid after the iterator is exhausted. Raises the source errors; a range that
        cannot be completed is never ended silently. With `record_loss` offsets below the log start end up in
        `last_read.losses` instead of raising OffsetsLostError.
        """

    @property
    def last_read(self) -> SliceRead:
        """What the last exhausted `read` established."""

    def close(self) -> None:
        """Release the clients; safe to call twice."""


class Staging(Protocol):
    """Immutable files under one root; the only writer below it."""

    def root_id(self) -> str:
        """The id in the root's id file, created at first use; raises StagingUnavailableError."""

    def publish(self, path: str, write: Callable[[Path], Mapping[str, str] | None]) -> tuple[Outcome, StagedFile]:
        """Create `path` with what `write` puts into the temporary file it is given; never overwrites.

        LANDED: this call published it. EXISTED: the name was taken; the file described is the published
        one and the caller compares content. Either outlives a loss of power. After a failure nothing is visible
        under `path`, or the whole file if only syncing its folder failed; a retry finds out.
        Raises StagingFullError, StagingUnavailableError.
        """

    def stat(self, path: str) -> StagedFile | None:
        """Size and SHA-256 of a published file (reads it whole), or None where there is none.

        What is described outlives a loss of power, even if the attempt that published it was killed on the way.
        """

    def exists(self, path: str) -> bool:
        """Whether a file is published under `path`."""

    def open(self, path: str, expected: StagedFile | None = None) -> Path:
        """A local path to read from, after checking size and SHA-256 against `expected` where it is given.

        Raises StagingMissingError, StagingCorruptError.
        """

    def read_json(self, path: str) -> dict[str, Any] | None:
        """A published JSON record, or None; raises StagingCorruptError, ManifestVersionError."""

    def publish_json(self, path: str, record: Mapping[str, Any]) -> Outcome:
        """Publish a canonical JSON record with its format number and self-hash.

        LANDED or EXISTED; raises ContentMismatchError if another record stands there.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Paths of published files below `prefix`, sorted."""

    def stored(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below `prefix`, folder by folder, temporary ones too; no links, nothing that was set aside."""

    def remove(self, path: str) -> bool:
        """Remove a file, published or temporary; False if there was none."""

    def set_aside(self, path: str, found: StagedFile) -> str | None:
        """Move a published file out of the way, if it still is `found`; where to, or None if it is another one now."""


class Target(Protocol):
    """One table of one database, loaded in whole transactions."""

    def state(self, output: OutputId) -> TargetTable:
        """Look at the table; raises TargetOwnedError, TargetReplacedError, TargetBusyError."""

    def loaded(self, output: OutputId, batch_id: str) -> LoadedBatch | None:
        """What the table holds of a batch."""

    def contents(self, output: OutputId) -> TargetContents:
        """What the table holds of all batches, at one moment, in one query for records and one for rows.

        Raises what `state` raises; a table that does not exist holds nothing.
        """

    def owner(self) -> OutputId | None:
        """Whose the table is, whatever ledger that is of; of a table that is gone, whose it was.

        None for a table that was never made, or not by this package. Raises TargetBusyError, TargetUnavailableError.
        """

    def cursor(self, output: OutputId) -> tuple[int, int] | None:
        """(log, n) of the newest change-set that the table holds; None before the first."""

    def apply_changes(
        self,
        output: OutputId,
        log: int,
        n: int,
        digest: str,
        upserts: Sequence[Path],
        deletes: Sequence[Path],
        schema: pa.Schema,
        key: Sequence[str],
    ) -> ApplyResult:
        """Apply change-set n of a log in one transaction, if the table stands at n-1; twice has the effect of once.

        Rows of `deletes` (columns `key`) go, rows of `upserts` (in `schema`) take the place of those with their key;
        NULL is a key like any other. A table at or past n is left alone. The first change-set of a later log begins
        with an empty table. Raises NotReadyError for a table behind n-1, ContentMismatchError for another change-set
        n, and what `apply_rows` raises. After a failure the table is as before.
        """

    def differing(self, output: OutputId, wanted: AddedUp, limit: int) -> Differing | None:
        """Hold the table's rows, read at one moment, against change-sets; None if it stands at another one of theirs.

        Names at most `limit` keys. Raises what `state` raises, TargetSchemaError, StagingCorruptError. Loads wait.
        """

    def apply_rows(
        self,
        output: OutputId,
        batch_id: str,
        generation: int,
        digest: str,
        files: Sequence[Path],
        schema: pa.Schema,
        *,
        again: bool = False,
    ) -> ApplyResult:
        """Make `generation` the one visible generation of the batch, in one transaction; twice has the effect of once.

        `files` are verified Parquet parts in order. Raises ContentMismatchError for the same generation with
        another digest, TargetSchemaError, TargetOwnedError, TargetReplacedError, TargetBusyError. After a
        failure the table is as before. With `again` the rows of the same generation are replaced, whatever is
        recorded of them: for a table that somebody changed.
        """

    def new_table(self, output: OutputId, schema: pa.Schema, *, folded: bool = False) -> NewTable:
        """Look at the table, to make it anew with the columns of `schema`, of rows or `folded`; nothing is made yet.

        Raises TargetOwnedError and TargetReplacedError for a table that is not this output's.
        """


class Ledger(Protocol):
    """Decisions, one method each, each one transaction. Retried calls find what the first one wrote."""

    @property
    def ledger_id(self) -> str:
        """The ledger's own id, made when it was created."""

    def check_staging(self, root: str, root_id: str) -> None:
        """Record the staging root at first use; afterwards raise StagingNotSharedError for another id."""

    def planning(self, stream: str, declaration: str | None) -> PlanningTransaction:
        """Open the one planning transaction of a stream: a context manager; commits on success, else rolls back.

        A declaration of None leaves the one of a known stream as it is.
        """

    def streams(self) -> tuple[tuple[str, str], ...]:
        """(name, declaration) of all planned streams, by name."""

    def epochs(self, stream: str) -> tuple[EpochRecord, ...]:
        """The stream's epochs in order; empty if it was never planned."""

    def run(self, run_key: str, pipeline: str) -> RunBinding | None:
        """What a run is bound to."""

    def runs(self, pipeline: str | None = None, limit: int | None = None) -> tuple[RunBinding, ...]:
        """The newest `limit` bindings of one pipeline or of all, in the order in which they were first made."""

    def run_plan(self, run_key: str, pipeline: str) -> RunPlan:
        """The bound run in full; raises RunNotPlannedError."""

    def batch(self, batch_id: str) -> tuple[BatchPlan, BatchState]:
        """A batch's plan and state; raises KeyError."""

    def batches(self, stream: str, epoch: int | None = None) -> tuple[tuple[BatchPlan, BatchState], ...]:
        """Batches of a stream: chain batches in chain order, then off-chain ones by id."""

    def cuts(self, stream: str, epoch: int) -> tuple[Cut, ...]:
        """Cuts in order of their instants."""

    def totals(self, stream: str, epoch: int | None = None) -> tuple[int, int]:
        """How many batches an epoch, or the whole stream, has, and how many offsets they have together."""

    def holes(self, stream: str, epoch: int) -> tuple[tuple[Cut, Cut, tuple[OffsetRange, ...]], ...]:
        """Segments that no chain batch has taken, each with its offsets that off-chain batches do not have either."""

    def standing(self, pipeline: str, stream: str) -> Mapping[GenerationState, int]:
        """How many of a stream's batches have a newest generation of the pipeline in each state."""

    def newest_offsets(self, stream: str, epoch: int) -> Mapping[int, int] | None:
        """The offsets of an epoch's newest cut by partition; None before the first."""

    def waiting_offsets(self, pipeline: str, stream: str, epoch: int) -> int:
        """How many offsets are in chain batches that the pipeline has not taken and whose raw files still stand."""

    def bounds(self, batch_id: str) -> tuple[Cut | None, Cut | None]:
        """The cuts at both ends of a chain batch, (None, None) for an off-chain batch; raises KeyError."""

    def coverage(self, stream: str, epoch: int, *, landed: bool = False) -> tuple[OffsetRange, ...]:
        """Planned ranges, or only what of them is landed; sorted, merged where they touch."""

    def unlanded(self, stream: str, epoch: int, ends: Mapping[int, int]) -> tuple[OffsetRange, ...]:
        """What lies between the epoch's first cut and the ends of its log and is not landed, sorted and merged.

        A partition that no cut knows is wanted from offset 0. Without a cut it is what is planned and not landed.
        """

    def losses(self, stream: str, epoch: int) -> tuple[OffsetRange, ...]:
        """Offsets that were landed as lost, sorted, merged where they touch."""

    def decide(self, decision: Decision) -> None:
        """Keep a decision; the same one again is nothing new."""

    def decisions(self, stream: str, kind: str | None = None, batch_id: str | None = None) -> tuple[Decision, ...]:
        """Decisions about a stream, of one kind or all, about one batch or any, by time and id."""

    def unwritten(self, stream: str) -> tuple[Decision, ...]:
        """Decisions about a stream of which `written` was not told, by time and id."""

    def written(self, ids: Iterable[str]) -> None:
        """Note that the records of decisions stand in staging."""

    def audit(self, stream: str) -> LedgerAudit:
        """The stream in bulk, read only."""

    def repoint_slice(self, batch_id: str, record: SliceRecord, manifest_digest: str | None) -> None:
        """Let a landed slice name another file with the same rows, and a sealed batch the manifest that says so.

        Raises ContentMismatchError for other rows.
        """

    def repoint_part(self, pipeline: str, batch_id: str, generation: int, part: PartRecord) -> None:
        """Let a generation name another file with the same rows; raises ContentMismatchError for other rows."""

    def record_slice(self, batch_id: str, record: SliceRecord) -> SliceRecord:
        """Record a landed slice once; returns the recorded one. Raises ContentMismatchError for other content."""

    def slices(self, batch_id: str) -> tuple[SliceRecord, ...]:
        """Landed slices of a batch, by partition and start."""

    def seal_batch(self, batch_id: str, manifest_digest: str) -> None:
        """Mark a batch landed; raises ContentMismatchError for another digest."""

    def register_pipeline(self, pipeline: str, stream: str, recipe: str, declaration: str) -> None:
        """Keep the pipeline's declaration under its recipe, and make it the pipeline's current one."""

    def pipelines(self) -> tuple[tuple[str, str, str, str], ...]:
        """(pipeline, stream, current recipe, declaration) of all registered pipelines."""

    def generation(self, pipeline: str, batch_id: str, generation: int) -> GenerationRecord:
        """One generation; raises KeyError."""

    def generations(self, pipeline: str, batch_id: str | None = None) -> tuple[GenerationRecord, ...]:
        """Generations of a pipeline, of one batch or of all, in order of batch and number."""

    def record_part(self, pipeline: str, batch_id: str, generation: int, part: PartRecord) -> PartRecord:
        """Record a derived file once; raises ContentMismatchError for other content."""

    def parts(self, pipeline: str, batch_id: str, generation: int) -> tuple[PartRecord, ...]:
        """Parts of a generation by kind, partition and start."""

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
        """Move a generation's state forward (held may become validated); never backwards from loaded."""

    def open_fold_log(self, log: FoldLog) -> FoldLog:
        """Open a log once; returns the one that stands under its number."""

    def fold_logs(self, pipeline: str, output: str) -> tuple[FoldLog, ...]:
        """An output's logs in order."""

    def record_fold(self, record: FoldRecord) -> FoldRecord:
        """Record fold n once, if n is the next of its log; returns the one that stands at n, which may be another's.

        Raises AccountingError for an n that leaves a gap, KeyError for a log that is not open.
        """

    def folds(self, pipeline: str, output: str, log: int, after: int = 0) -> tuple[FoldRecord, ...]:
        """Folds of a log with a number above `after`, in order."""

    def folds_about(self, pipeline: str, output: str, log: int, batch_id: str) -> tuple[FoldRecord, ...]:
        """The folds of a log that a batch entered by, in order."""

    def chain_from(self, stream: str, epoch: int, instant: int, limit: int = 1) -> tuple[BatchPlan, ...]:
        """The first `limit` chain batches that begin at `instant` or later, in chain order."""

    def newest_instant(self, stream: str, epoch: int) -> int | None:
        """The instant of an epoch's newest cut; None before the first."""

    def last_fold(self, pipeline: str, output: str, log: int) -> FoldRecord | None:
        """The newest fold of a log."""

    def close(self) -> None:
        """Release connections."""


class PlanningTransaction(Protocol):
    """The stream's row is locked while it is open; all reads see, and all writes join, one transaction."""

    def __enter__(self) -> PlanningTransaction:
        """Begin, and lock the stream's row."""

    def __exit__(self, *exc: object) -> None:
        """Commit, or roll back on an exception."""

    def bound(self, run_key: str, pipeline: str) -> RunBinding | None:
        """An earlier plan of the run."""

    def epochs(self) -> tuple[EpochRecord, ...]:
        """Epochs of the stream in order."""

    def add_epoch(self, identity: TopicIdentity, reason: str) -> EpochRecord:
        """Open the next epoch."""

    def cuts(self, epoch: int) -> tuple[Cut, ...]:
        """All cuts by instant; a plan asks for those that it needs."""

    def cuts_between(self, epoch: int, low: int, high: int) -> tuple[Cut, ...]:
        """Cuts from one instant to another, both included, in order."""

    def neighbours(self, epoch: int, instant: int) -> tuple[Cut | None, Cut | None]:
        """The nearest cuts at or before `instant`, and after it."""

    def first_instant(self, epoch: int) -> int | None:
        """The instant of the first cut."""

    def newest_cut(self, epoch: int) -> Cut | None:
        """The cut with the greatest instant."""

    def add_cut(self, epoch: int, cut: Cut) -> None:
        """Add a cut; the caller has clamped it between its neighbours."""

    def batches(self, epoch: int) -> tuple[BatchPlan, ...]:
        """All batches, chain batches in chain order, then off-chain ones; a plan asks for those that it needs."""

    def segments(self, epoch: int, start: int, end: int) -> tuple[BatchPlan, ...]:
        """Chain batches of which a part lies between two instants, in chain order."""

    def segment_around(self, epoch: int, instant: int) -> BatchPlan | None:
        """The chain batch that begins before an instant and ends after it."""

    def batches_by_id(self, ids: Iterable[str]) -> Mapping[str, BatchPlan]:
        """Those of the batches that exist."""

    def coverage(self, epoch: int, partitions: Sequence[int] | None = None) -> tuple[OffsetRange, ...]:
        """All planned ranges, sorted; a plan asks for what is `covered`."""

    def covered(self, epoch: int, wanted: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
        """Planned slices that have any of the wanted offsets, sorted, merged where they touch."""

    def add_batch(self, plan: BatchPlan) -> None:
        """Add a batch with its slices; overlapping coverage is refused by AccountingError."""

    def waiting(self, pipeline: str, epoch: int, limit: int | None = None, *, landed: bool = False) -> Waiting:
        """The first `limit` chain batches that the pipeline has not taken and whose raw files retention has not let go.

        landed  only landed ones of them
        """

    def landed(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of the batches that are landed."""

    def gone(self, ids: Iterable[str]) -> Mapping[str, Decision]:
        """Those of the batches whose raw files retention has let go, each with the decision that did."""

    def owners(self, epoch: int, wanted: Sequence[OffsetRange]) -> tuple[BatchPlan, ...]:
        """Batches that hold any of the wanted offsets: chain batches in chain order, then off-chain ones."""

    def allocated(self, pipeline: str, batch_id: str, inputs: str) -> int | None:
        """The generation with this input digest."""

    def allocate(self, pipeline: str, batch_id: str, recipe: str, inputs: str) -> int:
        """The generation with this input digest, else the next number."""

    def mean_bytes(self, epoch: int) -> float | None:
        """Mean payload bytes per landed offset of the stream; None before the first landing."""

    def decide(self, decision: Decision) -> None:
        """Keep a decision; the same one again is nothing new."""

    def decisions(self, kind: str | None = None) -> tuple[Decision, ...]:
        """Decisions about the stream, by time and id."""

    def bind(self, binding: RunBinding) -> None:
        """Bind the run, or replace the generations and groups of its earlier binding."""
