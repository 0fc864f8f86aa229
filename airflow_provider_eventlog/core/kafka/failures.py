"""Kafka's errors as this package's own, and the watch over errors that arrive only through callbacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import wait as wait_for
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException

from airflow_provider_eventlog.core.errors import (
    EventLogError,
    OffsetsLostError,
    ReadCancelledError,
    ReadError,
    SourceAuthenticationError,
    SourceAuthorizationError,
    SourceUnavailableError,
    TopicNotFoundError,
)

_AUTHENTICATION = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}
_AUTHORIZATION = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_UNREACHABLE = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.NETWORK_EXCEPTION,
    # A leader that was elected just now, or one that does not know yet that it no longer is.
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
    KafkaError._DESTROY,
}
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_ID}
OUT_OF_RANGE = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}
# How often a waiting thread looks at the error flag and at the cancel event.
TICK_S = 0.05


def translate(error: KafkaError | KafkaException, where: str) -> EventLogError:
    """The package's error for a Kafka error; `where` names topic or operation."""
    found = error.args[0] if isinstance(error, KafkaException) else error
    if not isinstance(found, KafkaError):
        return ReadError(f"Kafka failed at {where}: {found}")
    code, text = found.code(), found.str()
    if code in _AUTHENTICATION:
        return SourceAuthenticationError(
            f"Kafka refused the connection at {where}: {text}. Check credentials and certificates."
        )
    if code in _AUTHORIZATION:
        return SourceAuthorizationError(
            f"Kafka denies the user {where}: {text}. READ and DESCRIBE on the topic are needed (no group)."
        )
    if code in _UNKNOWN:
        return TopicNotFoundError(f"Kafka does not know {where}: {text}. Check the topic's name and the cluster.")
    if code in OUT_OF_RANGE:
        return OffsetsLostError(f"Kafka no longer has the offsets at {where}: {text}.")
    if code in _UNREACHABLE or found.retriable():
        return SourceUnavailableError(f"Kafka did not answer at {where}: {text}. It is tried again.")
    return ReadError(f"Kafka failed at {where}: {found.name()}: {text}")


class Watch:
    """Collects what reaches only `error_cb`: wrong credentials and certificates raise at once, not after a time-out."""

    def __init__(self, where: str, deadline_s: float, cancel: threading.Event | None = None) -> None:
        self.where, self.deadline_s, self.cancel = where, deadline_s, cancel
        self._fatal: KafkaError | None = None
        self._last: KafkaError | None = None

    def callback(self, error: KafkaError) -> None:
        """Give this to a client as `error_cb`."""
        self._last = error
        if error.code() in _AUTHENTICATION:
            self._fatal = error

    def check(self) -> None:
        """Raise what has arrived: SourceAuthenticationError, or ReadCancelledError if told to stop."""
        if self._fatal is not None:
            raise translate(self._fatal, self.where)
        if self.cancel is not None and self.cancel.is_set():
            raise ReadCancelledError(f"Told to stop while reading {self.where}; nothing of it was published.")

    def timed_out(self, doing: str) -> NoReturn:
        """Raise SourceUnavailableError with the last thing that Kafka's client said."""
        self.check()
        said = f" The client's last word: {self._last.str()}." if self._last is not None else ""
        raise SourceUnavailableError(
            f"Kafka did not answer within {self.deadline_s:g} s while {doing} {self.where}.{said}"
        )

    def wait(self, future: Any, poll: Callable[[float], object], doing: str, limit_s: float | None = None) -> Any:
        """The result of an admin future; polls the client so that error callbacks are served meanwhile.

        Waits `limit_s` seconds, by default the deadline.
        """
        deadline = time.monotonic() + (self.deadline_s if limit_s is None else limit_s)
        # Waiting on the future and not in `poll`: an answer wakes the one, only a callback wakes the other.
        while not wait_for((future,), TICK_S).done:
            poll(0)
            self.check()
            if time.monotonic() > deadline:
                self.timed_out(doing)
        self.check()
        try:
            return future.result()
        except KafkaException as error:
            self.check()
            raise translate(error, self.where) from error
