"""The main job in a real Airflow on a real Kafka: schedule, params, sensor, empty batch, rerun, decorator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka, TopicFactory
from airflow_provider_eventlog.devkafka.topics import create_topic
from demo.airflow import AirflowStandalone
from demo.airflow_api import ApiError

PARTITIONS = 2
# How many flights each month of 2013 has here.
MONTHS = {1: 60, 2: 40, 3: 30}
CARRIERS = ("AA", "B6", "DL", "UA", "WN")


def _flight(month: int, number: int) -> Record:
    day, hour = 1 + number % 28, number % 24
    when = datetime(2013, month, day, hour, tzinfo=UTC)
    carrier = CARRIERS[number % len(CARRIERS)]
    cancelled = number % 10 == 0
    value = {
        "year": 2013,
        "month": month,
        "day": day,
        "dep_time": None if cancelled else hour * 100,
        "sched_dep_time": hour * 100,
        "dep_delay": None if cancelled else number - 20,
        "arr_delay": None if cancelled else number - 25,
        "carrier": carrier,
        "flight": number,
        "tailnum": None,
        "origin": "JFK",
        "dest": "LAX",
        "air_time": 300,
        "distance": 2475,
        "hour": hour,
        "minute": 0,
        "time_hour": when.isoformat().replace("+00:00", "Z"),
    }
    stamp = int(when.timestamp() * 1000)
    return Record(json.dumps(value).encode(), carrier.encode(), number % PARTITIONS, stamp)


def _send(kafka: SessionKafka, topic: str, records: list[Record]) -> None:
    sent = produce(topic, records, {"bootstrap.servers": kafka.bootstrap_servers})
    assert (sent.sent, sent.failed) == (len(records), 0)


def _rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def flights(airflow: AirflowStandalone, eventlog_kafka: SessionKafka) -> Iterator[list[str]]:
    """The run ids of the example DAG `flights` after its schedule has taken its two months of three."""
    create_topic(eventlog_kafka.bootstrap_servers, "flights", PARTITIONS, {"retention.ms": "-1"})
    # In the order of time within each partition, as a log of departures has it.
    records = [_flight(month, n) for month, count in MONTHS.items() for n in range(count)]
    records.sort(key=lambda r: (r.partition, r.timestamp))
    _send(eventlog_kafka, "flights", records)
    airflow.wait_dag("flights")
    airflow.unpause("flights")
    yield [run["dag_run_id"] for run in airflow.wait_runs("flights", 2)]
    airflow.pause("flights")


def test_the_schedule_takes_exactly_its_intervals(airflow: AirflowStandalone, flights: list[str]) -> None:
    """Two scheduled runs load January and February, every offset once, and nothing of March."""
    assert len(airflow.runs("flights")) == 2
    found = _rows(
        airflow.home / "flights.duckdb",
        "select month(time_hour at time zone 'UTC'), count(*) from flights group by 1 order by 1",
    )
    assert found == [(1, MONTHS[1]), (2, MONTHS[2])]
    batches = _rows(airflow.home / "flights.duckdb", "select count(distinct _batch_id) from flights")
    assert batches == [(2,)]


def test_stages_are_mapped_over_pointers(airflow: AirflowStandalone, flights: list[str]) -> None:
    """Plan pushes pointers only, land and transform have an instance for each, and the log says what is taken."""
    pointers = airflow.xcom("flights", flights[0], "flights.plan")
    assert pointers == [{"run_key": f"flights/{flights[0]}", "group": g} for g in range(len(pointers))]
    assert len(pointers) == PARTITIONS
    instances = airflow.task_instances("flights", flights[0])
    for stage in ("land", "transform"):
        mapped = [t["map_index"] for t in instances if t["task_id"] == f"flights.{stage}"]
        assert mapped == list(range(PARTITIONS))
    assert {t["state"] for t in instances} == {"success"}
    assert f"{MONTHS[1]} offsets of topic 'flights'" in airflow.logs("flights", flights[0], "flights.plan")
    report = airflow.xcom("flights", flights[0], "flights.load")
    assert report["stage"] == "load"
    assert len(report["batches"]) == 1


def test_rendered_templates_show_the_declaration(airflow: AirflowStandalone, flights: list[str]) -> None:
    """What the task ran is to be read in Airflow: the declaration, as it was written."""
    for task, index in (("flights.plan", -1), ("flights.land", 0)):
        path = f"/dags/flights/dagRuns/{flights[0]}/taskInstances/{task}"
        instance = airflow.api("GET", path if index < 0 else f"{path}/{index}")
        declaration = instance["rendered_fields"]["declaration"]
        assert json.loads(declaration)["pipeline"] == "flights"


def test_a_manual_run_by_offsets_doubles_nothing(airflow: AirflowStandalone, flights: list[str]) -> None:
    """Offsets named in the trigger form's params, partly taken already, are loaded once each."""
    total = sum(MONTHS.values())
    share = [
        sum(1 for m, count in MONTHS.items() for n in range(count) if n % PARTITIONS == p) for p in range(PARTITIONS)
    ]
    asked = ",".join(f"{p}:{5 * p}-{end}" for p, end in enumerate(share))
    run = airflow.trigger("flights", conf={"eventlog_what": "offsets", "eventlog_offsets": asked})
    airflow.wait_run("flights", run)
    database = airflow.home / "flights.duckdb"
    counts = _rows(database, "select count(*), count(distinct (_partition, _offset)) from flights")
    assert counts == [(total, total)]
    carriers = _rows(database, "select carrier, count(dep_delay), min(dep_delay) from flights group by 1 order by 1")
    expected = []
    for i, carrier in enumerate(CARRIERS):
        known = [n - 20 for c in MONTHS.values() for n in range(c) if n % 5 == i and n % 10]
        expected.append((carrier, len(known), min(known)))
    assert carriers == expected


