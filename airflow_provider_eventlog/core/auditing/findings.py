"""What an audit says: findings, each with its place and its cure, and the figures of what was looked at."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import ManifestVersionError, StagingCorruptError, StagingMissingError
from airflow_provider_eventlog.core.protocols import Decision, EpochRecord

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.auditing.mending import Mender
    from airflow_provider_eventlog.core.engine import Engine
    from airflow_provider_eventlog.core.holdings import LedgerAudit

# The order in which things are mended: each needs those before it.
RAW, MANIFEST, PART, COMMIT, DECISION, LOAD, TABLE = range(7)
RESTORE = "Restore {} from a copy."
NEWER = "Use the release of this package that wrote it."
CHANGED = (
    "The ledger was changed by other hands: bring it back from a copy, or make it again (eventlog ledger rebuild)."
)
# What is wrong with a file, by the error that says so; anything else is the store's own trouble.
TROUBLE: dict[type[Exception], str] = {
    StagingMissingError: "missing",
    StagingCorruptError: "corrupt",
    ManifestVersionError: "newer",
}


@dataclass(frozen=True, slots=True)
class Fix:
    """How a finding can be mended: its place in the order, and the act, which says in words what it did."""

    rank: int
    act: Callable[[Mender], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `damaged` is False for what is as it should be and yet worth a word.

    code   what kind of finding it is, for programs
    where  the file, table or offsets that it is about
    what   what is wrong, and `mend` what to do about it, for people
    """

    code: str
    where: str
    what: str
    mend: str = ""
    damaged: bool = True
    batch_id: str | None = None
    pipeline: str | None = None
    generation: int | None = None
    fix: Fix | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        names = ("code", "damaged", "where", "what", "mend", "batch_id", "pipeline", "generation")
        return {name: getattr(self, name) for name in names} | {"repairable": self.fix is not None}


@dataclass
class Audit:
    """An audit of one stream under way.

    deep      recompute logical digests too
    restore   batches whose files are wanted although retention let them go
    decisions what stood when the audit began
    checked   how much was looked at, by kind
    """

    engine: Engine
    stream: str
    deep: bool
    restore: frozenset[str]
    decisions: tuple[Decision, ...]
    checked: Counter[str] = field(default_factory=Counter)
    batch_ids: set[str] = field(default_factory=set)
    commits: set[tuple[str, str, int]] = field(default_factory=set)

    @property
    def ledger(self) -> LedgerAudit:
        """The ledger in bulk."""
        return self.engine.ledger.audit(self.stream)

    def epochs(self) -> tuple[EpochRecord, ...]:
        """The stream's epochs."""
        return self.engine.ledger.epochs(self.stream)


def drain(found: deque[Finding]) -> Iterator[Finding]:
    """What is in `found`, which is empty afterwards."""
    while found:
        yield found.popleft()
