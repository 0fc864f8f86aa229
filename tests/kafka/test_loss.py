"""What Kafka no longer has: refused with the exact offsets, or recorded as lost where the stream says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.cli import state
from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.errors import (
    OffsetsLostError,
    RangeUnavailableError,
    TopicNotFoundError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.kafka.producer import Record
from airflow_provider_eventlog.core.offsets import OffsetRange
from tests.kafka.world import Halfway, Topic, World, until

# So many records of so many bytes are several times what a client with a queue of one megabyte has at a time.
MANY, LARGE = 3_000, 5_000


@pytest.fixture
def topic(eventlog_kafka: Any, eventlog_topic: Callable[..., str]) -> Topic:
    """A topic of one partition."""
    return Topic(eventlog_kafka.bootstrap_servers, eventlog_topic())


@pytest.fixture
def world(topic: Topic, tmp_path: Path) -> World:
    """A home over it."""
    return World(topic, tmp_path)


def fill(topic: Topic, count: int = MANY) -> None:
    topic.values(*(b"%06d" % i * (LARGE // 6) for i in range(count)))


def count(batches: Any) -> int:
    return sum(batch.num_rows for batch in batches)


def test_loud_loss_before_the_read(world: World) -> None:
    """Offsets that expired between plan and land are named exactly; nothing is published, and a retry says the same."""
    world.topic.values(*(b"%d" % i for i in range(20)))
    pipeline = world.pipeline()
    world.plan(pipeline)
    world.topic.delete_before(7)
    for _ in range(2):
        with pytest.raises(OffsetsLostError, match=r"partition 0, offsets 0 to 6: its log now starts at 7") as caught:
            world.land(pipeline)
        assert not caught.value.retriable
    assert "on_data_loss='record'" in str(caught.value)
    assert world.files() == []


def test_loss_before_the_read_is_recorded(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """With on_data_loss="record" the hole stands in file, manifest and ledger, is shown, and the chain goes on."""
    world.topic.values(*(b"%d" % i for i in range(20)))
    pipeline = world.pipeline(on_data_loss="record", max_slice_offsets=6)
    batch = world.plan(pipeline).batches[0].batch
    world.topic.delete_before(8)
    report = world.land(pipeline)
    assert report["losses"] == ["0:0-6", "0:6-8"]
    assert "8 offsets had expired" in (stages.loss_headline(report) or "")
    world.check(batch, lost=["0:0-8"])
    figures = world.finish(pipeline)["batches"][0]["accounting"]
    assert (figures["landing"]["lost"], figures["transform"]["passed"]) == (8, 12)
    world.topic.values(b"later")
    assert [str(r) for r in world.plan(pipeline, "next").batches[0].batch.ranges] == ["0:20-21"]
    home = ("--home", str(world.home), "--output", "json")
    assert main(["accounting", "--pipeline", "p", *home]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["landing"]["lost"] == 8
    assert main(["status", *home]) == 0
    (stream,) = json.loads(capsys.readouterr().out)["streams"]
    assert (stream["lost"], stream["losses"], stream["forecast"]) == (8, ["0:0-8"], None)
    assert main(["status", "--home", str(world.home)]) == 0
    assert "lost" in capsys.readouterr().out


def test_a_range_that_expired_whole_is_all_lost(world: World) -> None:
    """A slice wholly below the log start lands as a file without rows; the slices behind it are read."""
    world.topic.values(*(b"%d" % i for i in range(12)))
    pipeline = world.pipeline(on_data_loss="record", max_slice_offsets=4)
    batch = world.plan(pipeline).batches[0].batch
    world.topic.delete_before(12)
    assert world.land(pipeline)["accounting"]["landed"] == 0
    world.check(batch, lost=["0:0-12"])


def test_loud_loss_during_the_read(world: World) -> None:
    """What expires behind the reader's position fails the read, though every record of the range could still come."""
    fill(world.topic)
    pipeline = world.pipeline()
    world.plan(pipeline)
    source = Halfway(world.topic, lambda: world.topic.delete_before(100))
    with pytest.raises(OffsetsLostError, match="partition 0, offsets 0 to 99: its log now starts at 100"):
        world.land(pipeline, source=source)
    assert source.seen > 100, "the read stood behind the new log start"
    assert world.files() == []


def test_loud_loss_in_front_of_the_reader(world: World) -> None:
    """What expires in front of the reader's position ends the read at once, with all of the range that is gone."""
    fill(world.topic)
    pipeline = world.pipeline()
    world.plan(pipeline)
    source = Halfway(world.topic, lambda: world.topic.delete_before(MANY - 10))
    with pytest.raises(OffsetsLostError, match=f"partition 0, offsets 0 to {MANY - 11}: its log now starts at"):
        world.land(pipeline, source=source)
    assert 0 < source.seen < MANY - 10, "the log start has passed the read"
    assert world.files() == []


