"""Topics for tests: made, and ready to be written, when the call returns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from airflow_provider_eventlog.devkafka.errors import DevKafkaError


def create_topic(
    bootstrap_servers: str,
    name: str,
    partitions: int = 1,
    config: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> None:
    """Create a topic with the brokers' default replication and wait until each partition has a leader.

    Raises `DevKafkaError` with Kafka's reason (the name is taken, a setting is unknown), or after `timeout` seconds.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    deadline = time.monotonic() + timeout
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=dict(config or {}))
    try:
        client.create_topics([topic], request_timeout=timeout)[name].result()
        while time.monotonic() < deadline:
            found = client.list_topics(name, timeout=timeout).topics[name]
            if len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return
            time.sleep(0.02)
    except KafkaException as error:
        raise DevKafkaError(
            f"Topic {name!r} could not be made on {bootstrap_servers}: {error.args[0].str()}"
        ) from error
    raise DevKafkaError(f"Topic {name!r} on {bootstrap_servers} had no leaders for {timeout:g} s after it was made.")


def delete_topics(bootstrap_servers: str, names: Iterable[str], timeout: float = 30.0) -> None:
    """Delete topics; one that is already gone is fine. `DevKafkaError` for any other refusal."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    wanted = list(names)
    for name, future in (client.delete_topics(wanted, request_timeout=timeout) if wanted else {}).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise DevKafkaError(f"Topic {name!r} could not be deleted: {error.args[0].str()}") from error
