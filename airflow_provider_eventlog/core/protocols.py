"""The four protocols through which every side effect on data goes, and the values they exchange.

Stages know these shapes only; tests wrap them to count, delay and kill effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, RunPlan, TopicIdentity
from airflow_provider_eventlog.core.staging.records import digest

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_eventlog.core.holdings import LedgerAudit, StoredFile, TargetContents
    from airflow_provider_eventlog.core.rebuilding.table import NewTable


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as Kafka describes it now."""

    identity: TopicIdentity
    partitions: int


@dataclass(frozen=True, slots=True)
class FoundOffset:
    """Answer to a look-up by time: the first record at or after the instant; None, None beyond the last one."""

    offset: int | None
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class Retention:
    """When a topic lets records go, by its configuration.

    cleanup     delete, compact or both
    ms          a segment goes this long after its greatest timestamp; None never for its age
    bytes       the oldest segments of a partition go while it holds more than this; None never for its size
    timestamps  CreateTime (the producer's) or LogAppendTime (the broker's)
    """

    cleanup: tuple[str, ...]
    ms: int | None
    bytes: int | None
    timestamps: str


@dataclass(frozen=True, slots=True)
class SliceRead:
    """What reading a slice established beside its rows.

    gaps     the offsets without a row, as ranges in order: invisible or lost
    aborted  how many of them hold a record of an aborted transaction
    bytes    of keys and values
    losses   those of the gaps that the log start has moved past, so that nobody can tell what stood there
    """

    gaps: tuple[OffsetRange, ...]
    aborted: int
    bytes: int
    losses: tuple[OffsetRange, ...] = ()


class LogSource(Protocol):
    """A topic of a Kafka cluster, opened for bounded reading. Not safe to share between threads."""

    def describe(self) -> TopicDescription:
        """Ask the cluster for the topic; raises the source errors of `core.errors`."""

    def log_starts(self) -> dict[int, int]:
        """First retained offset of every partition, in one request."""

    def log_ends(self) -> dict[int, int]:
        """Last stable offset of every partition (read_committed), in one request."""

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


class Outcome(Enum):
    """How a publish or a load ended."""

    LANDED = "landed"
    EXISTED = "existed"
    NOT_LANDED = "not_landed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A published file: path relative to the root, size in bytes, SHA-256 of the bytes (hex)."""

    path: str
    bytes: int
    sha256: str


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


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """A landed slice as the ledger keeps it. length = rows + invisible + lost.

    `gaps` are the offsets without a row; `losses` those of them that are lost.
    """

    range: OffsetRange
    file: StagedFile
    digest: str
    rows: int
    invisible: int
    aborted: int
    lost: int
    gaps: tuple[OffsetRange, ...]
    payload_bytes: int
    losses: tuple[OffsetRange, ...] = ()


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A derived file of one slice in one generation; `counts` are the accounting of the slice's rows."""

    kind: str
    range: OffsetRange
    file: StagedFile
    digest: str
    recipe: str
    counts: Mapping[str, int]
    failures: Mapping[str, Any] = field(default_factory=dict)


class BatchState(StrEnum):
    """How far a batch's raw data is: planned, or landed with its manifest published."""

    PLANNED = "planned"
    LANDED = "landed"


class GenerationState(StrEnum):
    """How far a generation is; held means that validation stopped it before publishing."""

    PLANNED = "planned"
    HELD = "held"
    VALIDATED = "validated"
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One generation of a batch under a pipeline."""

    pipeline: str
    batch_id: str
    generation: int
    recipe: str
    state: GenerationState
    digest: str | None
    accounting: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One topic identity of a stream."""

    stream: str
    epoch: int
    identity: TopicIdentity
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What people, or a policy that they declared, have decided about a stream; never changed, never taken back.

    kind      adopt, loss, expired, ...: what was decided
    epoch, pipeline, batch_id  what it is about, as far as it is about one
    who, why  for people
    at        milliseconds since 1970 UTC
    payload   JSON values that belong to the kind
    """

    kind: str
    stream: str
    epoch: int | None
    pipeline: str | None
    batch_id: str | None
    who: str
    why: str
    at: int
    payload: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The decision as JSON values; `Decision(**value)` reads it back."""
        return {name: getattr(self, name) for name in self.__slots__} | {"payload": dict(self.payload)}

    @property
    def id(self) -> str:
        """Digest of the decision."""
        return digest(self.to_json())[:24]