@pytest.mark.parametrize("left", [0, 10])
def test_loss_during_the_read_is_recorded(world: World, left: int) -> None:
    """The rows that were read stay, what expired in front of the reader is lost, what is left is read."""
    fill(world.topic)
    pipeline = world.pipeline(on_data_loss="record")
    batch = world.plan(pipeline).batches[0].batch
    source = Halfway(world.topic, lambda: world.topic.delete_before(MANY - left))
    report = world.land(pipeline, source=source)
    (lost,) = map(OffsetRange.parse, report["losses"])
    # The client had fetched some records beyond the position, and gives them before it hears of the loss.
    assert source.seen <= lost.start < lost.end == MANY - left
    world.check(batch, lost=[str(lost)])


def test_loss_behind_the_reader_loses_nothing(world: World) -> None:
    """Rows that were read before their offsets expired are landed: nothing of them is lost."""
    fill(world.topic)
    pipeline = world.pipeline(on_data_loss="record")
    batch = world.plan(pipeline).batches[0].batch
    source = Halfway(world.topic, lambda: world.topic.delete_before(100))
    assert world.land(pipeline, source=source)["losses"] == []
    assert source.seen > 100
    world.check(batch)


def test_a_gap_that_expired_unproved_is_lost(world: World) -> None:
    """Nobody can tell what stood at an offset without a row once the log start has passed it: aborted or not."""
    topic = world.topic
    topic.transaction(b"gone", b"gone", end="abort")
    topic.transaction(b"kept", end="commit")
    fill(topic)
    topic.transaction(b"gone", end="abort")
    pipeline = world.pipeline(on_data_loss="record")
    batch = world.plan(pipeline).batches[0].batch
    source = Halfway(topic, lambda: topic.delete_before(4))
    world.land(pipeline, source=source)
    assert source.seen > 4
    # Offsets 0 to 2 hold an aborted transaction and its marker; 4 is the marker of what was committed at 3.
    counts = world.check(batch, lost=["0:0-3"], aborted=1)
    assert (counts["invisible"], counts["landed"]) == (3, MANY + 1)


def test_retention_that_goes_on_and_on_ends(world: World) -> None:
    """However often the log start passes the reader, each time it gets further: the read ends, and all is told."""
    fill(world.topic)
    starts = iter(range(1_500, MANY, 50))
    moved: list[int] = []

    class Chased(Halfway):
        def log_start(self, partition: int) -> int:
            # What it answers is past as soon as it is said.
            found = super().log_start(partition)
            if self.seen >= 0 and (start := next(starts, None)) is not None:
                world.topic.delete_before(start)
                moved.append(start)
            return found

    pipeline = world.pipeline(on_data_loss="record")
    batch = world.plan(pipeline).batches[0].batch
    source = Chased(world.topic, lambda: world.topic.delete_before(1_450))
    report = world.land(pipeline, source=source)
    assert moved == list(range(1_500, MANY, 50))
    assert source.seen < 1_450
    (lost,) = map(OffsetRange.parse, report["losses"])
    assert lost.end == moved[-1]
    world.check(batch, lost=[str(lost)])


def test_a_planned_start_that_expired_is_refused_or_recorded(world: World) -> None:
    """What expires before it is planned is refused by the plan, or planned as a loss and landed as one."""
    world.topic.values(*(b"%d" % i for i in range(10)))
    pipeline = world.pipeline()
    world.plan(pipeline)
    world.land(pipeline)
    world.topic.values(*(b"%d" % i for i in range(10, 20)))
    world.topic.delete_before(15)
    with pytest.raises(OffsetsLostError, match="partition 0, offsets 10 to 14"):
        world.plan(pipeline, "next")
    recording = world.pipeline(on_data_loss="record")
    made = world.plan(recording, "next")
    assert "offsets 10 to 14" in " ".join(made.notes)
    world.land(recording, "next")
    world.check(made.batches[0].batch, lost=["0:10-15"])


def test_a_topic_deleted_before_the_read(world: World) -> None:
    """Between plan and land: the error of its own, with what was planned; nothing published, no retry."""
    world.topic.values(b"a", b"b")
    pipeline = world.pipeline()
    world.plan(pipeline)
    world.topic.delete()
    with pytest.raises(TopicNotFoundError, match=r"deleted after partition 0, offsets 0 to 1 were planned") as caught:
        world.land(pipeline)
    assert not caught.value.retriable
    assert world.files() == []


def test_a_topic_deleted_during_the_read(world: World) -> None:
    """A topic that goes in the middle of a read ends it within the deadline, by name, and nothing is published."""
    fill(world.topic)
    pipeline = world.pipeline(on_data_loss="record")
    world.plan(pipeline)
    source = Halfway(world.topic, world.topic.delete, deadline_s=2.0)
    with pytest.raises(TopicNotFoundError, match=f"offsets 0 to {MANY - 1} were planned"):
        world.land(pipeline, source=source)
    assert source.seen > 0
    assert world.files() == []


