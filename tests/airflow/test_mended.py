"""What people do about a mistake, in a real Airflow: correct and clear, release, and loads that wait for that."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka
from airflow_provider_eventlog.devkafka.topics import create_topic
from demo.airflow import AirflowStandalone

START = datetime(2024, 1, 1, tzinfo=UTC)


def _fill(kafka: SessionKafka, topic: str, *values: int) -> None:
    """A record a minute."""
    create_topic(kafka.bootstrap_servers, topic, 1, {"retention.ms": "-1"})
    records = []
    for minute, value in enumerate(values):
        at = START.replace(minute=minute)
        told = {"v": value, "ts": at.isoformat()}
        records.append(Record(json.dumps(told).encode(), None, 0, int(at.timestamp()) * 1000))
    sent = produce(topic, records, {"bootstrap.servers": kafka.bootstrap_servers})
    assert (sent.sent, sent.failed) == (len(values), 0)


def _rows(airflow: AirflowStandalone, name: str, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(airflow.home / f"{name}.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def _minute(number: int) -> dict[str, str]:
    told = (START.replace(minute=m).isoformat() for m in (number, number + 1))
    return dict(zip(("eventlog_from", "eventlog_to"), told, strict=True), eventlog_what="interval")


@pytest.fixture(scope="module")
def waiting(airflow: AirflowStandalone, eventlog_kafka: SessionKafka) -> str:
    """A run whose load waits behind an interval that the gate holds; its id."""
    _fill(eventlog_kafka, "awaited", 500, 2)
    airflow.wait_dag("awaited")
    airflow.unpause("awaited")
    held = airflow.trigger("awaited", conf=_minute(0), run_id="held")
    assert airflow.wait_run("awaited", held, expect="failed") == "failed"
    run = airflow.trigger("awaited", conf=_minute(1), run_id="waits")

    def deferred() -> bool | None:
        states = {t["task_id"]: t["state"] for t in airflow.task_instances("awaited", run)}
        return states.get("awaited.load") == "deferred" or None

    assert airflow.wait("a deferred load", 120, deferred)
    return run


def test_a_corrected_run_is_derived_without_kafka(
    airflow: AirflowStandalone, airflow_dags: Path, eventlog_kafka: SessionKafka, waiting: str
) -> None:
    """Cleared from plan under a corrected recipe a run is derived again from staging, although the topic is gone.

    Clearing a later task under yet another recipe fails at once and says what to clear; the first recipe, brought back
    and cleared, changes nothing that is loaded.
    """
    _fill(eventlog_kafka, "mended", 1, 2, 3)
    airflow.wait_dag("mended")
    airflow.unpause("mended")
    run = airflow.trigger("mended", conf={"eventlog_what": "since_last"}, run_id="corrected")
    airflow.wait_run("mended", run)
    assert _rows(airflow, "mended", "select v from rows order by v") == [(1,), (2,), (3,)]
    TopicAdmin({"bootstrap.servers": eventlog_kafka.bootstrap_servers}).delete("mended")
    file = airflow_dags / "mended.py"
    first = file.read_text()
    # Of the DAGs in the file only this one's transform changes: the other's windows would refuse it.
    second = first.replace("select {FACTOR} as v", "select {FACTOR if outputs else '10 * v'} as v")
    third = first.replace("select {FACTOR} as v", "select {FACTOR if outputs else '7 * v'} as v")
    assert len({first, second, third}) == 3
    file.write_text(second)
    airflow.clear("mended", run)
    airflow.wait_run("mended", run)
    assert _rows(airflow, "mended", "select v from rows order by v") == [(10,), (20,), (30,)]
    file.write_text(third)
    airflow.clear("mended", run, ["mended.validate"])
    assert airflow.wait_run("mended", run, expect="failed") == "failed"
    said = "\n".join(airflow.logs("mended", run, "mended.validate", try_number=n) for n in (1, 2, 3))
    assert "RecipeChangedError" in said
    assert "Clear the run from plan" in said
    file.write_text(first)
    airflow.clear("mended", run)
    airflow.wait_run("mended", run)
    assert _rows(airflow, "mended", "select v from rows order by v") == [(10,), (20,), (30,)]


def test_a_load_waits_for_windows_without_a_worker(airflow: AirflowStandalone, waiting: str) -> None:
    """The deferred load has loaded its rows; a run that releases the held batch lets windows take both, and it ends."""
    assert _rows(airflow, "awaited", "select v from rows") == [(2,)]
    held = _batches(airflow)[0]
    conf = {"eventlog_what": "release", "eventlog_batch": held, "eventlog_reason": "five hundred is right"}
    airflow.wait_run("awaited", airflow.trigger("awaited", conf=conf, run_id="release"))
    assert airflow.wait_run("awaited", waiting, timeout=180) == "success"
    assert _rows(airflow, "awaited", "select n, total from windows order by window_start") == [(1, 2)]
    record = next((airflow.home / "eventlog" / "staging" / "awaited" / "decisions" / "release").iterdir())
    assert json.loads(record.read_text())["record"]["who"] == "admin"


def _batches(airflow: AirflowStandalone) -> list[str]:
    """The pipeline's batches in chain order."""
    found = (airflow.home / "eventlog" / "staging" / "awaited" / "epoch=1" / "manifests").glob("*.json")
    records = [json.loads(path.read_text())["record"]["batch"] for path in found]
    return [record["batch_id"] for record in sorted(records, key=lambda record: record["from_instant"])]
