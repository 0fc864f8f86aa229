"""A topic, a home folder and a pipeline over them; what an Airflow task would do, again and again; and the evidence."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from airflow_provider_eventlog.core import rawfile, stages
from airflow_provider_eventlog.core.engine import STAGING, Engine, open_engine
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import FoundOffset, LogSource, SliceRead, TopicDescription
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging.names import TEMPORARY
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from tests.cluster.brokers import Brokers
from tests.support.checker import Evidence, History, Piece, Report, Row, Told, examine

Hook = Callable[[str], None]
SINCE_LAST = RunRequest("since_last")


def nothing(step: str) -> None:
    """Let every step pass."""


class Watched:
    """A source that tells a hook each step: requests and reads before they are made, and each batch of a read."""

    def __init__(self, source: KafkaSource, hook: Hook) -> None:
        self.source, self.hook = source, hook

    def describe(self) -> TopicDescription:
        self.hook("describe")
        return self.source.describe()

    def log_starts(self) -> dict[int, int]:
        self.hook("log_starts")
        return self.source.log_starts()

    def log_ends(self) -> dict[int, int]:
        self.hook("log_ends")
        return self.source.log_ends()

    def offsets_at(self, instant: int, partitions: Any = None) -> dict[int, FoundOffset]:
        self.hook("offsets_at")
        return self.source.offsets_at(instant, partitions)

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        self.hook("read")
        for batch in self.source.read(wanted, record_loss=record_loss):
            yield batch
            self.hook(f"got {batch.column('offset')[-1].as_py() + 1} of {wanted}")

    @property
    def last_read(self) -> SliceRead:
        return self.source.last_read

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


class World:
    """What is run against the brokers; each attempt opens everything anew, as a task's process does.

    tried  errors of attempts by class; every one of them was retriable. said: their messages
    """

    def __init__(self, brokers: Brokers, topic: str, home: Path, **stream: Any) -> None:
        self.brokers, self.topic, self.home = brokers, topic, home
        self.history = History()
        self.tried: Counter[str] = Counter()
        self.said: list[str] = []
        declared = Stream(topic, name="s", decode=Raw(), **{"start": "earliest", **stream})
        self.pipeline = Pipeline("p", stream=declared, outputs=[Rows(DuckDB("out.duckdb", table="t"))])
        self._runs = 0

    def source(self, deadline_s: float = 10.0, memory_mb: int = 64) -> KafkaSource:
        """A source that goes through the proxies."""
        return KafkaSource(self.topic, self.brokers.settings, deadline_s=deadline_s, memory_mb=memory_mb)

    def engine(self, hook: Hook = nothing, **source: Any) -> Engine:
        """An engine whose source tells `hook` its steps."""
        engine = open_engine(self.pipeline.stream, client=self.brokers.settings, home=self.home)

        def open_source(_: Stream) -> LogSource:
            watched: LogSource = Watched(self.source(**source), hook)
            return watched

        engine.open_source = open_source
        return engine

    def fill(self, count: int, padding: int = 0, partitions: int = 1, session: str = "fill") -> None:
        """Write records from beside the proxies; all must be acknowledged."""
        producer = Producer({**self.brokers.direct, "enable.idempotence": True, "log_level": 0})
        for index in range(count):
            value = self.history.begin(session, index % partitions, padding)
            while True:
                try:
                    producer.produce(self.topic, value, partition=index % partitions, on_delivery=self._delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        assert producer.flush(60.0) == 0

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        value = message.value()
        assert value is not None
        self.history.settle(value, Told.OK, message.offset())

    def attempt(
        self, key: str = "run", request: RunRequest = SINCE_LAST, hook: Hook = nothing, **source: Any
    ) -> EventLogError | None:
        """One attempt at a run, from plan to load; the error if it failed, which must then be retriable."""
        try:
            with self.engine(hook, **source) as engine:
                stages.run(engine, self.pipeline, request, key)
        except EventLogError as error:
            if not error.retriable:
                raise
            self.tried[type(error).__name__] += 1
            self.said.append(str(error))
            return error
        return None

    def retry(self, key: str = "run", request: RunRequest = SINCE_LAST, tries: int = 5) -> None:
        """Plain retries until the run is done."""
        said = ""
        for _ in range(tries):
            error = self.attempt(key, request)
            if error is None:
                return
            said = f"{type(error).__name__}: {error}"
        raise AssertionError(f"run {key!r} is not done after {tries} plain retries: {said}")

    def drain(self) -> None:
        """Run since-last until nothing is left; no transaction may be open."""
        while True:
            self._runs += 1
            self.retry(f"drain-{self._runs}")
            with self.engine() as engine:
                cursor = engine.ledger.cuts("s", 1)[-1].offsets
                if cursor == engine.source(self.pipeline.stream).log_ends():
                    return

    def verify(self) -> Report:
        """Examine everything; raises AssertionError with what is wrong."""
        report = examine(self.history, self.evidence())
        print(f"checker: {report}; failed attempts: {dict(self.tried)}")
        assert report.anomalies == (), f"\n{report}\ninjected: {self.brokers.injected}"
        return report

    def evidence(self) -> Evidence:
        """Look at manifests, raw files, table, log and temporary files."""
        with self.engine() as engine:
            cuts = engine.ledger.cuts("s", 1)
            names = list(engine.staging.list("s/epoch=1/manifests"))
            pieces = [
                self._piece(engine, entry)
                for name in names
                for entry in (engine.staging.read_json(name) or {})["slices"]
            ]
        with duckdb.connect(str(self.home / "out.duckdb"), read_only=True) as connection:
            rows = connection.execute("select _partition, _offset, value from t").fetchall()
        left = (self.home / STAGING / TEMPORARY).glob("*")
        return Evidence(
            origin=cuts[0].offsets,
            cursor=cuts[-1].offsets,
            pieces=tuple(pieces),
            target=tuple(Row(*row) for row in rows),
            quarantine=(),
            log={partition: self.log(partition) for partition in cuts[-1].offsets},
            leftovers=tuple(str(path) for path in left),
            faults=tuple(self.brokers.injected),
        )

    def _piece(self, engine: Engine, entry: dict[str, Any]) -> Piece:
        table = rawfile.read_table(engine.staging.open(entry["path"]), ["partition", "offset", "value"])
        rows = zip(*(table[name].to_pylist() for name in ("partition", "offset", "value")), strict=True)
        counts = entry["accounting"]
        return Piece(
            OffsetRange.parse(entry["range"]),
            counts["landed"],
            counts["invisible"],
            counts["lost"],
            tuple(Row(*row) for row in rows),
        )

    def log(self, partition: int) -> dict[int, bytes]:
        """A direct committed read of a partition up to its last stable offset, beside proxies and product."""
        settings = {
            **self.brokers.direct,
            "group.id": "checker",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
        found: dict[int, bytes] = {}
        consumer, deadline = Consumer(settings), time.monotonic() + 60
        try:
            start, end = consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=30)
            consumer.assign([TopicPartition(self.topic, partition, start)])
            while True:
                assert time.monotonic() < deadline, f"the direct read stands still at {max(found, default=start)}"
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    found[int(message.offset() or 0)] = message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF and int(message.offset() or 0) >= end:
                    return found
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
        finally:
            consumer.close()