def test_no_phantom_from_a_recreated_topic(world: World) -> None:
    """A topic created again and filled to the same offsets is refused, before the read and in the middle of it."""
    topic = world.topic
    fill(topic)
    pipeline = world.pipeline(on_data_loss="record")
    world.plan(pipeline)

    def again() -> None:
        topic.delete()
        topic.create()
        fill(topic)

    source = Halfway(topic, again, deadline_s=5.0)
    with pytest.raises(TopicReplacedError):
        world.land(pipeline, source=source)
    assert source.seen > 0
    assert topic.source().log_ends() == {0: MANY}, "every planned offset exists again"
    with pytest.raises(TopicReplacedError) as caught:
        world.land(pipeline)
    assert not caught.value.retriable
    assert world.files() == []


def test_a_log_that_ends_before_the_planned_end(topic: Topic) -> None:
    """A log whose end has regressed is a retriable failure within the deadline, never a short success."""
    fill(topic)

    def shorter() -> None:
        topic.delete()
        topic.create()
        topic.values(b"x")

    source = Halfway(topic, shorter, deadline_s=2.0)
    for record_loss in (False, True):
        with pytest.raises(RangeUnavailableError, match=f"{MANY}|{MANY - 1}") as caught:
            count(source.read(OffsetRange(0, 0, MANY), record_loss=record_loss))
        assert caught.value.retriable
    assert source.seen > 0


def test_an_open_transaction_that_never_ends_is_not_waited_for(topic: Topic) -> None:
    """A planned end above the last stable offset: the deadline bounds the wait, whatever arrives behind it."""
    topic.values(b"a")
    producer = topic.transaction(b"open", end="open")
    topic.values(b"b")
    with pytest.raises(RangeUnavailableError, match=r"ends at 1 \(last stable offset\).*before the planned end 3"):
        count(topic.source(deadline_s=1.0).read(OffsetRange(0, 0, 3)))
    producer.abort_transaction(30)


def test_the_forecast_of_a_real_topic(
    eventlog_kafka: Any,
    eventlog_topic: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`status --forecast` says when what is not landed goes; without Kafka it says why it cannot, and no more fails."""
    hour = 3_600_000
    topic = Topic(eventlog_kafka.bootstrap_servers, eventlog_topic(2, {"retention.ms": str(24 * hour)}))
    world = World(topic, tmp_path)
    now = int(time.time() * 1000)
    topic.send(*(Record(b"v", None, p, now - hour * age) for p, age in ((0, 9), (0, 5), (1, 20), (1, 1))))
    pipeline = world.pipeline()
    world.plan(pipeline)

    def forecast(servers: str = topic.settings["bootstrap.servers"], *more: str) -> Any:
        home = ("--home", str(tmp_path), "--output", "json")
        assert main(["status", "--forecast", "--bootstrap-servers", servers, *more, *home]) == 0
        return json.loads(capsys.readouterr().out)["streams"][0]["forecast"]

    found = forecast()
    assert (found["expiry"], found["unlanded"], found["oldest"]) == ("by_age", 4, {"partition": 1, "offset": 0})
    assert "in 3 h" in found["text"] or "in 4 h" in found["text"]
    assert "Retention comes near" in found["warning"]
    world.land(pipeline)
    assert forecast()["expiry"] == "nothing_unlanded"
    monkeypatch.setattr(state, "_FORECAST_S", 1.0)
    silent = forecast("127.0.0.1:1", "--config", "socket.connection.setup.timeout.ms=1000")
    assert (silent["expiry"], silent["text"][:9]) == ("unknown", "unknown: ")
    assert main(["status", "--home", str(tmp_path)]) == 0
    assert "forecast for s" not in capsys.readouterr().out
    assert main(["status", "--forecast", "--bootstrap-servers", "127.0.0.1:1", "--home", str(tmp_path)]) == 0
    assert "forecast for s: unknown: " in capsys.readouterr().out


def test_the_log_start_passes_what_is_unlanded(world: World) -> None:
    """The forecast names what expired unlanded, on a real topic, as the plan would."""
    from airflow_provider_eventlog.core.engine import now_ms
    from airflow_provider_eventlog.core.forecast import forecast

    world.topic.values(*(b"%d" % i for i in range(10)))
    pipeline = world.pipeline()
    world.plan(pipeline)
    world.topic.delete_before(4)
    until("the log start has moved", lambda: world.topic.source().log_starts() == {0: 4})
    with world.engine(pipeline) as engine:
        found = forecast(engine.ledger, engine.source(pipeline.stream), "s", now_ms())
    assert [str(r) for r in found.lost] == ["0:0-4"]
    assert found.unlanded == 6
    assert "offsets 0 to 3" in (found.warning or "")
