"""Kafka through an Airflow connection of the official provider's type `kafka`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_provider_eventlog.core.errors import OffsetRangeError, RequestError
from airflow_provider_eventlog.core.offsets import OffsetRange, parse_ranges

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
    from airflow_provider_eventlog.core.kafka.producer import Record, Sent

# `read` answers one table in memory; more than this is a pipeline's work.
MAX_READ_OFFSETS = 5_000_000


class EventLogHook(BaseHook):
    """Produce to topics, look after them, and read exact ranges of them. Nothing is subscribed or committed.

    kafka_conn_id  connection of type `kafka`; its extra holds client settings, checked against an allowlist
    deadline_s     how long any one request, or a read without progress, may take

    Every method raises ConnectionConfigError for a connection that cannot be used, and the source errors of
    `core.errors`: SourceUnavailableError (retriable), SourceAuthenticationError, SourceAuthorizationError,
    TopicNotFoundError.
    """

    conn_name_attr = "kafka_conn_id"
    default_conn_name = "kafka_default"
    conn_type = "kafka"
    hook_name = "Kafka event log"

    def __init__(self, kafka_conn_id: str = default_conn_name, *, deadline_s: float = 30.0) -> None:
        super().__init__()
        self.kafka_conn_id = kafka_conn_id
        self.deadline_s = deadline_s

    def client_settings(self) -> dict[str, Any]:
        """The connection's client settings; every secret among them is masked in logs from here on."""
        return checked_settings(self.get_connection(self.kafka_conn_id).extra_dejson)

    async def aclient_settings(self) -> dict[str, Any]:
        """The same from an event loop."""
        return checked_settings((await self.aget_connection(self.kafka_conn_id)).extra_dejson)

    def produce(self, topic: str, records: Iterable[Record | bytes | str], mode: str = "sync") -> Sent:
        """Send records, acknowledged by all in-sync replicas; bare bytes or text are values without a key.

        mode "sync" waits for each receipt before the next record, "async" for all at the end, "fire_and_forget"
        only counts what failed. Receipts (topic, partition, offset, timestamp in ms) are in the records' order.
        """
        from airflow_provider_eventlog.core.kafka.producer import Record, produce

        def as_records() -> Iterable[Record]:
            for record in records:
                if isinstance(record, Record):
                    yield record
                else:
                    yield Record(record.encode() if isinstance(record, str) else record)

        return produce(topic, as_records(), self.client_settings(), mode=mode, deadline_s=self.deadline_s)

    def list_topics(self) -> dict[str, int]:
        """Topics with their number of partitions, without Kafka's internal ones."""
        return self._admin().names()

    def create_topic(
        self, topic: str, partitions: int = 1, replication: int = -1, config: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic; replication -1 is the cluster's default. Raises RequestError if it exists."""
        self._admin().create(topic, partitions, replication, config)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and all that is in it."""
        self._admin().delete(topic)

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """Per partition (log start, last stable offset)."""
        return self._admin().watermarks(topic)

    def read(
        self, topic: str, ranges: str | Iterable[OffsetRange] | None = None, *, max_offsets: int = MAX_READ_OFFSETS
    ) -> pa.Table:
        """The committed records of exact ranges as one Arrow table, in the order of the ranges.

        ranges       OffsetRange values or text such as `0:100-200,1:0-50`; None is the whole log as it is now
        max_offsets  more offsets than this are refused with RequestError before anything is read

        Columns: topic, partition, offset, timestamp, timestamp_type, key, value, headers; bytes stay bytes. Raises
        OffsetRangeError for a partition that the topic does not have or an end beyond its log, OffsetsLostError
        below its log start.
        """
        import pyarrow as pa

        from airflow_provider_eventlog.core.kafka.source import KafkaSource
        from airflow_provider_eventlog.core.rawfile import RAW_SCHEMA

        source = KafkaSource(topic, self.client_settings(), deadline_s=self.deadline_s)
        try:
            starts, ends = source.log_starts(), source.log_ends()
            if ranges is None:
                wanted: tuple[OffsetRange, ...] = tuple(OffsetRange(p, starts[p], ends[p]) for p in sorted(ends))
            else:
                wanted = parse_ranges(ranges) if isinstance(ranges, str) else tuple(ranges)
            _check(topic, wanted, ends, max_offsets)
            batches = [batch for one in wanted for batch in source.read(one)]
        finally:
            source.close()
        return pa.Table.from_batches(batches, RAW_SCHEMA)

    def read_pandas(
        self, topic: str, ranges: str | Iterable[OffsetRange] | None = None, *, max_offsets: int = MAX_READ_OFFSETS
    ) -> pd.DataFrame:
        """The same as a pandas DataFrame."""
        return self.read(topic, ranges, max_offsets=max_offsets).to_pandas()  # type: ignore[no-any-return]

    def test_connection(self) -> tuple[bool, str]:
        """Whether the cluster answers, for Airflow's connection form; never raises."""
        try:
            return True, f"Kafka answers; {len(self.list_topics())} topics."
        except Exception as error:
            return False, str(error)

    def _admin(self) -> TopicAdmin:
        from airflow_provider_eventlog.core.kafka.admin import TopicAdmin

        return TopicAdmin(self.client_settings(), deadline_s=self.deadline_s)


def checked_settings(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Client settings of a connection's extra, its secrets masked; raises ConnectionConfigError."""
    from airflow_provider_eventlog.core.kafka.config import client_settings, secret_values

    # Before the check: its message, and any traceback, must already be masked.
    for value in secret_values(extra):
        mask_secret(value)
    return client_settings(extra)


def _check(topic: str, wanted: tuple[OffsetRange, ...], ends: Mapping[int, int], max_offsets: int) -> None:
    for one in wanted:
        if one.partition not in ends:
            raise OffsetRangeError(f"Topic {topic!r} has {len(ends)} partitions, not one numbered {one.partition}.")
        if one.end > ends[one.partition]:
            raise OffsetRangeError(
                f"Partition {one.partition} of topic {topic!r} ends at {ends[one.partition]}; {one} goes beyond it."
            )
    total = sum(map(len, wanted))
    if total > max_offsets:
        raise RequestError(
            f"{total} offsets of topic {topic!r} were asked for; at most {max_offsets} are read into memory. "
            f"Ask for less, raise max_offsets, or take them with a pipeline."
        )
