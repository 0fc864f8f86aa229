"""A stream: one topic, and the knobs that shape its shared raw data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.naming import check_name, printable
from airflow_provider_eventlog.declare.decode import Json, Raw
from airflow_provider_eventlog.declare.duration import milliseconds

_WORDS = ("interval", "earliest", "latest")
LOSS = ("fail", "record")
# Kafka's own rule for topic names.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class FromGroup:
    """Start where a consumer group has committed; read once, at the stream's origin, for people who migrate."""

    group: str

    def __post_init__(self) -> None:
        if not isinstance(self.group, str) or not self.group:
            raise DeclarationError("FromGroup needs the name of a consumer group.")


@dataclass(frozen=True, slots=True)
class Stream:
    """One Kafka topic, landed once and shared by all pipelines over it.

    topic              the topic's name, as Kafka has it
    name               the stream's name; default: the topic. Staging folders and the ledger use it
    kafka_conn_id      Airflow connection of type `kafka`
    start              where the chain begins: "interval" (the first interval's start), "earliest", "latest", a
                       time (datetime with zone, or ISO text with one), {partition: offset}, or FromGroup("g")
    staging            staging root that overrides `[eventlog] staging_root`
    decode, event_time defaults for the pipelines' recipes
    max_batch_offsets  a longer range is cut into several batches
    max_slice_offsets  a longer range of one partition is cut into several slices
    max_future_skew    a record dated later than now plus this is not believed when offsets are looked up by time
    on_data_loss       offsets that expired before they were landed: "fail" stops the run and says which, "record"
                       writes them down as lost, in manifest and ledger, and goes on
    raw_retention      `eventlog gc` removes raw files of batches that every pipeline has loaded this long after they
                       were landed; None keeps them

    Raises DeclarationError for anything malformed. Equal declarations are equal values.
    """

    topic: str
    _: KW_ONLY
    name: str = ""
    kafka_conn_id: str = "kafka_default"
    start: str | datetime | Mapping[int, int] | FromGroup = "interval"
    staging: str | None = None
    decode: Json | Raw | None = None
    event_time: str | None = None
    max_batch_offsets: int = 5_000_000
    max_slice_offsets: int = 1_000_000
    max_future_skew: str | timedelta | float = "1 hour"
    on_data_loss: str = "fail"
    raw_retention: str | timedelta | float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not _TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            raise DeclarationError(
                f"The topic name {printable(self.topic)} is not one that Kafka allows: 1 to 249 of letters, digits, "
                f"'.', '_' and '-'."
            )
        object.__setattr__(self, "name", check_name("stream", self.name or self.topic.lstrip("._-")))
        object.__setattr__(self, "start", _start(self.start))
        if self.decode is not None and not isinstance(self.decode, (Json, Raw)):
            raise DeclarationError(f"Stream {self.name!r}: decode must be Json(...) or Raw().")
        for knob in ("max_batch_offsets", "max_slice_offsets"):
            value = getattr(self, knob)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DeclarationError(
                    f"Stream {self.name!r}: {knob}={printable(value)} must be a whole number from 1."
                )
        milliseconds("max_future_skew", self.max_future_skew)
        if self.on_data_loss not in LOSS:
            raise DeclarationError(
                f"Stream {self.name!r}: on_data_loss={printable(self.on_data_loss)} is not one of {', '.join(LOSS)}."
            )
        if self.raw_retention is not None:
            milliseconds("raw_retention", self.raw_retention)

    @property
    def max_future_skew_ms(self) -> int:
        """The allowed skew in milliseconds."""
        return milliseconds("max_future_skew", self.max_future_skew)

    @property
    def raw_retention_ms(self) -> int | None:
        """The retention of raw files in milliseconds; None for ever."""
        return None if self.raw_retention is None else milliseconds("raw_retention", self.raw_retention)

    def canonical(self) -> dict[str, Any]:
        """The declaration as JSON values, without the recipe defaults, which belong to the pipelines."""
        return {
            "topic": self.topic,
            "name": self.name,
            "kafka_conn_id": self.kafka_conn_id,
            "start": start_text(self.start),
            "staging": self.staging,
            "max_batch_offsets": self.max_batch_offsets,
            "max_slice_offsets": self.max_slice_offsets,
            "max_future_skew_ms": self.max_future_skew_ms,
            "on_data_loss": self.on_data_loss,
            "raw_retention_ms": self.raw_retention_ms,
        }


def _start(value: object) -> str | datetime | Mapping[int, int] | FromGroup:
    if isinstance(value, FromGroup):
        return value
    if isinstance(value, Mapping):
        good = value and all(type(p) is int and type(o) is int and p >= 0 and o >= 0 for p, o in value.items())
        if good:
            return dict(sorted(value.items()))
    elif isinstance(value, str):
        if value in _WORDS:
            return value
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    raise DeclarationError(
        f"start={printable(value)} is not understood: 'interval', 'earliest', 'latest', a time with a zone, "
        f"{{partition: offset}} or FromGroup('name')."
    )


def start_text(start: str | datetime | Mapping[int, int] | FromGroup) -> str | dict[str, Any]:
    """A start as JSON values."""
    if isinstance(start, FromGroup):
        return {"group": start.group}
    if isinstance(start, datetime):
        return {"time": start.isoformat(timespec="milliseconds")}
    if isinstance(start, str):
        return start
    return {"offsets": {str(p): o for p, o in start.items()}}
