"""What the tests on a real broker share: the marker, an admin client, a producer whose receipts are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient

Headers = list[tuple[str, str | bytes | None]]
Record = tuple[int, bytes | None, bytes | None, int | None, Headers]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder `kafka`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("kafka")


@pytest.fixture(scope="session")
def admin(eventlog_kafka: Any) -> AdminClient:
    """An admin client of the session's broker."""
    return AdminClient({"bootstrap.servers": eventlog_kafka.bootstrap_servers, "log_level": 0})


@pytest.fixture(scope="session")
def produce(eventlog_kafka: Any) -> Callable[[str, Iterable[Record]], list[tuple[int | None, int | None]]]:
    """`produce(topic, [(partition, key, value, timestamp in ms or None, headers)])`: each one's (partition, offset)."""
    # The client may be collected after the broker has gone, and would say so on the terminal.
    producer = Producer({"bootstrap.servers": eventlog_kafka.bootstrap_servers, "acks": "all", "log_level": 0})

    def send(topic: str, records: Iterable[Record]) -> list[tuple[int | None, int | None]]:
        receipts: list[tuple[KafkaError | None, Message]] = []
        sent = 0
        for partition, key, value, timestamp, headers in records:
            producer.produce(
                topic,
                value,
                key,
                partition,
                timestamp=timestamp or 0,
                headers=headers,
                on_delivery=lambda error, message: receipts.append((error, message)),
            )
            producer.poll(0)
            sent += 1
        assert producer.flush(30.0) == 0
        assert [error for error, _ in receipts if error is not None] == []
        assert len(receipts) == sent
        return [(message.partition(), message.offset()) for _, message in receipts]

    return send
