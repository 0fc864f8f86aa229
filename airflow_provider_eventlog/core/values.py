"""The values that the protocols exchange: what was seen, staged, recorded, decided, loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.staging.records import digest


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


# Up to so many waiting batches are counted.
COUNTED = 1_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """Chain batches that a pipeline has not taken, in chain order.

    more        how many more wait, counted up to `COUNTED`
    gone        how many were passed over because retention has let their raw files go; those are told of once
    first_gone  the first of them
    """

    batches: tuple[BatchPlan, ...]
    more: int = 0
    gone: int = 0
    first_gone: str | None = None

    def remaining(self, beside: int = 0) -> str:
        """How many wait behind `batches`, and `beside` others, in words."""
        return f"{'at least ' if self.more >= COUNTED else ''}{self.more + beside}"


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
    about      the batch that enters, leaves or is corrected by it, whether it moves the frontier or not
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
    about: str | None = None


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
