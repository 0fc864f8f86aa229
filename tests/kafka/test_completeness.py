"""Completeness on a real broker: committed counts of a control topic, in the range that was frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import checking, stages
from airflow_provider_eventlog.core.errors import CountsPendingError, IncompleteError, TopicNotFoundError
from airflow_provider_eventlog.core.kafka.producer import Record
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import ControlTopic, DuckDB, Json, Pipeline, ProducerCounts, Rows, Stream
from tests.kafka.world import Topic, World

T0, MINUTE = 1_704_067_200_000, 60_000
FIRST = RunRequest("interval", (T0, T0 + 10 * MINUTE), first=True, parallelism=1)


def count(number: int) -> bytes:
    """A published count of the first ten minutes."""
    return json.dumps({"producer": "a", "start": T0, "end": T0 + 10 * MINUTE, "count": number}).encode()


def test_counts_of_a_control_topic(eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path) -> None:
    """Aborted counts are none, a batch waits for the committed one, is held by it, and goes by no later one."""
    servers = eventlog_kafka.bootstrap_servers
    orders, control = Topic(servers, eventlog_topic()), Topic(servers, eventlog_topic())
    orders.send(*(Record(b'{"p": "a", "n": %d}' % n, b"k", 0, T0 + n * MINUTE) for n in (1, 2, 9, 11)))
    stream = Stream(orders.name, name="s", start="earliest", decode=Json({"p": "VARCHAR", "n": "BIGINT"}))
    rule = ProducerCounts(
        ControlTopic(control.name), "p", every="10 minutes", producers=["a"], on_missing="hold", threshold=0.999
    )
    made = Pipeline("p", stream=stream, outputs=[Rows(DuckDB("out.duckdb", table="t"))], completeness=[rule])

    world = World(orders, tmp_path)

    def validate() -> None:
        with world.engine(made) as engine:
            engine.open_source = lambda wanted: (control if wanted.topic == control.name else orders).source()
            stages.validate(engine, made, "r")

    with world.engine(made) as engine:
        engine.open_source = lambda wanted: (control if wanted.topic == control.name else orders).source()
        assert f"topic {control.name}, 1 partitions" in checking.check_all(engine, made)["checked"].values()
        missing = made.replace(completeness=[ProducerCounts(ControlTopic(f"{control.name}-none"))])
        engine.open_source = lambda wanted: Topic(servers, wanted.topic).source()
        with pytest.raises(TopicNotFoundError, match=f"the control topic '{control.name}-none' does not exist"):
            checking.check_all(engine, missing)
        stages.plan(engine, made, FIRST, "r")
        stages.land(engine, made, "r", 0)
        stages.transform(engine, made, "r", 0)
    control.transaction(count(3), end="abort")
    with pytest.raises(CountsPendingError, match="waits for the counts of 1 intervals"):
        validate()
    control.transaction(b"{", count(4), end="commit")
    for _ in range(2):
        with pytest.raises(IncompleteError, match=r"short, 3 of 4\); .*1 published records could not be read"):
            validate()
        control.values(count(3))
    (frozen,) = tmp_path.rglob("completeness-*.json")
    figures = json.loads(frozen.read_text())["record"]["figures"]["counts"]["counts"]
    # One aborted record and its marker, two committed ones and theirs.
    assert (figures["published"]["ranges"], figures["published"]["records"]) == (["0:0-5"], 2)
    assert (figures["found"], figures["expected"], figures["share"]) == (3, 4, 0.75)
