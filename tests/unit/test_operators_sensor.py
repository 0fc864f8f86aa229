"""The sensor for new offsets and its trigger, without Kafka."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_provider_eventlog.core.errors import (
    DeclarationError,
    SourceAuthenticationError,
    SourceUnavailableError,
    TopicReplacedError,
)
from airflow_provider_eventlog.core.offsets import BatchPlan, Cut, OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.protocols import EpochRecord, TopicDescription
from airflow_provider_eventlog.declare import DuckDB, FromGroup, Pipeline, Rows, Stream
from airflow_provider_eventlog.sensors import offsets as module
from airflow_provider_eventlog.sensors.offsets import Baseline, OffsetsSensor, baseline
from airflow_provider_eventlog.triggers.offsets import OffsetsTrigger, beyond, ready
from tests.support.simlog import SimSource

IDENTITY = TopicIdentity("cluster", "t", "id-1")
STREAM = Stream("t", start="earliest")
SECRET = "hunter2hunter2"


def pipeline(stream: Stream = STREAM) -> Pipeline:
    return Pipeline("p", stream=stream, outputs=[Rows(DuckDB("x.duckdb", table="x"))])


class Ledger:
    """What the sensor reads of a ledger."""

    def __init__(self, cuts: tuple[Cut, ...] = (), batches: tuple[BatchPlan, ...] = (), taken: tuple[str, ...] = ()):
        self._cuts, self._batches, self._taken = cuts, batches, taken
        self.closed = 0

    def epochs(self, stream: str) -> tuple[EpochRecord, ...]:
        return (EpochRecord(stream, 1, IDENTITY, "first plan"),) if self._cuts else ()

    def newest_offsets(self, stream: str, epoch: int) -> Mapping[int, int] | None:
        return self._cuts[-1].offsets if self._cuts else None

    def waiting_offsets(self, pipeline: str, stream: str, epoch: int) -> int:
        return sum(b.length for b in self._batches if b.kind == "chain" and b.batch_id not in self._taken)

    def close(self) -> None:
        self.closed += 1


def cut(instant: int, offsets: dict[int, int]) -> Cut:
    return Cut(instant, "since_last", offsets, dict.fromkeys(offsets, "log_end"))


def batch(name: str, kind: str, end: int) -> BatchPlan:
    ranges = (OffsetRange(0, 0, end),)
    return BatchPlan(name, "t", 1, kind, 0, 1, ranges, ranges)


def no_source() -> Any:
    raise AssertionError("the ledger knows enough")


@pytest.mark.parametrize(
    ("new", "waited", "wanted", "most", "enough"),
    [
        (10, 0, 10, None, True),
        (9, 10**6, 10, None, False),
        (9, 59, 10, 60, False),
        (9, 60, 10, 60, True),
        (1, 60, 10, 60, True),
        (0, 10**6, 10, 60, False),
    ],
)
def test_when_offsets_are_enough(new: int, waited: float, wanted: int, most: float | None, enough: bool) -> None:
    """At least N, or at least one once the time is over; never none."""
    assert ready(new, waited, wanted, most) is enough


def test_offsets_count_from_positions() -> None:
    """A partition without a position counts from its log start, one that is behind its position counts as none."""
    asked: list[int] = []

    def log_start(partition: int) -> int:
        asked.append(partition)
        return 5

    assert beyond({0: 10, 1: 7, 2: 3}, {0: 4, 2: 9}, log_start) == 6 + 2
    assert asked == [1]


def test_the_baseline_of_a_planned_stream() -> None:
    """New is what lies behind the newest cut; to a pipeline also the chain batches that it has not taken."""
    ledger = Ledger(
        (cut(1, {0: 3}), cut(2, {0: 8})),
        (batch("a", "chain", 3), batch("b", "chain", 5), batch("c", "off_chain", 7)),
        ("a",),
    )
    assert baseline(ledger, no_source, STREAM, None) == Baseline({0: 8}, 0, IDENTITY)  # type: ignore[arg-type]
    assert baseline(ledger, no_source, STREAM, pipeline()) == Baseline({0: 8}, 5, IDENTITY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "positions"),
    [
        ("earliest", {}),
        ("interval", {}),
        ("latest", None),
        ({0: 2}, {0: 2}),
        (FromGroup("g"), {0: 1}),
        (datetime(1970, 1, 1, 0, 0, 0, 20_000, UTC), {0: 2, 1: 3}),
    ],
)
def test_the_baseline_before_the_first_plan(start: Any, positions: Mapping[int, int] | None) -> None:
    """A stream that was never planned counts from where its first batch would begin."""
    source = SimSource({0: [10, 15, 20], 1: [1, 2, 3]})
    source.groups["g"] = {0: 1}
    found = baseline(Ledger(), lambda: source, Stream("t", start=start), None)  # type: ignore[arg-type, return-value]
    assert found == Baseline(positions)


def sensor(monkeypatch: pytest.MonkeyPatch, source: Any, ledger: Ledger | None = None, **given: Any) -> OffsetsSensor:
    opened = ledger or Ledger()
    monkeypatch.setattr(module, "open_read_ledger", lambda: opened)
    made = OffsetsSensor(task_id="s", **{"pipeline": pipeline(), "deferrable": True, **given})
    monkeypatch.setattr(made, "_source", lambda: source, raising=True)
    return made


def test_the_sensor_defers_with_what_the_trigger_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker hands the trigger positions, nothing secret, and its own timeout; it has sent look-ups only."""
    source = SimSource({0: [1] * 10, 1: [1]})
    made = sensor(monkeypatch, source, Ledger((cut(1, {0: 8}),)), min_offsets=5, max_wait="10 minutes", timeout=50)
    with pytest.raises(TaskDeferred) as deferred:
        made.execute({})  # type: ignore[typeddict-item]
    _, given = deferred.value.trigger.serialize()
    assert (given["positions"], given["topic_id"], given["max_wait"]) == ({"0": 8}, "id-1", 600)
    assert deferred.value.timeout is not None
    assert deferred.value.timeout.total_seconds() == 50
    assert set(source.requests) == {"describe", "starts", "ends"}