def test_clearing_a_run_changes_nothing(airflow: AirflowStandalone, flights: list[str]) -> None:
    """A run that is cleared and done again finds its plan, and leaves table and ledger's generations as they were."""
    database = airflow.home / "flights.duckdb"
    ordered = "select * replace (epoch_ms(time_hour) as time_hour) from flights order by _partition, _offset, _row"
    before, loads = _rows(database, ordered), _rows(database, "select * from _eventlog_load order by all")
    airflow.clear("flights", flights[0])
    airflow.wait_run("flights", flights[0])
    assert [t["try_number"] for t in airflow.task_instances("flights", flights[0])] == [2] * (3 + 2 * PARTITIONS)
    assert _rows(database, ordered) == before
    assert _rows(database, "select * from _eventlog_load order by all") == loads


def test_malformed_offsets_are_refused_by_the_form(airflow: AirflowStandalone, flights: list[str]) -> None:
    """A run whose offsets cannot be read is not created: Airflow refuses it by the param's pattern."""
    with pytest.raises(ApiError) as refused:
        airflow.trigger("flights", conf={"eventlog_what": "offsets", "eventlog_offsets": "0:100..200"})
    assert refused.value.status == 400


def test_what_retrying_cannot_help_fails_at_once(airflow: AirflowStandalone, eventlog_topic: TopicFactory) -> None:
    """Offsets beyond the log end fail at the first try and say so; an empty topic is an empty batch in all stages."""
    eventlog_topic(2, name="quiet")
    airflow.wait_dag("quiet")
    airflow.unpause("quiet")
    bad = airflow.trigger("quiet", conf={"eventlog_what": "offsets", "eventlog_offsets": "0:0-7"})
    good = airflow.trigger("quiet")
    assert airflow.wait_run("quiet", bad, expect="failed") == "failed"
    plan = next(t for t in airflow.task_instances("quiet", bad) if t["task_id"] == "quiet.plan")
    assert (plan["state"], plan["try_number"]) == ("failed", 1)
    assert "OffsetRangeError: The range 0:0-7 ends beyond" in airflow.logs("quiet", bad, "quiet.plan")
    airflow.wait_run("quiet", good)
    states = {(t["task_id"], t["map_index"]): t["state"] for t in airflow.task_instances("quiet", good)}
    names = [("plan", -1), ("land", 0), ("transform", 0), ("validate", -1), ("load", -1)]
    assert states == {(f"quiet.{name}", index): "success" for name, index in names}
    assert _rows(airflow.home / "quiet.duckdb", "select count(*) from quiet") == [(0,)]


