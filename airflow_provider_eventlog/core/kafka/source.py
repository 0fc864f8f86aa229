"""A topic as a `LogSource`: look-ups through the admin client, one request for all partitions; reads by `reader`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import IsolationLevel, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from airflow_provider_eventlog.core.errors import EventLogError, ReadError
from airflow_provider_eventlog.core.kafka.config import client_settings
from airflow_provider_eventlog.core.kafka.failures import Watch
from airflow_provider_eventlog.core.kafka.reader import RangeReader
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import FoundOffset, SliceRead, TopicDescription

if TYPE_CHECKING:
    import pyarrow as pa

# Its methods carry no types.
_Spec: Any = OffsetSpec
# A topic id of zeros is how a broker without topic ids answers.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


class KafkaSource:
    """Implements `LogSource` for one topic.

    settings    client settings; checked against the allowlist here
    deadline_s  how long any one request, or a read without progress, may take
    memory_mb   bound of the messages that the client keeps ahead of the reader
    cancel      when set, every wait ends within a moment with ReadCancelledError

    Clients are made at first use and belong to the calling thread.
    """

    def __init__(
        self,
        topic: str,
        settings: Mapping[str, Any],
        *,
        deadline_s: float = 30.0,
        memory_mb: int = 64,
        cancel: threading.Event | None = None,
    ) -> None:
        self.topic = topic
        self.deadline_s = deadline_s
        self._settings = client_settings(settings)
        self._cancel = cancel
        self._memory_mb = memory_mb
        self._watch = Watch(f"topic {topic!r}", deadline_s, cancel)
        self._admin: AdminClient | None = None
        self._partitions: tuple[int, ...] | None = None
        self._last_read: SliceRead | None = None

    def describe(self) -> TopicDescription:
        """Identity and partitions, asked anew at each call."""
        admin = self._client()
        described = self._ask(lambda: admin.describe_topics(TopicCollection([self.topic]))[self.topic], "describing")
        cluster = self._ask(admin.describe_cluster, "describing the cluster of")
        topic_id = str(described.topic_id) if described.topic_id is not None else _NO_ID
        self._partitions = tuple(sorted(p.id for p in described.partitions))
        identity = TopicIdentity(str(cluster.cluster_id), self.topic, None if topic_id == _NO_ID else topic_id)
        return TopicDescription(identity, len(self._partitions))

    def log_starts(self) -> dict[int, int]:
        """First retained offset of every partition."""
        return {p: r.offset for p, r in self._list(_Spec.earliest()).items()}

    def log_ends(self) -> dict[int, int]:
        """Last stable offset of every partition."""
        return {p: r.offset for p, r in self._list(_Spec.latest()).items()}

    def offsets_at(self, instant: int, partitions: Sequence[int] | None = None) -> dict[int, FoundOffset]:
        """First committed record at or after `instant`, per partition."""
        found = self._list(_Spec.for_timestamp(instant), partitions)
        return {
            p: FoundOffset(None, None) if r.offset < 0 else FoundOffset(r.offset, r.timestamp) for p, r in found.items()
        }

    def group_offsets(self, group: str) -> dict[int, int]:
        """Committed offsets of a consumer group."""
        from confluent_kafka import ConsumerGroupTopicPartitions

        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(self.topic, p) for p in self._known()])
        admin = self._client()
        answer = self._ask(lambda: admin.list_consumer_group_offsets([wanted])[group], f"reading group {group!r} of")
        return {tp.partition: tp.offset for tp in answer.topic_partitions if tp.error is None and tp.offset >= 0}

    def probe(self, partition: int, start: int, instant: int, believed_until: int, limit: int) -> int | None:
        """Read on from `start` to the first record whose timestamp is believed and not before `instant`."""
        if limit <= 0:
            return None
        with contextlib.closing(self._reader()) as reader:
            for batch in reader.read(OffsetRange(partition, start, start + limit), check_start=False):
                stamps = batch.column("timestamp").cast("int64").to_pylist()
                for row, stamp in enumerate(stamps):
                    if stamp is not None and instant <= stamp <= believed_until:
                        return int(batch.column("offset")[row].as_py())
        return None

    def read(self, wanted: OffsetRange) -> Iterator[pa.RecordBatch]:
        """Yield exactly the visible records of a range; see `reader`."""
        self._last_read = None
        with contextlib.closing(self._reader()) as reader:
            yield from reader.read(wanted)
            self._last_read = reader.finished

    @property
    def last_read(self) -> SliceRead:
        """What the last exhausted read established."""
        if self._last_read is None:
            raise RuntimeError("last_read is valid after a read was exhausted")
        return self._last_read

    def close(self) -> None:
        """Drop the admin client."""
        self._admin = None

    def _reader(self) -> RangeReader:
        return RangeReader(
            self.topic, self._settings, self.log_start, self._watch, self.deadline_s, self._memory_mb * 1024
        )

    def log_start(self, partition: int) -> int:
        """First retained offset of one partition."""
        return int(self._list(_Spec.earliest(), [partition])[partition].offset)

    def _known(self) -> tuple[int, ...]:
        if self._partitions is None:
            self.describe()
        assert self._partitions is not None
        return self._partitions

    def _client(self) -> AdminClient:
        if self._admin is None:
            settings = {
                **self._settings,
                "error_cb": self._watch.callback,
                # A request may not outlive the deadline by which it is reported.
                "socket.timeout.ms": self._settings.get("socket.timeout.ms", int(self.deadline_s * 1000)),
                "log_level": 0,
            }
            self._admin = AdminClient(settings)
        return self._admin

    def _list(self, spec: Any, partitions: Sequence[int] | None = None) -> dict[int, Any]:
        wanted = {TopicPartition(self.topic, p): spec for p in (self._known() if partitions is None else partitions)}
        if not wanted:
            return {}
        try:
            return self._list_once(wanted)
        except ReadError:
            # A look-up on a topic that the user may not see fails without a reason; the description has it.
            self.describe()
            raise
        except EventLogError as error:
            if not error.retriable or self._admin is None:
                raise
            # A client made before a broker died keeps asking the dead one; a new one starts from fresh metadata.
            self._admin = None
            return self._list_once(wanted)

    def _list_once(self, wanted: dict[TopicPartition, Any]) -> dict[int, Any]:
        admin = self._client()
        futures = admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self.deadline_s
        )
        return {tp.partition: self._watch.wait(f, admin.poll, "looking up offsets of") for tp, f in futures.items()}

    def _ask(self, request: Callable[[], Any], doing: str) -> Any:
        return self._watch.wait(request(), self._client().poll, doing)
