"""Producing records in three ways; what was not delivered is always told.

fire_and_forget  hands records over and counts what failed
sync             waits for each record's receipt before the next is sent
async            sends all, then waits; receipts in the order of the records
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from airflow_provider_eventlog.core.errors import RequestError, SourceUnavailableError
from airflow_provider_eventlog.core.kafka.config import client_settings
from airflow_provider_eventlog.core.kafka.failures import Watch, translate

MODES = ("sync", "async", "fire_and_forget")


@dataclass(frozen=True, slots=True)
class Record:
    """A record to send; partition None lets the key choose, timestamp is in ms (None: now)."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where Kafka put a record: offset and timestamp (ms) as the broker acknowledged them."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None


@dataclass(slots=True)
class Sent:
    """How sending ended; fire_and_forget gives counts only."""

    sent: int = 0
    failed: int = 0
    receipts: list[Receipt] = field(default_factory=list)


def produce(
    topic: str,
    records: Iterable[Record],
    settings: Mapping[str, Any],
    *,
    mode: str = "async",
    deadline_s: float = 60.0,
) -> Sent:
    """Send records to a topic with acks from all in-sync replicas; raises for the first that failed.

    In mode fire_and_forget failures are counted, not raised. Raises RequestError for an unknown mode,
    SourceUnavailableError if anything is undelivered after `deadline_s` seconds without progress, and what
    `failures.translate` makes of a delivery error. Records that were acknowledged before stay delivered.
    """
    if mode not in MODES:
        raise RequestError(f"The mode {mode!r} is not one of {', '.join(MODES)}.")
    return _Sending(topic, settings, mode, deadline_s).run(records)


class _Sending:
    def __init__(self, topic: str, settings: Mapping[str, Any], mode: str, deadline_s: float) -> None:
        self.topic, self.mode, self.deadline_s = topic, mode, deadline_s
        self.watch = Watch(f"topic {topic!r}", deadline_s)
        self.result = Sent()
        self.error: KafkaError | None = None
        self.found: dict[int, Receipt] = {}
        self.producer = Producer(
            {
                # The topic says what is too large; the client's own limit of 1 MB would come first.
                "message.max.bytes": 1_000_000_000,
                **client_settings(settings),
                # Retries may then neither double nor reorder what one call sends.
                "enable.idempotence": True,
                "delivery.timeout.ms": int(deadline_s * 1000),
                "error_cb": self.watch.callback,
                "log_level": 0,
            }
        )

    def run(self, records: Iterable[Record]) -> Sent:
        try:
            for index, record in enumerate(records):
                self._send(index, record)
                if self.mode == "sync":
                    self._drain()
            self._drain()
        except KafkaException as error:
            raise translate(error, f"topic {self.topic!r}") from error
        self.result.receipts = [self.found[i] for i in sorted(self.found)]
        return self.result

    def _send(self, index: int, record: Record) -> None:
        arguments: dict[str, Any] = {}
        if record.partition is not None:
            arguments["partition"] = record.partition
        if record.timestamp is not None:
            arguments["timestamp"] = record.timestamp
        if record.headers:
            arguments["headers"] = list(record.headers)
        if self.mode == "fire_and_forget":
            arguments["on_delivery"] = self._count
        else:
            arguments["on_delivery"] = lambda error, message: self._receive(index, error, message)
        deadline = time.monotonic() + self.deadline_s
        while True:
            try:
                self.producer.produce(self.topic, record.value, record.key, **arguments)
                break
            except BufferError:
                self.producer.poll(0.1)
                self._check()
                if time.monotonic() > deadline:
                    self.watch.timed_out("sending to")
        self.result.sent += 1
        self.producer.poll(0)
        self._check()

    def _drain(self) -> None:
        """Wait until nothing is under way; the deadline starts again whenever something was delivered."""
        left, since = len(self.producer), time.monotonic()
        while left:
            now_left = self.producer.flush(0.1)
            self._check()
            if now_left < left:
                since = time.monotonic()
            elif time.monotonic() - since > self.deadline_s:
                raise SourceUnavailableError(
                    f"{now_left} records to topic {self.topic!r} are undelivered after {self.deadline_s:g} s; "
                    f"{len(self.found)} were acknowledged."
                )
            left = now_left
        self._check()

    def _check(self) -> None:
        self.watch.check()
        if self.error is not None and self.mode != "fire_and_forget":
            raise translate(self.error, f"topic {self.topic!r}")

    def _count(self, error: KafkaError | None, message: Message) -> None:
        self.result.failed += error is not None

    def _receive(self, index: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.result.failed += 1
            self.error = self.error or error
            return
        kind, stamp = message.timestamp()
        self.found[index] = Receipt(
            self.topic, int(message.partition() or 0), int(message.offset() or 0), stamp if kind else None
        )