@dataclass(frozen=True, slots=True)
class FoldLog:
    """The numbered sequence in which generations enter an output's windows.

    origin  instant (ms) of the cut from which chain batches are folded
    recipe  the recipe that its folds go by
    cause   why it was opened, for people
    """

    pipeline: str
    output: str
    log: int
    epoch: int
    origin: int
    recipe: str
    cause: str


@dataclass(frozen=True, slots=True)
class FoldRecord:
    """Fold n of a log: it turns state n-1 and the generations that it reads into state n and a change-set.

    cause      batch, skip, amend, ...
    batch_id   the chain batch by which it moves the frontier; None if it does not move it
    inputs     (batch id, generation, digest of its rows) of all that it read, in order
    files      its published files by kind, each with the logical digest of its rows
    watermark  milliseconds since 1970 UTC after this fold; None while nothing is known
    """

    pipeline: str
    output: str
    log: int
    n: int
    cause: str
    batch_id: str | None
    inputs: tuple[tuple[str, int, str], ...]
    files: Mapping[str, tuple[StagedFile, str]]
    watermark: int | None
    accounting: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunBinding:
    """What a run was bound to at its first plan."""

    run_key: str
    pipeline: str
    mode: str
    request: Mapping[str, Any]
    batches: tuple[tuple[str, int, str], ...]
    groups: tuple[tuple[tuple[str, str], ...], ...]
    notes: tuple[str, ...]


class TargetState(Enum):
    """Where a target table stands towards one output."""

    ABSENT = "absent"
    OWNED = "owned"


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """What a target holds of one batch: generation, digest of its rows, number of rows."""

    generation: int
    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class OutputId:
    """Names an output for its target: the ledger that orders it, the pipeline, the output."""

    ledger_id: str
    pipeline: str
    output: str


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A target table as seen: its state, UUID, columns and the batches loaded into it."""

    state: TargetState
    table_uuid: str | None
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """How a load ended. LANDED: moved now. EXISTED: the same generation was there, or a higher one (`superseded`)."""

    outcome: Outcome
    rows: int
    superseded: bool = False


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

    def new_table(self, output: OutputId, schema: pa.Schema) -> NewTable:
        """Look at the table, to make it anew with the columns of `schema`; nothing is made yet.

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

    def bounds(self, batch_id: str) -> tuple[Cut | None, Cut | None]:
        """The cuts at both ends of a chain batch, (None, None) for an off-chain batch; raises KeyError."""

    def coverage(self, stream: str, epoch: int, *, landed: bool = False) -> tuple[OffsetRange, ...]:
        """Planned ranges, or only what of them is landed; sorted, merged where they touch."""

    def losses(self, stream: str, epoch: int) -> tuple[OffsetRange, ...]:
        """Offsets that were landed as lost, sorted, merged where they touch."""

    def decide(self, decision: Decision) -> None:
        """Keep a decision; the same one again is nothing new."""

    def decisions(self, stream: str, kind: str | None = None) -> tuple[Decision, ...]:
        """Decisions about a stream, of one kind or all, by time and id."""

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
        """Cuts by instant."""

    def add_cut(self, epoch: int, cut: Cut) -> None:
        """Add a cut; the caller has clamped it between its neighbours."""

    def batches(self, epoch: int) -> tuple[BatchPlan, ...]:
        """Chain batches in chain order, then off-chain ones."""

    def coverage(self, epoch: int, partitions: Sequence[int] | None = None) -> tuple[OffsetRange, ...]:
        """Planned ranges, sorted."""

    def add_batch(self, plan: BatchPlan) -> None:
        """Add a batch with its slices; overlapping coverage is refused by AccountingError."""

    def taken(self, pipeline: str, epoch: int) -> frozenset[str]:
        """Ids of the batches for which the pipeline has a generation."""

    def landed(self, epoch: int) -> frozenset[str]:
        """Ids of the batches that are landed."""

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