def test_the_sensor_does_not_defer_where_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough at the first look ends the sensor without a trigger; so does a stream that begins with its first run."""
    source = SimSource({0: [1] * 10})
    assert sensor(monkeypatch, source, min_offsets=10).execute({}) == {"new_offsets": 10}  # type: ignore[typeddict-item]
    latest = pipeline(Stream("t", start="latest"))
    assert sensor(monkeypatch, source, pipeline=latest).execute({}) == {"new_offsets": 0}  # type: ignore[typeddict-item]


def test_poking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without deferring each poke looks anew, waits Kafka's absence out, and closes the ledger."""
    source, ledger = SimSource({0: [1] * 3}), Ledger()
    made = sensor(monkeypatch, source, ledger, min_offsets=5, deferrable=False)
    context: Any = {"ti": None}
    assert not made.poke(context)
    source.logs[0] += [1, 1]
    monkeypatch.setattr(source, "describe", lambda: failing(SourceUnavailableError("down")))
    assert not made.poke(context)
    monkeypatch.undo()
    made = sensor(monkeypatch, source, ledger, min_offsets=5, deferrable=False)
    assert made.poke(context).xcom_value == {"new_offsets": 5}
    assert ledger.closed == 3


def failing(error: Exception) -> Any:
    raise error


def test_what_cannot_pass_ends_the_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another topic under the name, or an error that the trigger has sent, fails the task without a retry."""
    replaced = SimSource({0: [1]}, topic_id="id-2")
    with pytest.raises(AirflowFailException, match="TopicReplacedError"):
        sensor(monkeypatch, replaced, Ledger((cut(1, {0: 0}),))).execute({})  # type: ignore[typeddict-item]
    made = sensor(monkeypatch, replaced)
    event = {"status": "error", "error": "SourceAuthenticationError", "message": "refused"}
    with pytest.raises(AirflowFailException, match="SourceAuthenticationError: refused"):
        made.execute_complete({}, event)  # type: ignore[typeddict-item]
    assert made.execute_complete({}, {"status": "ready", "new_offsets": 4}) == {"new_offsets": 4}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"stream": STREAM, "pipeline": pipeline()},
        {"stream": "t"},
        {"pipeline": STREAM},
        {"stream": STREAM, "min_offsets": 0},
        {"stream": STREAM, "max_wait": "soon"},
    ],
)
def test_sensor_arguments_are_checked_at_parse(given: dict[str, Any]) -> None:
    """A malformed argument is a DAG import error."""
    with pytest.raises(DeclarationError):
        OffsetsSensor(task_id="s", **given)


class Looking:
    """A source that answers from a script, one step a look: an end offset, or an error to raise."""

    def __init__(self, *script: int | Exception, topic_id: str = "id-1") -> None:
        self.script, self.topic_id, self.looks = list(script), topic_id, 0

    def describe(self) -> TopicDescription:
        self.looks += 1
        return TopicDescription(TopicIdentity("cluster", "t", self.topic_id), 1)

    def log_ends(self) -> dict[int, int]:
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return {0: step}

    def log_start(self, partition: int) -> int:
        return 0


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection `k` with a secret."""
    extra = {"bootstrap.servers": "127.0.0.1:1", "sasl.username": "u", "sasl.password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_K", json.dumps({"conn_type": "kafka", "extra": extra}))
    found = Connection(conn_id="k", conn_type="kafka", extra=json.dumps(extra))

    async def get(conn_id: str) -> Connection:
        assert conn_id == "k"
        return found

    monkeypatch.setattr("airflow.sdk.BaseHook.aget_connection", get)


