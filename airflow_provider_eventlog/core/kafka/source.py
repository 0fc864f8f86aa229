"""A topic as a `LogSource`: look-ups through the admin client, one request for all partitions; reads by `reader`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_INVALID, IsolationLevel, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec

from airflow_provider_eventlog.core.errors import ReadError, SourceUnavailableError
from airflow_provider_eventlog.core.kafka.config import client_settings
from airflow_provider_eventlog.core.kafka.failures import Watch
from airflow_provider_eventlog.core.kafka.reader import RangeReader
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import FoundOffset, Retention, SliceRead, TopicDescription

if TYPE_CHECKING:
    import pyarrow as pa

# Its methods carry no types.
_Spec: Any = OffsetSpec
# A topic id of zeros is how a broker without topic ids answers.
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
# What the first clients that are asked may take of a request's deadline; the next one gets the rest.
_SHARES = (1 / 6, 1 / 3)
# A leader that has just been elected refuses at once: the same question is asked again after so long.
_PAUSE_S = 0.2


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
        wanted = TopicCollection([self.topic])
        described = self._ask(
            lambda admin, limit_s: admin.describe_topics(wanted, request_timeout=limit_s), "describing"
        )[self.topic]
        cluster = self._ask(
            lambda admin, limit_s: {"": admin.describe_cluster(request_timeout=limit_s)}, "describing the cluster of"
        )[""]
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

    def high_watermarks(self) -> dict[int, int]:
        """Offset behind the last replicated record of every partition, committed or not."""
        return {p: r.offset for p, r in self._list(_Spec.latest(), committed=False).items()}

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
        answer = self._ask(
            lambda admin, limit_s: admin.list_consumer_group_offsets([wanted], request_timeout=limit_s),
            f"reading group {group!r} of",
        )[group]
        return {tp.partition: tp.offset for tp in answer.topic_partitions if tp.error is None and tp.offset >= 0}

    def retention(self) -> Retention:
        """What the topic's configuration says of when records go; needs DESCRIBE_CONFIGS."""
        wanted = ConfigResource(ConfigResource.Type.TOPIC, self.topic)
        answer = self._ask(
            lambda admin, limit_s: admin.describe_configs([wanted], request_timeout=limit_s),
            "asking for the configuration of",
        )
        found = next(iter(answer.values()))

        def limit(name: str) -> int | None:
            value = int(found[name].value)
            return None if value < 0 else value

        return Retention(
            cleanup=tuple(filter(None, str(found["cleanup.policy"].value).replace(" ", "").split(","))),
            ms=limit("retention.ms"),
            bytes=limit("retention.bytes"),
            timestamps=str(found["message.timestamp.type"].value),
        )

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

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield exactly the visible records of a range; see `reader`."""
        self._last_read = None
        with contextlib.closing(self._reader()) as reader:
            yield from reader.read(wanted, record_loss=record_loss)
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

    def _list(self, spec: Any, partitions: Sequence[int] | None = None, *, committed: bool = True) -> dict[int, Any]:
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        wanted = {TopicPartition(self.topic, p): spec for p in (self._known() if partitions is None else partitions)}
        if not wanted:
            return {}
        try:
            found = self._ask(
                lambda admin, limit_s: admin.list_offsets(wanted, isolation_level=level, request_timeout=limit_s),
                "looking up offsets of",
            )
        except ReadError:
            # A look-up on a topic that the user may not see fails without a reason; the description has it.
            self.describe()
            raise
        return {tp.partition: answer for tp, answer in found.items()}

    def _ask(self, request: Callable[[AdminClient, float], Mapping[Any, Any]], doing: str) -> dict[Any, Any]:
        """The answers to the futures that `request(client, seconds)` makes, all within the deadline.

        A client that was made before a broker died, or was told of the dead one by another that had not noticed, keeps
        asking it: each gets a share of the time only, then a new one starts from fresh metadata.
        """
        deadline = time.monotonic() + self.deadline_s
        shares = chain(_SHARES, repeat(1))
        while True:
            limit_s = min(self.deadline_s * next(shares), deadline - time.monotonic())
            try:
                return self._ask_once(request, doing, limit_s)
            except SourceUnavailableError:
                self._admin = None
                if time.monotonic() + 2 * _PAUSE_S > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def _ask_once(
        self, request: Callable[[AdminClient, float], Mapping[Any, Any]], doing: str, limit_s: float
    ) -> dict[Any, Any]:
        admin = self._client()
        answers = {
            key: self._watch.wait(future, admin.poll, doing, limit_s) for key, future in request(admin, limit_s).items()
        }
        # Offsets that a dead leader should have given are left invalid by the client, without any error.
        if any(getattr(answer, "offset", 0) == OFFSET_INVALID for answer in answers.values()):
            self._watch.timed_out(doing)
        return answers
