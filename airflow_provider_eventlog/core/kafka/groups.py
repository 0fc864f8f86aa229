"""Reading as a member of a consumer group: for people who look into a topic. No stage of a batch uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from airflow_provider_eventlog.core.kafka.config import client_settings
from airflow_provider_eventlog.core.kafka.failures import Watch, translate


def consume(
    topic: str,
    group: str,
    settings: Mapping[str, Any],
    *,
    idle_s: float = 10.0,
    limit: int | None = None,
    on_assign: Callable[[list[int]], None] = lambda partitions: None,
) -> Iterator[Message]:
    """Yield records as a member of `group`, from where the group stands (its beginning if new).

    Ends after `limit` records, or when nothing came for `idle_s` seconds: silence is what a person waits for, and
    why batches are not made this way. Offsets are committed when it ends, for the records that were yielded.
    `on_assign` is called with the partitions of this member at each rebalance. Raises the source errors.
    """
    watch = Watch(f"topic {topic!r}", idle_s)
    consumer = Consumer(
        {
            **client_settings(settings),
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "error_cb": watch.callback,
            "log_level": 0,
        }
    )

    def assigned(_: Consumer, partitions: list[TopicPartition]) -> None:
        on_assign(sorted(p.partition for p in partitions))

    taken: dict[int, int] = {}
    try:
        consumer.subscribe([topic], on_assign=assigned)
        silent_since, count = time.monotonic(), 0
        while (limit is None or count < limit) and time.monotonic() - silent_since < idle_s:
            message = consumer.poll(0.1)
            watch.check()
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    continue
                raise translate(error, f"topic {topic!r}")
            silent_since, count = time.monotonic(), count + 1
            taken[int(message.partition() or 0)] = int(message.offset() or 0) + 1
            yield message
    finally:
        if taken:
            offsets = [TopicPartition(topic, p, o) for p, o in taken.items()]
            consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()
