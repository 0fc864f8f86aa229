"""Producers that go on while brokers die, and log what they were told: one plain, one in transactions with aborts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.support.checker import History, Told

# How long one record may be tried: longer than brokers are away, since a client that gives up doubles what follows.
_DELIVERY_MS = 90_000
_TRANSACTION_MS = 8_000
_CALL_S = 5.0


class Plain(threading.Thread):
    """Writes records outside of transactions, a few at a time, until it is told to stop."""

    def __init__(self, settings: dict[str, Any], topic: str, partitions: int, history: History, seed: str) -> None:
        super().__init__(name=f"writer-{seed}", daemon=True)
        self.topic, self.partitions, self.history = topic, partitions, history
        self.chance, self.stopped = random.Random(seed), threading.Event()
        self.failure: BaseException | None = None
        self._settings = {**settings, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}

    def run(self) -> None:
        """Write."""
        try:
            self.work()
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        """Stop, and wait until every write is settled; raises what the thread died of."""
        self.stopped.set()
        self.join(120)
        assert not self.is_alive(), f"{self.name} does not end"
        if self.failure is not None:
            raise self.failure

    def work(self) -> None:
        """Until stopped: a handful of records, and a short pause."""
        producer = self.producer(**{"delivery.timeout.ms": _DELIVERY_MS})
        while not self.stopped.is_set():
            for _ in range(self.chance.randint(1, 20)):
                self.send(producer, self._delivered)
            producer.poll(0.02)
        assert producer.flush(_DELIVERY_MS / 1000 + 30) == 0

    def producer(self, **more: Any) -> Producer:
        """A client of this writer."""
        return Producer({**self._settings, **more})

    def send(self, producer: Producer, delivered: Callable[[KafkaError | None, Message], None]) -> bytes:
        """Hand one record over; its value."""
        partition = self.chance.randrange(self.partitions)
        value = self.history.begin(self.name, partition)
        while True:
            try:
                producer.produce(self.topic, value, partition=partition, on_delivery=delivered)
                return value
            except BufferError:
                producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        value = message.value()
        # An error is no proof that nothing was written: such a write stays info.
        if error is None and value is not None:
            self.history.settle(value, Told.OK, message.offset())


class Transactional(Plain):
    """Writes in transactions of a few records and aborts a share of them.

    Only a transaction whose commit, or abort, was acknowledged has a known end.
    """

    def __init__(self, *words: Any, aborts: float = 0.3, **knobs: Any) -> None:
        super().__init__(*words, **knobs)
        self.aborts = aborts
        self.ended = {Told.OK: 0, Told.FAIL: 0, Told.INFO: 0}

    def work(self) -> None:
        """Until stopped: one transaction behind the other; after a fatal error with a new client of the same id."""
        producer: Producer | None = None
        while not self.stopped.is_set():
            if producer is None:
                producer = self._begun()
                if producer is None:
                    continue
            if not self._transaction(producer):
                producer = None
        # Whatever the last client left open is settled by the next one with its id.
        deadline = time.monotonic() + 90
        while producer is None:
            assert time.monotonic() < deadline, "the last transaction is not settled"
            producer = self._begun()

    def _begun(self) -> Producer | None:
        """A client that has fenced the one before it and settled its transaction."""
        more = {"transactional.id": f"{self.topic}-{self.name}", "transaction.timeout.ms": _TRANSACTION_MS}
        producer = self.producer(**more)
        return producer if self._insist(lambda: producer.init_transactions(_CALL_S)) is None else None

    def _transaction(self, producer: Producer) -> bool:
        """One transaction; whether the client can go on."""
        offsets: dict[bytes, int | None] = {}

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                offsets[message.value() or b""] = message.offset()

        try:
            producer.begin_transaction()
            values = [self.send(producer, delivered) for _ in range(self.chance.randint(1, 15))]
            # Written, so that an abort has something to make invisible.
            producer.flush(_CALL_S)
        except KafkaException:
            return False
        told = Told.FAIL
        if self.chance.random() >= self.aborts:
            error = self._insist(lambda: producer.commit_transaction(_CALL_S))
            told = Told.OK if error is None else Told.FAIL if error.txn_requires_abort() else Told.INFO
        if told is Told.FAIL and self._insist(lambda: producer.abort_transaction(_CALL_S)) is not None:
            told = Told.INFO
        self.ended[told] += 1
        if told is Told.OK:
            producer.poll(0)
        for value in values:
            self.history.settle(value, told, offsets[value] if told is Told.OK else None)
        return told is not Told.INFO

    @staticmethod
    def _insist(call: Callable[[], object]) -> KafkaError | None:
        """Call until it is done, or fails in a way that calling again does not mend; the error then."""
        deadline = time.monotonic() + 6 * _CALL_S
        while True:
            try:
                call()
                return None
            except KafkaException as problem:
                error: KafkaError = problem.args[0]
                if not error.retriable() or error.txn_requires_abort() or time.monotonic() > deadline:
                    return error
