"""Topics: create, list, delete, and where each partition's log starts and ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.kafka.config import client_settings
from airflow_provider_eventlog.core.kafka.failures import Watch
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.naming import printable


class TopicAdmin:
    """Administration of topics; every call ends within `deadline_s` seconds and raises the source errors."""

    def __init__(self, settings: Mapping[str, Any], *, deadline_s: float = 30.0) -> None:
        self._settings = client_settings(settings)
        self._deadline_s = deadline_s
        self._watch = Watch("the cluster", deadline_s)
        # Kept for the life of this object: the futures of a client that was collected never resolve.
        client: dict[str, Any] = {**self._settings, "error_cb": self._watch.callback, "log_level": 0}
        self._admin = AdminClient(client)

    def create(
        self, topic: str, partitions: int = 1, replication: int = -1, config: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic; replication -1 is the cluster's default. Raises RequestError if it exists or is refused."""
        if partitions < 1:
            raise RequestError(f"A topic needs at least one partition, not {partitions}.")
        wanted = NewTopic(topic, num_partitions=partitions, replication_factor=replication, config=dict(config or {}))
        self._done(self._admin.create_topics([wanted], operation_timeout=self._deadline_s)[topic], "creating", topic)

    def delete(self, topic: str) -> None:
        """Delete a topic; raises TopicNotFoundError if there is none."""
        self._done(self._admin.delete_topics([topic], operation_timeout=self._deadline_s)[topic], "deleting", topic)

    def names(self, *, internal: bool = False) -> dict[str, int]:
        """Topics with their number of partitions; internal ones (a leading `__`) only when asked for."""
        # The watched request answers wrong credentials at once; the metadata call alone would wait its time out.
        self._watch.wait(self._admin.describe_cluster(), self._admin.poll, "asking")
        found = self._admin.list_topics(timeout=self._deadline_s).topics
        return {n: len(t.partitions) for n, t in sorted(found.items()) if internal or not n.startswith("__")}

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """Per partition (log start, last stable offset); raises TopicNotFoundError."""
        source = KafkaSource(topic, self._settings, deadline_s=self._deadline_s)
        try:
            starts, ends = source.log_starts(), source.log_ends()
        finally:
            source.close()
        return {p: (starts[p], ends[p]) for p in sorted(ends)}

    def _done(self, future: Any, doing: str, topic: str) -> None:
        from confluent_kafka import KafkaError

        from airflow_provider_eventlog.core.errors import ReadError

        self._watch.where = f"topic {printable(topic)}"
        try:
            self._watch.wait(future, self._admin.poll, doing)
        except ReadError as error:
            cause = error.__cause__
            code = cause.args[0].code() if cause is not None and cause.args else None
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                raise RequestError(f"The topic {printable(topic)} exists already.") from error
            raise RequestError(f"Kafka refused {doing} the topic {printable(topic)}: {error}") from error
