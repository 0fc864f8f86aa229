"""What the tests on losses and shapes of a log share: a topic whose committed records are known, and its landing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from airflow_provider_eventlog.core import rawfile, stages
from airflow_provider_eventlog.core.engine import Engine, open_engine
from airflow_provider_eventlog.core.errors import TopicNotFoundError
from airflow_provider_eventlog.core.kafka import source as source_module
from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, RunPlan, merged, subtract
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream

if TYPE_CHECKING:
    import pyarrow as pa

SINCE_LAST = RunRequest("since_last", parallelism=1)
PATIENCE_S = 60.0
# What a test compares of a record: key, value, headers.
Content = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


def until(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Ask for a condition until it holds; fails after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:g} s"
        time.sleep(0.02)


class Topic:
    """A topic and what was committed to it: `sent[partition, offset]`, whether Kafka still has it or not."""

    def __init__(self, servers: str, name: str) -> None:
        self.settings, self.name = {"bootstrap.servers": servers}, name
        self.admin = AdminClient({**self.settings, "log_level": 0})
        self.sent: dict[tuple[int, int], Content] = {}
        self._producers = 0

    def send(self, *records: Record, mode: str = "async") -> None:
        """Write records to the partitions that they name, 0 where none; with mode="sync" each is a batch of its own."""
        chosen = [r if r.partition is not None else Record(r.value, r.key, 0, r.timestamp, r.headers) for r in records]
        receipts = produce(self.name, chosen, self.settings, mode=mode).receipts
        assert len(receipts) == len(records)
        for record, receipt in zip(chosen, receipts, strict=True):
            self.sent[receipt.partition, receipt.offset] = (record.key, record.value, tuple(record.headers))

    def values(self, *values: bytes | None, partition: int = 0) -> None:
        """Write values with a key of their own."""
        self.send(*(Record(v, b"k", partition) for v in values))

    def transaction(self, *values: bytes, end: str, partition: int = 0) -> Producer:
        """Write values in one transaction; `end` is commit, abort or open. Its marker takes an offset of its own."""
        self._producers += 1
        settings = {**self.settings, "transactional.id": f"{self.name}-{self._producers}", "log_level": 0}
        producer = Producer(settings)
        producer.init_transactions(30)
        producer.begin_transaction()
        receipts: list[tuple[KafkaError | None, Message]] = []
        for value in values:
            producer.produce(self.name, value, b"k", partition, on_delivery=lambda e, m: receipts.append((e, m)))
        assert producer.flush(30) == 0
        assert [e for e, _ in receipts] == [None] * len(values)
        placed = {(partition, int(m.offset() or 0)): v for (_, m), v in zip(receipts, values, strict=True)}
        if end == "abort":
            producer.abort_transaction(30)
        else:
            # Of an open one this is what its commit will make visible.
            self.sent.update({at: (b"k", value, ()) for at, value in placed.items()})
        if end == "commit":
            producer.commit_transaction(30)
        if end != "open":
            # The coordinator writes the marker after it has answered.
            last = max(offset for _, offset in placed)
            until("the marker is written", lambda: self.source().log_ends()[partition] > last + 1)
        return producer

    def source(self, **knobs: Any) -> KafkaSource:
        """A source of its own."""
        return KafkaSource(self.name, self.settings, **{"deadline_s": 20.0, **knobs})

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Move the log start, as retention does."""
        for future in self.admin.delete_records([TopicPartition(self.name, partition, offset)]).values():
            future.result(30)

    def grow(self, partitions: int) -> None:
        """Add partitions, up to so many."""
        for future in self.admin.create_partitions([NewPartitions(self.name, partitions)]).values():
            future.result(30)
        until("every broker knows the partitions", lambda: self.source().describe().partitions == partitions)

    def delete(self) -> None:
        """Delete the topic, and return when it is gone."""
        topics = TopicAdmin(self.settings)
        topics.delete(self.name)
        until("the topic is gone", lambda: self.name not in topics.names())

    def create(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create it anew; nothing is known of what it held before."""
        TopicAdmin(self.settings).create(self.name, partitions, config=config)
        until("the topic is there", lambda: self._partitions() == partitions)
        self.sent.clear()

    def _partitions(self) -> int:
        # A broker that has not heard of the topic yet answers that there is none.
        with contextlib.suppress(TopicNotFoundError):
            return len(self.source().log_ends())
        return 0


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each look-up that a source makes from now on, how many partitions it asks for."""
    asked: list[int] = []

    class Counting(AdminClient):
        def list_offsets(self, wanted: Any, **knobs: Any) -> Any:  # type: ignore[override]
            asked.append(len(wanted))
            return super().list_offsets(wanted, **knobs)

    monkeypatch.setattr(source_module, "AdminClient", Counting)
    return asked


class Halfway(KafkaSource):
    """A source that stops once, behind the batch with which a read has given `after` rows, for `between`.

    `seen` is the position there, -1 before.
    """

    def __init__(self, topic: Topic, between: Callable[[], None], *, after: int = 200, **knobs: Any) -> None:
        # A queue of one megabyte, so that most of a range is still with the broker when its first rows are there.
        super().__init__(topic.name, topic.settings, memory_mb=1, **{"deadline_s": 20.0, **knobs})
        self.between, self.after, self.seen = between, after, -1

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield some batches, let the world change, yield the rest."""
        given = 0
        for batch in super().read(wanted, record_loss=record_loss):
            yield batch
            given += batch.num_rows
            if self.seen < 0 and given >= self.after:
                self.seen = batch.column("offset")[-1].as_py() + 1
                assert self.seen < wanted.end, "the range is read whole: nothing can come between"
                self.between()


class World:
    """A home over a topic: plans, lands, and compares what was landed with what was sent."""

    def __init__(self, topic: Topic, home: Path) -> None:
        self.topic, self.home = topic, home

    def pipeline(self, **stream: Any) -> Pipeline:
        """One pipeline; the keywords are the stream's."""
        made = Stream(self.topic.name, name="s", **{"start": "earliest", "decode": Raw(), **stream})
        outputs = [Rows(DuckDB("out.duckdb", table="t"))]
        return Pipeline("p", stream=made, transform="select value, _key as k from batch", outputs=outputs)

    def engine(self, pipeline: Pipeline, source: KafkaSource | None = None) -> Engine:
        """The engine, over a source that a test has made or over a plain one."""
        engine = open_engine(pipeline.stream, client=self.topic.settings, home=self.home)
        engine.open_source = lambda _: source or self.topic.source()
        return engine

    def plan(self, pipeline: Pipeline, key: str = "r", request: RunRequest = SINCE_LAST) -> RunPlan:
        """Plan a run."""
        with self.engine(pipeline) as engine:
            return stages.plan(engine, pipeline, request, key)

    def land(self, pipeline: Pipeline, key: str = "r", source: KafkaSource | None = None) -> dict[str, Any]:
        """Land a run's one group."""
        with self.engine(pipeline, source) as engine:
            return stages.land(engine, pipeline, key, 0)

    def finish(self, pipeline: Pipeline, key: str = "r") -> dict[str, Any]:
        """Transform, validate and load; the accounting of the run's batches is what validate established."""
        with self.engine(pipeline) as engine:
            stages.transform(engine, pipeline, key, 0)
            found = stages.validate(engine, pipeline, key)
            stages.load(engine, pipeline, key)
        return found

    def files(self) -> list[str]:
        """What is visible in staging of records: the declaration that plan keeps there is none."""
        root = self.home / "eventlog" / "staging"
        found = (str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
        return sorted(name for name in found if ".eventlog" not in name and "/recipes/" not in name)

    def rows(self, batch: BatchPlan) -> dict[tuple[int, int], dict[str, Any]]:
        """The raw rows of a batch's files by partition and offset; each once, in order, and none outside its slice."""
        raw = self.home / "eventlog" / "staging" / "s" / f"epoch={batch.epoch}" / "raw"
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for r in batch.slices:
            rows = rawfile.read_table(raw / f"partition={r.partition}" / f"{r.start:019d}-{r.end:019d}.parquet")
            offsets = rows.column("offset").to_pylist()
            assert offsets == sorted(set(offsets))
            assert all(r.start <= offset < r.end for offset in offsets)
            found |= {(r.partition, row["offset"]): row for row in rows.to_pylist()}
        return found

    def check(self, batch: BatchPlan, *, lost: Sequence[str] = (), aborted: int = 0) -> dict[str, int]:
        """Prove a landed batch: its rows byte for byte, its gaps and losses as ranges, and that it all adds up.

        Returns the batch's landing accounting, as the manifest has it.
        """
        gone = tuple(map(OffsetRange.parse, lost))
        wanted = subtract(batch.ranges, gone)
        expected = {at: self.topic.sent[at] for at in sorted(self.topic.sent) if _inside(wanted, at)}
        rows = self.rows(batch)
        assert {at: _content(row) for at, row in rows.items()} == expected
        assert {row["topic"] for row in rows.values()} <= {self.topic.name}
        with self.engine(self.pipeline()) as engine:
            slices = engine.ledger.slices(batch.batch_id)
            manifest = engine.staging.read_json(f"s/epoch={batch.epoch}/manifests/{batch.batch_id}.json")
            assert engine.ledger.losses("s", batch.epoch) == merged(gone)
        assert manifest is not None
        assert merged(r for s in slices for r in s.losses) == merged(gone)
        assert merged(r for s in slices for r in s.gaps) == subtract(batch.ranges, _ones(expected))
        assert [s["losses"] for s in manifest["slices"]] == [[str(r) for r in s.losses] for s in slices]
        counts: dict[str, int] = manifest["accounting"]
        assert counts == {
            "length": batch.length,
            "landed": len(expected),
            "invisible": batch.length - len(expected) - sum(map(len, gone)),
            "aborted": aborted,
            "lost": sum(map(len, gone)),
            "bytes": sum(len(key or b"") + len(value or b"") for key, value, _ in expected.values()),
        }
        return counts


def _inside(ranges: Iterable[OffsetRange], at: tuple[int, int]) -> bool:
    return any(r.partition == at[0] and r.start <= at[1] < r.end for r in ranges)


def _ones(places: Iterable[tuple[int, int]]) -> tuple[OffsetRange, ...]:
    return merged(OffsetRange(partition, offset, offset + 1) for partition, offset in places)


def _content(row: Mapping[str, Any]) -> Content:
    return row["key"], row["value"], tuple((h["key"], h["value"]) for h in row["headers"])