def test_a_deferred_sensor_wakes_for_new_offsets(
    airflow: AirflowStandalone, eventlog_kafka: SessionKafka, eventlog_topic: TopicFactory
) -> None:
    """A sensor waits in the triggerer until enough offsets are new, and the run behind it takes them all."""
    eventlog_topic(1, name="waiting")
    _send(eventlog_kafka, "waiting", [Record(b'{"n": 0}')])
    airflow.wait_dag("waiting")
    airflow.unpause("waiting")
    run = airflow.trigger("waiting")

    def deferred() -> bool:
        return any(t["state"] == "deferred" for t in airflow.task_instances("waiting", run))

    assert airflow.wait("the sensor to be deferred", 60, deferred)
    _send(eventlog_kafka, "waiting", [Record(b'{"n": %d}' % n) for n in range(1, 6)])
    airflow.wait_run("waiting", run)
    assert airflow.xcom("waiting", run, "enough") == {"new_offsets": 6}
    assert _rows(airflow.home / "waiting.duckdb", "select n from waiting order by n") == [(n,) for n in range(6)]


def test_the_other_examples_run(
    airflow: AirflowStandalone, eventlog_kafka: SessionKafka, eventlog_topic: TopicFactory
) -> None:
    """`orders` loads what came since the last batch in one task; `order_means` hands its function one batch."""
    eventlog_topic(2, name="orders")
    countries = ("DE", "FR")
    orders = [
        {"id": n, "amount": n % 7, "country": countries[n % 2], "ts": "2026-01-01T00:00:00Z"} for n in range(1000)
    ]
    _send(eventlog_kafka, "orders", [Record(json.dumps(o).encode(), None, o["id"] % 2) for o in orders])
    for dag in ("orders", "order_means"):
        airflow.wait_dag(dag)
        airflow.unpause(dag)
    conf = {"eventlog_what": "offsets", "eventlog_offsets": "0:0-500,1:0-500"}
    means = airflow.trigger("order_means", conf=conf)
    airflow.wait_runs("orders", 1)
    airflow.pause("orders")
    assert _rows(airflow.home / "orders.duckdb", "select count(*), sum(amount) from orders")[0][0] == 1000
    airflow.wait_run("order_means", means)
    airflow.pause("order_means")
    expected = {c: sum(o["amount"] for o in orders if o["country"] == c) / 500 for c in countries}
    assert airflow.xcom("order_means", means, "mean_amount") == expected


def test_a_task_that_is_stopped_stops_by_itself(airflow: AirflowStandalone) -> None:
    """A task that people mark as failed while it waits for Kafka ends cleanly, before Airflow has to kill it."""
    airflow.wait_dag("nowhere")
    airflow.unpause("nowhere")
    run = airflow.trigger("nowhere")

    def at_work() -> bool:
        states = {t["task_id"]: t["state"] for t in airflow.task_instances("nowhere", run)}
        return states == {"nowhere.run": "running"} and "Worker startup parse complete" in log()

    def log() -> str:
        return airflow.logs("nowhere", run, "nowhere.run")

    airflow.wait("the task to run", 60, at_work)
    path = f"/dags/nowhere/dagRuns/{run}/taskInstances/nowhere.run"
    airflow.api("PATCH", path, {"new_state": "failed"})
    airflow.wait("the task to stop", 20, lambda: "ReadCancelledError" in log())
    airflow.wait_run("nowhere", run, expect="failed")
