"""What Kafka itself removes, by age and by size, on a broker that looks every moment: lost offset by offset."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from airflow_provider_eventlog.core.engine import now_ms
from airflow_provider_eventlog.core.errors import OffsetsLostError
from airflow_provider_eventlog.core.forecast import Expiry, forecast
from airflow_provider_eventlog.core.kafka.producer import Record
from airflow_provider_eventlog.devkafka import cluster
from tests.kafka.world import Halfway, Topic, World, until

COUNT = 20
# A segment a record: each is dated a second after the one before it, and sent on its own.
SEGMENTS = {"segment.ms": "500", "retention.ms": "-1", "retention.bytes": "-1"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that looks every tenth of a second for what it may remove, and not every five minutes."""
    properties = {"log.retention.check.interval.ms": "100"}
    with cluster.start(data_dir=tmp_path_factory.mktemp("retention"), properties=properties) as running:
        yield running.bootstrap_servers


@pytest.fixture
def world(servers: str, tmp_path: Path) -> World:
    """A topic of one partition with COUNT segments, the newest dated now."""
    topic = Topic(servers, f"retention-{uuid.uuid4().hex[:12]}")
    topic.create(config=SEGMENTS)
    now = now_ms()
    topic.send(*(Record(b"%03d" % i, b"k", 0, now - 1000 * (COUNT - i)) for i in range(COUNT)), mode="sync")
    return World(topic, tmp_path)


def alter(topic: Topic, name: str, value: int) -> None:
    """Change one of the topic's settings."""
    entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic.name, incremental_configs=[entry])
    for future in topic.admin.incremental_alter_configs([resource]).values():
        future.result(30)


def shrink(topic: Topic, name: str, start: int) -> None:
    """Let the topic keep next to nothing, and wait until Kafka has removed all in front of `start`."""
    alter(topic, name, 1)
    until("Kafka removes the segments", lambda: topic.source().log_starts() == {0: start})


def test_loud_loss_by_size(world: World) -> None:
    """What retention.bytes removed between plan and land is refused exactly, or recorded exactly."""
    pipeline = world.pipeline()
    batch = world.plan(pipeline).batches[0].batch
    # The segment that is written to stays, however little the topic may keep.
    shrink(world.topic, "retention.bytes", COUNT - 1)
    with pytest.raises(OffsetsLostError, match="offsets 0 to 18: its log now starts at 19"):
        world.land(pipeline)
    assert world.files() == []
    assert world.land(world.pipeline(on_data_loss="record"))["accounting"]["landed"] == 1
    world.check(batch, lost=["0:0-19"])


def test_loud_loss_by_age(world: World) -> None:
    """The same by retention.ms: everything goes, the segment that is written to as well, and the batch is one loss."""
    pipeline = world.pipeline(max_slice_offsets=7)
    batch = world.plan(pipeline).batches[0].batch
    shrink(world.topic, "retention.ms", COUNT)
    with pytest.raises(OffsetsLostError, match="offsets 0 to 6: its log now starts at 20"):
        world.land(pipeline)
    assert world.files() == []
    report = world.land(world.pipeline(on_data_loss="record", max_slice_offsets=7))
    assert report["losses"] == ["0:0-7", "0:7-14", "0:14-20"]
    assert report["accounting"]["landed"] == 0
    world.check(batch, lost=["0:0-20"])


def test_the_forecast_comes_true(world: World) -> None:
    """No segment goes before the instant that the forecast names for the oldest unlanded offset; it goes soon after."""
    pipeline = world.pipeline()
    world.plan(pipeline)
    topic = world.topic
    first = topic.source().offsets_at(0)[0].timestamp
    assert first is not None
    # So that the oldest record has two seconds left.
    alter(topic, "retention.ms", now_ms() - first + 2000)
    with world.engine(pipeline) as engine:
        found = forecast(engine.ledger, engine.source(pipeline.stream), "s", now_ms())
        assert (found.expiry, found.oldest, found.lost) == (Expiry.AGE, (0, 0), ())
        assert found.goes_from is not None
        assert found.warning is not None
        until("the oldest segment goes", lambda: topic.source().log_starts()[0] > 0)
        went = now_ms()
        assert found.goes_from <= went <= found.goes_from + 10_000
        again = forecast(engine.ledger, engine.source(pipeline.stream), "s", now_ms())
    assert again.lost
    assert again.lost[0].start == 0


def test_loss_during_the_read_by_size(world: World) -> None:
    """Kafka's own removal in the middle of a read: rows that were read stay, what went in front of it is lost."""
    topic = world.topic
    topic.send(*(Record(b"%05d" % i * 1000, b"k", 0) for i in range(3_000)))
    # Whatever segments there are: what is still written to stays, all in front of it goes.
    topic.send(Record(b"end", b"k", 0, now_ms() + 10_000), mode="sync")
    total = topic.source().log_ends()[0]
    pipeline = world.pipeline(on_data_loss="record")
    batch = world.plan(pipeline).batches[0].batch
    source = Halfway(topic, lambda: shrink(topic, "retention.bytes", total - 1))
    report = world.land(pipeline, source=source)
    assert 0 < source.seen < total - 1
    assert [r.split("-")[1] for r in report["losses"]] == [str(total - 1)]
    world.check(batch, lost=report["losses"])
