"""Completeness against the source: what producers say they have sent, and numbers that leave no gap."""

from __future__ import annotations

import collections.abc as abc
import re
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_column, check_name, printable
from airflow_provider_eventlog.declare.duration import milliseconds

ON_FAIL = ("fail", "warn", "wait")
ON_MISSING = ("fail", "warn", "wait", "hold")
TIMES = ("timestamp", "event")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_URLS = ("duckdb", "sqlite", "postgresql")
_FIELDS = ("producer", "start", "end", "count", "checksum")


@dataclass(frozen=True, slots=True)
class ControlTopic:
    """Counts as JSON records of a Kafka topic on the stream's cluster, read through the stream's connection.

    producer, start, end, count, checksum  names of the fields. Times are ISO 8601 with a zone, or whole milliseconds
                                           since 1970 UTC; `checksum` may be absent
    max_records  more offsets than this are never read for one batch: an error says so
    """

    topic: str
    _: KW_ONLY
    producer: str = "producer"
    start: str = "start"
    end: str = "end"
    count: str = "count"
    checksum: str = "checksum"
    max_records: int = 1_000_000

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not _TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            raise DeclarationError(
                f"ControlTopic: {printable(self.topic)} is not a name that Kafka allows for a topic."
            )
        _check_fields("ControlTopic", self)
        if type(self.max_records) is not int or self.max_records < 1:
            raise DeclarationError(f"ControlTopic: max_records={printable(self.max_records)} must be a number from 1.")

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {"topic": {"name": self.topic, **fields, "max_records": self.max_records}}


@dataclass(frozen=True, slots=True)
class CountsTable:
    """Counts as rows of a table: `duckdb:///relative.duckdb`, `sqlite:////absolute.sqlite` or `postgresql://host/db`.

    The URL stands in the DAG's serialised form, so that one with a password is refused; PostgreSQL takes it from the
    environment (PGPASSWORD, a password file). A relative path resolves below AIRFLOW_HOME. Times are timestamps (UTC
    where they have no zone) or whole milliseconds since 1970.
    """

    url: str
    table: str
    _: KW_ONLY
    schema: str = ""
    producer: str = "producer"
    start: str = "start"
    end: str = "end"
    count: str = "count"
    checksum: str = ""
    max_records: int = 1_000_000

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or self.url.partition("://")[0] not in _URLS:
            known = ", ".join(f"{name}://" for name in _URLS)
            raise DeclarationError(f"CountsTable: the URL must begin with one of {known}.")
        parts = urlsplit(self.url)
        if parts.password is not None or "password" in parts.query.casefold():
            raise DeclarationError("CountsTable: the URL holds a password; leave it to PGPASSWORD or a password file.")
        for name in filter(None, (self.table, self.schema)):
            check_column(name)
        if not self.table:
            raise DeclarationError("CountsTable needs the name of a table.")
        _check_fields("CountsTable", self, optional=("checksum",))
        if type(self.max_records) is not int or self.max_records < 1:
            raise DeclarationError(f"CountsTable: max_records={printable(self.max_records)} must be a number from 1.")

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        named = {"url": self.url, "schema": self.schema, "name": self.table}
        return {"table": {**named, **fields, "max_records": self.max_records}}


def _check_fields(where: str, of: ControlTopic | CountsTable, optional: tuple[str, ...] = ()) -> None:
    for name in _FIELDS:
        value = getattr(of, name)
        if not isinstance(value, str) or (not value and name not in optional) or "\0" in value:
            raise DeclarationError(f"{where}: {name}={printable(value)} must be the name of a field.")


