"""The retention forecast on a simulated topic and a real ledger: never too late, never an error, few requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.errors import (
    ReadCancelledError,
    SourceAuthorizationError,
    SourceUnavailableError,
)
from airflow_provider_eventlog.core.forecast import Expiry, Forecast, forecast
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, TopicIdentity
from airflow_provider_eventlog.core.planning import plan_run
from airflow_provider_eventlog.core.protocols import Ledger, Retention, SliceRecord, StagedFile
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows, Stream
from airflow_provider_eventlog.operators.common import warn_of_expiry, warn_of_loss
from tests.support.simlog import SimSource

HOUR = 3_600_000
NOW = 1_000 * HOUR
DAY = Retention(("delete",), 24 * HOUR, None, "CreateTime")
PIPELINE = Pipeline(
    "p", stream=Stream("t", start="earliest", max_slice_offsets=5), outputs=[Rows(DuckDB("x.duckdb", table="t"))]
)


class World:
    """A topic with one record an hour up to now in each of two partitions; the first `landed` hours are landed."""

    def __init__(self, ledger: Ledger, logs: dict[int, list[int]] | None = None) -> None:
        hours = [NOW - HOUR * h for h in range(20, 0, -1)]
        self.ledger, self.source = ledger, SimSource(logs or {0: list(hours), 1: list(hours)})
        self.source.kept = DAY
        self.runs = 0

    def plan(self) -> None:
        self.runs += 1
        plan_run(self.ledger, lambda: self.source, PIPELINE, RunRequest("since_last"), f"r{self.runs}", NOW)

    def land(self) -> None:
        """Plan what is there, and land it."""
        self.plan()
        for batch, _ in self.ledger.batches("t"):
            for r in batch.slices:
                record = SliceRecord(r, StagedFile(str(r), 1, "sha"), "d", len(r), 0, 0, 0, (), 1)
                self.ledger.record_slice(batch.batch_id, record)

    def forecast(self, *, exact: bool = True) -> Forecast:
        self.source.requests.clear()
        return forecast(self.ledger, self.source, "t", NOW, exact=exact)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    yield World(ledger)
    ledger.close()


def test_what_is_landed_does_not_expire(world: World) -> None:
    """With everything landed there is nothing to forecast, and nothing to warn of."""
    world.land()
    found = world.forecast()
    assert (found.expiry, found.unlanded, found.warning, found.lost) == (Expiry.NOTHING, 0, None, ())


def test_the_oldest_unlanded_offset_goes_by_its_age(world: World) -> None:
    """Planned is not landed: the first record of what is not landed says when it goes, to 1/256 of the retention."""
    world.plan()
    found = world.forecast()
    assert found.expiry is Expiry.AGE
    assert (found.unlanded, found.oldest) == (40, (0, 0))
    true = NOW - 20 * HOUR + 24 * HOUR
    assert found.goes_from is not None
    assert true - 24 * HOUR // 256 <= found.goes_from <= true
    assert found.warning is not None
    assert "partition 0, offset 0" in found.warning
    assert "in 3 h" in found.text


def test_what_came_after_the_last_landing_counts(world: World) -> None:
    """Records that nothing has planned yet are unlanded too, and so is a partition that no cut knows."""
    world.land()
    world.source.logs[1].append(NOW - HOUR // 2)
    found = world.forecast()
    assert (found.unlanded, found.oldest, found.warning) == (1, (1, 20), None)
    world.source.logs[2] = [NOW - 10 * HOUR]
    found = world.forecast()
    assert (found.unlanded, found.oldest) == (2, (2, 0))


@pytest.mark.parametrize(("retention_h", "warned"), [(79, False), (80, False), (81, False), (26, True), (20, True)])
def test_it_warns_in_the_last_quarter(world: World, retention_h: int, warned: bool) -> None:
    """A warning stands exactly if less than a quarter of the retention remains, whichever way it is asked."""
    world.plan()
    world.source.kept = replace(DAY, ms=retention_h * HOUR)
    assert (world.forecast().warning is not None) == warned
    assert (world.forecast(exact=False).warning is not None) == warned


def test_what_is_older_than_the_retention_may_go_at_any_moment(world: World) -> None:
    """Kafka looks every few minutes: a record that is past its time may still stand, and is told of as urgent."""
    world.plan()
    world.source.kept = replace(DAY, ms=5 * HOUR)
    found = world.forecast()
    assert found.goes_from == NOW
    assert "at any moment" in (found.warning or "")


@settings(max_examples=60, deadline=None)
@given(
    logs=st.lists(st.lists(st.integers(-30, 5), min_size=1, max_size=12), min_size=1, max_size=3),
    landed=st.integers(0, 12),
)
def test_a_forecast_is_never_too_late(
    tmp_path_factory: pytest.TempPathFactory, logs: list[list[int]], landed: int
) -> None:
    """Whatever the order of the timestamps, no unlanded offset can go before the instant that the forecast names."""
    ledger = open_ledger(tmp_path_factory.mktemp("ledger") / "l.sqlite")
    stamps = {p: [NOW + HOUR * hour for hour in log] for p, log in enumerate(logs)}
    world = World(ledger, {p: log[:landed] for p, log in stamps.items()})
    world.land()
    world.source.logs = stamps
    found = world.forecast()
    # A segment of one record each is the earliest that Kafka may let go; it goes oldest first.
    bounds = {
        p: max(log[: landed + 1]) + 24 * HOUR for p, log in stamps.items() if landed < len(log)
    }  # fmt: skip
    ledger.close()
    if not bounds:
        assert found.expiry is Expiry.NOTHING
        return
    assert found.goes_from is not None
    true = min(max(min(bounds.values()), NOW), NOW + 24 * HOUR)
    assert true - 24 * HOUR // 256 - 1 <= found.goes_from <= true
    assert found.oldest is not None
    assert found.oldest[1] == landed


def test_requests_are_few(world: World) -> None:
    """About ten look-ups, each for all partitions at once; five requests where only a warning is asked for."""
    world.plan()
    world.forecast()
    asked = dict.fromkeys(world.source.requests, 0)
    for name in world.source.requests:
        asked[name] += 1
    assert asked.pop("at") <= 10
    assert asked == {"describe": 1, "ends": 1, "starts": 1, "retention": 1}
    world.source.kept = replace(DAY, ms=100 * HOUR)
    world.forecast(exact=False)
    assert len(world.source.requests) == 5


@pytest.mark.parametrize(
    ("kept", "expiry", "said"),
    [
        (Retention(("delete",), None, None, "CreateTime"), Expiry.NEVER, "cleanup.policy=delete"),
        (Retention(("compact",), HOUR, 10, "CreateTime"), Expiry.NEVER, "cleanup.policy=compact"),
        (Retention((), HOUR, 10, "CreateTime"), Expiry.NEVER, "cleanup.policy=none"),
        (Retention(("compact", "delete"), 100 * HOUR, None, "CreateTime"), Expiry.AGE, "retention.ms"),
        (Retention(("delete",), None, 1000, "CreateTime"), Expiry.SIZE, "retention.bytes=1000"),
        (Retention(("delete",), 100 * HOUR, 1000, "CreateTime"), Expiry.AGE, "or earlier by size"),
        (SourceAuthorizationError("denied"), Expiry.UNKNOWN, "unknown: DESCRIBE_CONFIGS is denied"),
        (SourceUnavailableError("silent for 10 s"), Expiry.UNKNOWN, "unknown: silent for 10 s"),
    ],
)
def test_what_a_topic_says_of_retention(world: World, kept: Retention | Exception, expiry: Expiry, said: str) -> None:
    """Topics that lose nothing by age are told apart; what cannot be known is said, and is no error."""
    world.plan()
    world.source.kept = kept
    found = world.forecast()
    assert (found.expiry, found.warning) == (expiry, None)
    assert said in found.text
    assert found.to_json()["expiry"] == expiry.value


def test_what_expired_unlanded_is_named(world: World) -> None:
    """Offsets below the log start that were never landed are lost; what is left is forecast all the same."""
    world.plan()
    world.source.starts = {0: 7, 1: 0}
    found = world.forecast()
    assert (found.lost, found.unlanded) == ((OffsetRange(0, 0, 7),), 33)
    assert "7 offsets that were never landed: partition 0, offsets 0 to 6" in (found.warning or "")
    world.source.kept = SourceAuthorizationError("denied")
    assert "offsets 0 to 6" in (world.forecast().warning or "")


@pytest.mark.parametrize(("start", "landed", "warned"), [(0, 0, False), (8, 12, False), (8, 10, True), (8, 8, True)])
def test_a_topic_kept_by_size_warns_by_distance(tmp_path: Path, start: int, landed: int, warned: bool) -> None:
    """Size cannot be forecast in time: the warning goes by how near the log start has come, once it has moved."""
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    world = World(ledger, {0: [NOW] * landed})
    world.land()
    world.source.logs = {0: [NOW] * 20}
    world.source.starts = {0: start}
    world.source.kept = Retention(("delete",), None, 1000, "CreateTime")
    found = world.forecast()
    ledger.close()
    assert found.expiry is Expiry.SIZE
    assert (found.warning is not None) == warned


def test_another_topic_is_not_forecast(world: World) -> None:
    """Nothing is said of a topic that is not the one the stream is pinned to, nor of a stream without a plan."""
    assert "nothing of the stream was planned" in world.forecast().text
    world.plan()
    world.source.identity = TopicIdentity("cluster", "t", "id-2")
    assert (world.forecast().expiry, "pinned to" in world.forecast().text) == (Expiry.UNKNOWN, True)


def test_cancelling_is_passed_on(world: World) -> None:
    """A task that is told to stop stops here too; the forecast does not swallow it."""
    world.plan()
    world.source.kept = ReadCancelledError("told to stop")
    with pytest.raises(ReadCancelledError):
        world.forecast()


class Warned:
    """What a task log was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.lines: list[str] = []


