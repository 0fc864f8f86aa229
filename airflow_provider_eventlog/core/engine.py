"""The engine: the four protocols opened for one stream, and what a stage needs beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import DeclarationError, ReadCancelledError
from airflow_provider_eventlog.core.home import below
from airflow_provider_eventlog.core.offsets import BatchPlan, TopicIdentity
from airflow_provider_eventlog.core.protocols import Ledger, LogSource, Staging, Target
from airflow_provider_eventlog.declare.outputs import Rows
from airflow_provider_eventlog.declare.stream import Stream

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.ledger import SqlLedger
    from airflow_provider_eventlog.core.staging.local import LocalStaging

STAGING = "eventlog/staging"
LEDGER = "eventlog/ledger.sqlite"


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass
class Engine:
    """Opened protocols; a context manager that closes them.

    clock     milliseconds since 1970 UTC; read by plan only
    cancel    set from outside to stop a stage at its next step; nothing half done is published
    progress  called with (what, done, total), in offsets or rows, at least once a slice
    """

    ledger: Ledger
    staging: Staging
    open_source: Callable[[Stream], LogSource]
    open_target: Callable[[Rows], Target]
    clock: Callable[[], int] = now_ms
    cancel: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[str, int, int], None] = no_progress
    _sources: dict[str, LogSource] = field(default_factory=dict)

    def source(self, stream: Stream) -> LogSource:
        """The stream's source, opened once."""
        if stream.topic not in self._sources:
            self._sources[stream.topic] = self.open_source(stream)
        return self._sources[stream.topic]

    def topic(self, batch: BatchPlan) -> TopicIdentity:
        """The identity of the topic that a batch's offsets are of, as the ledger has it."""
        return next(e.identity for e in self.ledger.epochs(batch.stream) if e.epoch == batch.epoch)

    def check_cancelled(self) -> None:
        """Raise ReadCancelledError once `cancel` is set."""
        if self.cancel.is_set():
            raise ReadCancelledError(
                "The task was told to stop; what it had not published is dropped, a retry goes on."
            )

    def close(self) -> None:
        """Release everything; safe to call twice."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self.ledger.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_engine(
    stream: Stream,
    *,
    client: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    home: Path,
    staging_root: str | None = None,
    ledger_url: str | None = None,
    progress: Callable[[str, int, int], None] = no_progress,
    cancel: threading.Event | None = None,
    keep: bool = True,
) -> Engine:
    """Open the ledger and staging of `stream`, and check that they belong together.

    client        Kafka client settings, or a function that finds them: called only when Kafka is needed
    home          base of relative paths and of the defaults
    staging_root  `[eventlog] staging_root`; the stream's own `staging` goes before it
    ledger_url    a path, or a URL of SQLite or PostgreSQL; default below `home`
    keep          False opens for a preview: a ledger that does not exist yet stays so

    Raises LedgerConfigError, LedgerUnavailableError, LedgerVersionError, LedgerHostError, StagingNotSharedError,
    StagingUnavailableError.
    """
    stop = cancel or threading.Event()
    staging = open_staging_at(home, stream.staging or staging_root)
    ledger = open_ledger_at(home, ledger_url, keep=keep)
    if keep:
        ledger.check_staging(str(staging.root), staging.root_id())

    def open_source(wanted: Stream) -> LogSource:
        from airflow_provider_eventlog.core.kafka.source import KafkaSource

        return KafkaSource(wanted.topic, client() if callable(client) else client, cancel=stop)

    return Engine(
        ledger, staging, open_source, lambda output: open_target_at(home, output), cancel=stop, progress=progress
    )


def open_target_at(home: Path, output: Rows) -> Target:
    """The target of an output, as `open_engine` opens it."""
    from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget

    return DuckDBTarget(output.target, home)


def open_staging_at(home: Path, root: str | None) -> LocalStaging:
    """The staging that `open_engine` opens; nothing is made yet. Raises DeclarationError for what is no local path."""
    from airflow_provider_eventlog.core.staging.local import LocalStaging

    where = root or str(home / STAGING)
    if "://" in where and not where.startswith("file://"):
        raise DeclarationError(
            f"The staging root {where!r} is not a local path; this release stages on file systems only."
        )
    return LocalStaging(below(home, where))


def open_ledger_at(home: Path, ledger_url: str | None, *, keep: bool = True) -> SqlLedger:
    """The ledger that `open_engine` opens; with keep=False one that does not exist yet stays so, and is empty."""
    from airflow_provider_eventlog.core.ledger import open_ledger

    return open_ledger(ledger_address(home, ledger_url), create=keep)


def ledger_address(home: Path, ledger_url: str | None) -> str | Path:
    """The file or URL of the ledger that `open_engine` opens."""
    where = ledger_url or LEDGER
    return where if "://" in where else below(home, where)