@dataclass(frozen=True, slots=True)
class ProducerCounts:
    """How many records each producer says it has sent in each interval, compared with what was landed.

    source     where the producers publish (producer, start, end, count, optional checksum)
    producer   the declared column that names a record's producer, or "_key" for the record's key as text; None if all
               counts are of the topic as a whole (the published producer then is shown only)
    every      length of the intervals; they are aligned to the epoch in UTC
    time       what puts a record into an interval: "timestamp", Kafka's, or "event", the pipeline's event_time
    checksum   a declared integer column: the published checksum is its sum over the interval, modulo 2**64
    producers  those that must publish each interval, even without any record; others are known by what they send
    threshold  the share of the count that must have been landed
    on_fail    what a smaller share, or another checksum, does: "fail" holds the batch at the gate, "warn" says so,
               "wait" lets the batch pass while windows wait for the rest of the interval, up to `deadline`
    on_missing what an interval without a count does: the same three, or "hold": the batch is held until it is there
    deadline   how long after its end an interval is judged again with each later batch. Not by a clock: an interval is
               past it when a batch ends later than that

    Raises DeclarationError.
    """

    source: ControlTopic | CountsTable
    producer: str | None = None
    _: KW_ONLY
    every: str | timedelta | float = "1 minute"
    time: str = "timestamp"
    checksum: str | None = None
    producers: abc.Sequence[str] = ()
    threshold: float = 1.0
    on_fail: str = "fail"
    on_missing: str = "warn"
    deadline: str | timedelta | float = "1 hour"
    name: str = "counts"

    def __post_init__(self) -> None:
        check_name("completeness", self.name)
        where = f"ProducerCounts {self.name!r}"
        if not isinstance(self.source, (ControlTopic, CountsTable)):
            raise DeclarationError(f"{where}: source={printable(self.source)} must be ControlTopic or CountsTable.")
        for knob in ("producer", "checksum"):
            if getattr(self, knob) is not None:
                check_column(getattr(self, knob))
        if not 1 <= milliseconds("every", self.every) <= 366 * 86_400_000:
            raise DeclarationError(f"{where}: every={printable(self.every)} must be from one millisecond to a year.")
        milliseconds("deadline", self.deadline)
        if self.time not in TIMES:
            raise DeclarationError(f"{where}: time={printable(self.time)} is not one of {', '.join(TIMES)}.")
        names = self.producers
        good = isinstance(names, (list, tuple)) and all(isinstance(n, str) and n for n in names)
        if not good or len(set(names)) < len(names):
            raise DeclarationError(f"{where}: producers={printable(names)} must be a list of different names.")
        if self.producer is None and names:
            raise DeclarationError(f"{where}: producers= needs producer=, the column that tells them apart.")
        object.__setattr__(self, "producers", tuple(names))
        _check_policy(where, self.threshold, self.on_fail, ON_FAIL)
        if self.on_missing not in ON_MISSING:
            known = ", ".join(ON_MISSING)
            raise DeclarationError(f"{where}: on_missing={printable(self.on_missing)} is not one of {known}.")

    @property
    def every_ms(self) -> int:
        """Length of the intervals in milliseconds."""
        return milliseconds("every", self.every)

    @property
    def deadline_ms(self) -> int:
        """The deadline in milliseconds."""
        return milliseconds("deadline", self.deadline)

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {
            "counts": {
                "name": self.name,
                "source": self.source.canonical(),
                "producer": self.producer,
                "every_ms": self.every_ms,
                "time": self.time,
                "checksum": self.checksum,
                "producers": list(self.producers),
                "threshold": self.threshold,
                "on_fail": self.on_fail,
                "on_missing": self.on_missing,
                "deadline_ms": self.deadline_ms,
            }
        }


@dataclass(frozen=True, slots=True)
class Sequence:
    """A declared integer column that counts up by one without gaps, for each key.

    by         declared columns that make the key; none for one sequence over the whole topic
    column     the numbers
    start      the first number of each key; None: what lies below the lowest one seen is not missed
    threshold  the share of a batch's new numbers that must be there: new / (new + newly missing)
    on_fail    "fail" holds a batch with less at the gate, "warn" says so

    Raises DeclarationError.
    """

    by: abc.Sequence[str] = ()
    column: str = ""
    _: KW_ONLY
    start: int | None = None
    threshold: float = 1.0
    on_fail: str = "warn"
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.by, (list, tuple)):
            raise DeclarationError(f"Sequence: by={printable(self.by)} must be a list of columns.")
        for name in (*self.by, self.column):
            check_column(name)
        if len(set(self.by)) < len(self.by) or self.column in self.by:
            raise DeclarationError("Sequence: each column is named once, and the numbers are not part of the key.")
        object.__setattr__(self, "by", tuple(self.by))
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", self.column).lstrip("._-") or "sequence"
        object.__setattr__(self, "name", check_name("completeness", self.name or plain))
        where = f"Sequence {self.name!r}"
        if self.start is not None and (type(self.start) is not int or not -(2**62) < self.start < 2**62):
            raise DeclarationError(f"{where}: start={printable(self.start)} must be a whole number.")
        _check_policy(where, self.threshold, self.on_fail, ON_FAIL[:2])

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        return {
            "sequence": {
                "name": self.name,
                "by": list(self.by),
                "column": self.column,
                "start": self.start,
                "threshold": self.threshold,
                "on_fail": self.on_fail,
            }
        }


def _check_policy(where: str, threshold: object, on_fail: object, known: tuple[str, ...]) -> None:
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise DeclarationError(f"{where}: threshold={printable(threshold)} must be a share from 0 to 1.")
    if on_fail not in known:
        raise DeclarationError(f"{where}: on_fail={printable(on_fail)} is not one of {', '.join(known)}.")
