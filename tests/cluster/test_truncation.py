"""Unclean leader election: a replica that lagged becomes leader, and acknowledged records are gone from the end."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pytest
from confluent_kafka.cimpl import NewTopic

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.errors import RangeUnavailableError, SourceRegressedError
from tests.cluster.brokers import Brokers, until
from tests.cluster.world import SINCE_LAST, World

OLD, LOST = 200, 300
DEADLINE_S = 3.0


@pytest.fixture
def truncated(brokers: Brokers, tmp_path: Path) -> World:
    """A log of OLD records that had LOST more: one run has loaded them all, another one is planned and not landed."""
    topic = f"unclean-{time.monotonic_ns()}"
    config = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}
    with brokers.admin() as admin:
        wanted = NewTopic(topic, num_partitions=1, replica_assignment=[[1, 2]], config=config)
        admin.create_topics([wanted])[topic].result(30)
    made = World(brokers, topic, tmp_path, max_slice_offsets=100)
    brokers.wait_leader(topic)
    made.fill(OLD)
    brokers.kill(2)
    until(lambda: brokers.in_sync(topic) == {1}, "only the leader in sync")
    made.fill(LOST, session="lost")
    made.retry("loaded")
    planned = World(brokers, topic, tmp_path / "planned", max_slice_offsets=100)
    with planned.engine() as engine:
        assert stages.describe(stages.plan(engine, planned.pipeline, SINCE_LAST, "run"))["offsets"] == OLD + LOST
    brokers.kill(1)
    brokers.restart(2, wait=False)
    assert brokers.wait_leader(topic, but=1) == 2
    until(lambda: made.source().log_ends() == {0: OLD}, "a truncated log")
    return made


def test_offsets_that_a_truncated_log_has_lost(truncated: World) -> None:
    """A planned range that the log has lost fails retriably within the deadline: no hang, no success with fewer rows.

    A chain whose newest cut lies behind the log's end is not continued, since new records there would pass for landed.
    """
    began = time.monotonic()
    planned = World(truncated.brokers, truncated.topic, truncated.home / "planned", max_slice_offsets=100)
    error = planned.attempt(deadline_s=DEADLINE_S)
    assert isinstance(error, RangeUnavailableError), repr(error)
    assert error.retriable
    assert time.monotonic() - began < 20
    assert not (planned.home / "out.duckdb").exists()

    regressed = truncated.attempt("next", deadline_s=DEADLINE_S)
    assert isinstance(regressed, SourceRegressedError), repr(regressed)
    assert f"offsets {OLD} to {OLD + LOST - 1} are gone" in str(regressed)
    with duckdb.connect(str(truncated.home / "out.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*), max(_offset) from t").fetchall() == [(OLD + LOST, OLD + LOST - 1)]

    # New records at the old offsets: the planned batch takes them, and the loaded chain still refuses to pass them by.
    truncated.fill(LOST // 2, session="new")
    assert isinstance(truncated.attempt("next", deadline_s=DEADLINE_S), SourceRegressedError)
    assert isinstance(planned.attempt(deadline_s=DEADLINE_S), RangeUnavailableError)
    truncated.fill(LOST // 2, session="newer")
    planned.retry()
    with duckdb.connect(str(planned.home / "out.duckdb"), read_only=True) as connection:
        rows = dict(connection.execute("select _offset, value from t").fetchall())
    assert rows == planned.log(0)
    assert len(rows) == OLD + LOST
    assert sum(value.startswith(b"new") for value in rows.values()) == LOST
