"""Waiting for new offsets in the triggerer: asks where the log ends, consumes nothing, never opens the ledger."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_eventlog.core.errors import EventLogError, TopicReplacedError
from airflow_provider_eventlog.hooks.eventlog import checked_settings

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.kafka.source import KafkaSource

# After a failure that may pass, the next look waits 1, 2, 4 ... seconds, at most this.
_BACKOFF_MAX_S = 60.0


class OffsetsTrigger(BaseTrigger):
    """Fires when at least `min_offsets` lie beyond `positions`, or one does and `max_wait` seconds are over.

    topic, kafka_conn_id  what to ask; the connection is read here, so that no secret is among the arguments
    positions             {partition: offset} from where offsets count; an unknown partition counts from its log start
    min_offsets           how many must be there
    max_wait              seconds since `started_at` after which one is enough; None: never
    pending               offsets that count beside these
    topic_id              the topic's id; another one is an error; None where it is not known
    poll_interval         seconds between two looks
    started_at            when the waiting began, in seconds since 1970

    The event is {"status": "ready", "new_offsets": n} or {"status": "error", "error": class, "message": text}.
    Failures that may pass are tried again with growing pauses, for as long as the trigger lives. Kafka is asked in a
    thread of this trigger's own, so neither the event loop nor another trigger waits for it.
    """

    def __init__(
        self,
        *,
        topic: str,
        kafka_conn_id: str,
        positions: Mapping[str, int] | Mapping[int, int],
        min_offsets: int,
        max_wait: float | None = None,
        pending: int = 0,
        topic_id: str | None = None,
        poll_interval: float = 30.0,
        started_at: float | None = None,
        **_later: Any,
    ) -> None:
        # A triggerer of this release may be handed what a newer worker has deferred with: unknown names are left alone.
        super().__init__()  # type: ignore[no-untyped-call]
        self.topic, self.kafka_conn_id, self.topic_id = topic, kafka_conn_id, topic_id
        self.positions = {int(p): int(o) for p, o in positions.items()}
        self.min_offsets, self.max_wait, self.pending = min_offsets, max_wait, pending
        self.poll_interval = poll_interval
        self.started_at = time.time() if started_at is None else started_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, JSON values only."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "topic": self.topic,
                "kafka_conn_id": self.kafka_conn_id,
                "positions": {str(p): o for p, o in sorted(self.positions.items())},
                "min_offsets": self.min_offsets,
                "max_wait": self.max_wait,
                "pending": self.pending,
                "topic_id": self.topic_id,
                "poll_interval": self.poll_interval,
                "started_at": self.started_at,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, wait, look again."""
        cancel = threading.Event()
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"offsets-{self.topic}")
        ask = asyncio.get_running_loop().run_in_executor
        failures, source = 0, None
        try:
            connection = await BaseHook.aget_connection(self.kafka_conn_id)
            while True:
                try:
                    if source is None:
                        source = await ask(thread, self._open, connection.extra_dejson, cancel)
                    new = self.pending + await ask(thread, self._look, source)
                    failures = 0
                except EventLogError as error:
                    if not error.retriable:
                        yield _event(status="error", error=type(error).__name__, message=str(error))
                        return
                    failures += 1
                    pause = min(2.0 ** (failures - 1), _BACKOFF_MAX_S)
                    self.log.warning("Kafka cannot be asked now (%s); again in %g s", error, pause)
                    await asyncio.sleep(pause)
                    continue
                if ready(new, time.time() - self.started_at, self.min_offsets, self.max_wait):
                    yield _event(status="ready", new_offsets=new)
                    return
                await asyncio.sleep(self._pause(new))
        finally:
            # Ends a look that is under way within a moment; nobody waits for it here.
            cancel.set()
            thread.shutdown(wait=False, cancel_futures=True)

    def _pause(self, new: int) -> float:
        if not new or self.max_wait is None:
            return self.poll_interval
        left = self.started_at + self.max_wait - time.time()
        return max(0.0, min(self.poll_interval, left))

    def _open(self, extra: Mapping[str, Any], cancel: threading.Event) -> KafkaSource:
        # Imported in the thread: the Kafka client takes longer to load than the event loop may be held up.
        from airflow_provider_eventlog.core.kafka.source import KafkaSource

        return KafkaSource(self.topic, checked_settings(extra), cancel=cancel)

    def _look(self, source: KafkaSource) -> int:
        found = source.describe().identity
        if self.topic_id is not None and found.topic_id != self.topic_id:
            raise TopicReplacedError(
                f"Topic {self.topic!r} is another one than before: it had id {self.topic_id}, now it has "
                f"{found.topic_id}. It was deleted and created again, or the connection points at another cluster."
            )
        return beyond(source.log_ends(), self.positions, source.log_start)


def _event(**payload: Any) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def beyond(ends: Mapping[int, int], positions: Mapping[int, int], log_start: Callable[[int], int]) -> int:
    """How many offsets lie between `positions` and `ends`; a partition without a position counts from its log start."""
    return sum(max(0, end - (positions[p] if p in positions else log_start(p))) for p, end in ends.items())


def ready(new: int, waited_s: float, min_offsets: int, max_wait_s: float | None) -> bool:
    """Whether `new` offsets are enough after waiting `waited_s` seconds."""
    return new >= min_offsets or (max_wait_s is not None and waited_s >= max_wait_s and new >= 1)