def test_plan_warns_in_its_log(world: World) -> None:
    """Behind a plan of something new the log warns of what expires soon; a replay asks Kafka nothing."""
    from airflow_provider_eventlog.core.engine import Engine

    absent = None
    engine = Engine(world.ledger, absent, lambda _: world.source, absent, clock=lambda: NOW)  # type: ignore[arg-type]
    said = Warned()
    made = plan_run(world.ledger, lambda: world.source, PIPELINE, RunRequest("since_last"), "k", NOW)
    warn_of_expiry(said.warnings.append, said.lines.append, engine, PIPELINE.stream, made)
    assert (len(said.warnings), said.lines) == (1, [])
    assert "Retention comes near" in said.warnings[0]
    world.source.kept = SourceAuthorizationError("denied")
    warn_of_expiry(said.warnings.append, said.lines.append, engine, PIPELINE.stream, made)
    assert (len(said.warnings), said.lines) == (1, ["retention forecast: unknown: DESCRIBE_CONFIGS is denied"])
    again = plan_run(
        world.ledger,
        lambda: world.source,
        PIPELINE,
        RunRequest("offsets", ranges=made.batches[0].batch.ranges),
        "l",
        NOW,
    )
    assert [b.mode for b in again.batches] == ["replay"]
    world.source.requests.clear()
    warn_of_expiry(said.warnings.append, said.lines.append, engine, PIPELINE.stream, again)
    assert world.source.requests == []


def test_land_warns_of_what_is_lost() -> None:
    """The line counts all lost offsets and names the first ranges; without a loss there is none."""
    said = Warned()
    warn_of_loss(said.warnings.append, {"losses": [], "accounting": {"lost": 0}})
    assert said.warnings == []
    ranges = [f"0:{i}-{i + 2}" for i in range(0, 100, 4)]
    warn_of_loss(said.warnings.append, {"losses": ranges, "accounting": {"lost": 50}})
    assert "50 offsets had expired" in said.warnings[0]
    assert "partition 0, offsets 4 to 5" in said.warnings[0]
    assert "and 5 more ranges" in said.warnings[0]
    assert stages.loss_headline({"losses": ranges[:1], "accounting": {"lost": 2}}) is not None
