"""Every failure the package raises on purpose, one class a situation.

A message says what happened, where, and what to do. `retriable` is a class attribute: True means that the
same call may succeed later with nothing changed by hand; operators let those retry and fail the others at once.
"""

from __future__ import annotations


class EventLogError(Exception):
    """Base of all errors of this package; `retriable` tells whether trying again can help."""

    retriable: bool = False


class DeclarationError(EventLogError):
    """A declaration (stream, pipeline, check, target) is malformed; nothing was read or written."""


class RequestError(EventLogError):
    """A run was asked for something that cannot be understood: offsets, interval, mode."""


class OffsetRangeError(RequestError):
    """Explicit offsets name a partition or an offset that the topic does not have."""


class FutureIntervalError(RequestError):
    """An interval ends in the future: its last offsets are not known yet."""

    retriable = True


class ConnectionConfigError(EventLogError):
    """The Kafka connection holds a setting that is not allowed, or lacks one that is needed."""


class SourceUnavailableError(EventLogError):
    """Kafka did not answer within the deadline."""

    retriable = True


class SourceAuthenticationError(EventLogError):
    """Kafka refused the credentials, or the TLS handshake failed."""


class SourceAuthorizationError(EventLogError):
    """Kafka knows the user and denies the operation on the topic."""


class TopicNotFoundError(EventLogError):
    """The topic does not exist on this cluster."""


class TopicReplacedError(EventLogError):
    """The topic (or cluster) is another one than the stream's epoch was pinned to."""


class OffsetsLostError(EventLogError):
    """Offsets that are wanted lie below the log start: retention has removed them."""


class IntervalExpiredError(OffsetsLostError):
    """The start of an interval cannot be proved whole: its offsets begin at a log start above 0."""


class RangeUnavailableError(EventLogError):
    """A planned end lies beyond the log's last stable offset."""

    retriable = True


class SourceRegressedError(EventLogError):
    """The log ends before offsets that were planned already: its end was truncated."""

    # A leader that does not know yet that it is none any more may answer so for a while.
    retriable = True


class ReadTimeoutError(EventLogError):
    """A range made no progress within the deadline."""

    retriable = True


class ReadError(EventLogError):
    """Kafka answered a fetch with an error that is not about reachability or rights."""

    retriable = True


class ReadCancelledError(EventLogError):
    """The attempt was told to stop; nothing of it was published."""

    retriable = True


class StagingNotSharedError(EventLogError):
    """This worker sees another staging root than the one the ledger was opened with."""


class StagingFullError(EventLogError):
    """The staging store has no room left."""

    retriable = True


class StagingUnavailableError(EventLogError):
    """The staging store failed a read or write."""

    retriable = True


class StagingMissingError(EventLogError):
    """A published file that ledger or manifest names is gone."""


class StagingCorruptError(EventLogError):
    """A staged file's size, checksum or digest differs from what was recorded."""


class RawExpiredError(EventLogError):
    """A replay needs raw files that `raw_retention` has let go; the decision is named."""


class ManifestVersionError(EventLogError):
    """A manifest or file was written by a newer release than this one."""


class ContentMismatchError(EventLogError):
    """A second attempt produced other content under the same name."""


class LedgerVersionError(EventLogError):
    """The ledger's schema is newer than this release knows."""


class LedgerUnavailableError(EventLogError):
    """The ledger could not be opened, or stayed locked beyond the deadline."""

    retriable = True


class LedgerConfigError(EventLogError):
    """The ledger's address cannot be used: an unsupported database, or a file that is no ledger."""


class LedgerHostError(EventLogError):
    """A SQLite ledger was opened from a second host."""


class RunNotPlannedError(EventLogError):
    """A stage was asked for a run that has no plan in this ledger."""


class RecipeChangedError(EventLogError):
    """The pipeline's recipe is not the one its generation was planned under; clear from plan."""


class TransformError(EventLogError):
    """The transform cannot be used: it does not parse, is refused, or failed on the data."""


class DecodeError(EventLogError):
    """Payloads do not decode under the declared schema; the first offsets are named."""


class EventTimeError(EventLogError):
    """The declared event-time column is missing or is not a timestamp."""


class BatchHeldError(EventLogError):
    """Validation stopped a batch before anything of it was published; its subclasses say by which rule."""


class CheckFailedError(BatchHeldError):
    """More rows broke a check than it tolerates; the batch is held."""


class QuarantineLimitError(BatchHeldError):
    """A larger share of a batch is quarantined than `max_quarantine_ratio` allows; the batch is held."""


class IncompleteError(BatchHeldError):
    """Less of a batch is there than its producers sent, or numbers are missing; the batch is held."""


class CountsPendingError(IncompleteError):
    """A producer has not published its count of an interval yet; the batch is held until it is there."""

    retriable = True


class CompletenessDefinitionError(EventLogError):
    """A completeness rule names a column that is not declared, or cannot be used with its type or its source."""


class CountsUnavailableError(EventLogError):
    """The table of a completeness rule could not be read."""

    retriable = True


class FoldDeadlineError(EventLogError):
    """Windows did not take a run's batches before the deadline of the task that waited for it."""


class CheckDefinitionError(EventLogError):
    """A check does not parse, or names a column that the transform does not give."""


class WindowDefinitionError(EventLogError):
    """An aggregate or a session's condition cannot be used, or a key or time is no column of the transform."""


class WindowLimitError(EventLogError):
    """A batch would fill more empty windows than is sensible; nothing of it was folded."""


class AccountingError(EventLogError):
    """A stage's numbers do not balance; the offsets that differ are named."""


class NotReadyError(EventLogError):
    """A stage ran before the one it depends on had finished."""

    retriable = True


class TargetBusyError(EventLogError):
    """Another process holds the target beyond the deadline."""

    retriable = True


class TargetUnavailableError(EventLogError):
    """The target could not be opened or failed a statement for a passing reason."""

    retriable = True


class TargetOwnedError(EventLogError):
    """The table belongs to another pipeline or output, or to nobody this package knows."""


class TargetReplacedError(EventLogError):
    """The table was dropped or replaced since it was first loaded."""


class TargetSchemaError(EventLogError):
    """The table's columns differ from the rows to load; nothing was moved."""


class TargetHostError(EventLogError):
    """A single-host target (a DuckDB file) was opened from a second host."""