def trigger(source: Any, **given: Any) -> OffsetsTrigger:
    values = {"topic": "t", "kafka_conn_id": "k", "positions": {0: 10}, "min_offsets": 5, "topic_id": "id-1"}
    made = OffsetsTrigger(**{**values, "poll_interval": 0.01, **given})
    made._open = lambda extra, cancel: source  # type: ignore[method-assign]
    return made


def first(made: OffsetsTrigger, beside: Callable[[], Any] | None = None) -> Any:
    async def run() -> Any:
        other = asyncio.ensure_future(beside()) if beside else None
        event = await asyncio.wait_for(anext(made.run()), 20)
        if other is not None:
            await other
        return event.payload

    return asyncio.run(run())


def test_the_trigger_round_trips_through_json() -> None:
    """Its arguments are JSON values; an instance made from them has the same ones; unknown ones do no harm."""
    made = trigger(None, max_wait=60, pending=3, started_at=1000.5)
    path, given = made.serialize()
    assert path == "airflow_provider_eventlog.triggers.offsets.OffsetsTrigger"
    read = json.loads(json.dumps(given))
    assert OffsetsTrigger(**read, from_a_later_release=1).serialize() == (path, given)
    assert OffsetsTrigger(**read).positions == {0: 10}


@pytest.mark.usefixtures("connected")
def test_the_trigger_fires_when_there_is_enough() -> None:
    """It looks again until enough offsets are there, what was pending included."""
    source = Looking(10, 11, 13)
    assert first(trigger(source, pending=2)) == {"status": "ready", "new_offsets": 5}
    assert source.looks == 3


@pytest.mark.usefixtures("connected")
def test_the_trigger_fires_with_one_when_the_time_is_over() -> None:
    """After max_wait one new offset is enough, and the pause before the last look is no longer than what is left."""
    made = trigger(Looking(10, 11), max_wait=0.2, poll_interval=0.05, started_at=time.time())
    assert first(made) == {"status": "ready", "new_offsets": 1}
    assert made._pause(1) == 0
    assert made._pause(0) == 0.05
    assert time.time() - made.started_at >= 0.2


@pytest.mark.usefixtures("connected")
def test_the_trigger_waits_out_what_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retriable failure is tried again after a growing pause; then the trigger fires as if nothing had been."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def short(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("airflow_provider_eventlog.triggers.offsets.asyncio.sleep", short)
    down = SourceUnavailableError("down")
    assert first(trigger(Looking(down, down, down, 15))) == {"status": "ready", "new_offsets": 5}
    assert pauses == [1, 2, 4]


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Looking(SourceAuthenticationError("refused")), SourceAuthenticationError),
        (Looking(99, topic_id="id-2"), TopicReplacedError),
    ],
)
def test_the_trigger_ends_at_what_cannot_pass(source: Looking, error: type[Exception]) -> None:
    """Wrong credentials or a replaced topic are sent to the sensor at once, without the password."""
    event = first(trigger(source))
    assert (event["status"], event["error"]) == ("error", error.__name__)
    assert SECRET not in json.dumps(event)
    assert source.looks == 1


@pytest.mark.usefixtures("connected")
def test_the_trigger_never_blocks_the_loop() -> None:
    """While Kafka does not answer, the event loop goes on; and a trigger that is dropped tells its look to stop."""
    asked, answer = threading.Event(), threading.Event()

    class Slow(Looking):
        def log_ends(self) -> dict[int, int]:
            asked.set()
            assert answer.wait(15)
            return {0: 20}

    async def beside() -> None:
        while not asked.is_set():
            await asyncio.sleep(0.001)
        for _ in range(50):
            await asyncio.sleep(0.001)
        answer.set()

    assert first(trigger(Slow(0)), beside) == {"status": "ready", "new_offsets": 10}
    stopped: list[threading.Event] = []

    async def dropped() -> None:
        made = trigger(None)
        made._open = lambda extra, cancel: stopped.append(cancel) or Looking(0)  # type: ignore[func-returns-value, method-assign, return-value]
        running = asyncio.ensure_future(anext(made.run()))
        while not stopped:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(dropped())
    assert stopped[0].is_set()
