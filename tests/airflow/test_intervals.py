"""Intervals in a real Airflow: catch-up in any order, native back-fill by date, and every kind of manual run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import duckdb

from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka
from airflow_provider_eventlog.devkafka.topics import create_topic
from demo.airflow import AirflowStandalone

PARTITIONS, MINUTES = 2, 8


def _count(minute: int) -> int:
    """How many records a minute has in each partition: another number for each."""
    return 3 + minute


def _ranges(minutes: range) -> list[tuple[int, int, int, int]]:
    """(minute, partition, first offset, last offset) of each minute, as they were produced."""
    starts = [sum(map(_count, range(m))) for m in range(MINUTES)]
    return [(m, p, starts[m], starts[m] + _count(m) - 1) for m in minutes for p in range(PARTITIONS)]


def _fill(kafka: SessionKafka, topic: str) -> None:
    create_topic(kafka.bootstrap_servers, topic, PARTITIONS, {"retention.ms": "-1"})
    records = [
        Record(
            json.dumps({"minute": m}).encode(),
            None,
            p,
            int(datetime(2024, 1, 1, 0, m, n, tzinfo=UTC).timestamp()) * 1000,
        )
        for p in range(PARTITIONS)
        for m in range(MINUTES)
        for n in range(_count(m))
    ]
    sent = produce(topic, records, {"bootstrap.servers": kafka.bootstrap_servers})
    assert (sent.sent, sent.failed) == (len(records), 0)


def _rows(airflow: AirflowStandalone, table: str, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(airflow.home / f"{table}.duckdb"), read_only=True) as connection:
        return connection.execute(sql.format(table=table)).fetchall()


_LOADED = (
    "select minute, _partition, min(_offset), max(_offset), count(*), count(distinct _offset), "
    "count(distinct _batch_id) from {table} group by all order by all"
)


def _exactly(minutes: range) -> list[tuple[int, ...]]:
    return [(m, p, low, high, _count(m), _count(m), 1) for m, p, low, high in _ranges(minutes)]


def test_catch_up_tiles_the_chain(airflow: AirflowStandalone, eventlog_kafka: SessionKafka) -> None:
    """Eight intervals that catch up at once are a batch each, and every record of theirs is loaded once."""
    dag = "minutes_caught_up"
    _fill(eventlog_kafka, dag)
    airflow.wait_dag(dag)
    airflow.unpause(dag)
    runs = airflow.wait_runs(dag, MINUTES)
    airflow.pause(dag)
    assert len({r["data_interval_start"] for r in runs}) == MINUTES
    assert _rows(airflow, dag, _LOADED) == _exactly(range(MINUTES))
    assert _rows(airflow, dag, "select count(distinct _batch_id) from {table}") == [(MINUTES,)]


def test_native_back_fill_and_manual_runs(airflow: AirflowStandalone, eventlog_kafka: SessionKafka) -> None:
    """A back-fill by date takes exactly its minutes; manual runs take theirs; the same offsets again double nothing."""
    dag = "minutes_filled"
    _fill(eventlog_kafka, dag)
    airflow.wait_dag(dag)
    airflow.unpause(dag)
    asked = {"dag_id": dag, "from_date": "2024-01-01T00:02:00Z", "to_date": "2024-01-01T00:04:00Z"}
    more = {"run_backwards": False, "dag_run_conf": {}, "reprocess_behavior": "none", "max_active_runs": 3}
    airflow.api("POST", "/backfills", asked | more)
    runs = airflow.wait_runs(dag, 3)
    assert {r["run_type"] for r in runs} == {"backfill"}
    assert _rows(airflow, dag, _LOADED) == _exactly(range(2, 5))

    def take(**conf: str) -> None:
        run = airflow.trigger(dag, conf={f"eventlog_{name}": value for name, value in conf.items()})
        assert airflow.run(dag, run)["logical_date"] is None
        airflow.wait_run(dag, run)

    take(what="interval", **{"from": "2024-01-01T00:05:00Z", "to": "2024-01-01T00:06:00Z"})
    assert _rows(airflow, dag, _LOADED) == _exactly(range(2, 6))
    offsets = ",".join(f"{p}:{low}-{high + 1}" for _, p, low, high in _ranges(range(1)))
    for _ in range(2):
        take(what="offsets", offsets=offsets)
        assert _rows(airflow, dag, _LOADED) == _exactly(range(1)) + _exactly(range(2, 6))
    take(what="since_last")
    every = _exactly(range(1)) + _exactly(range(2, MINUTES))
    assert _rows(airflow, dag, _LOADED) == every
    before = _rows(airflow, dag, "select count(distinct _batch_id) from {table}")
    take(what="auto")
    assert _rows(airflow, dag, _LOADED) == every
    assert _rows(airflow, dag, "select count(distinct _batch_id) from {table}") == before
    airflow.pause(dag)
