"""The example of a gate on a real Airflow: it holds real flights, a corrected contract and a redrive let them pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka
from airflow_provider_eventlog.devkafka.topics import create_topic
from demo import flights, gate
from demo.airflow import USERNAME, AirflowStandalone

if TYPE_CHECKING:
    import pandas as pd

TOPIC = "departures"
DAYS = 2


def _rows(airflow: AirflowStandalone, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(airflow.home / "flights_checked.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def _asked(airflow: AirflowStandalone, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--home", str(airflow.home), "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def departures(airflow: AirflowStandalone, airflow_dags: Path, eventlog_kafka: SessionKafka) -> pd.DataFrame:
    """The flights of two days, held by the gate of the example, which reads a topic of this test's own."""
    file = airflow_dags / gate.FILE
    file.write_text(file.read_text().replace('Stream("flights"', f'Stream("{TOPIC}"'))
    frame = flights.dataset()
    some = frame[(frame["month"] == 1) & (frame["day"] <= DAYS)]
    create_topic(eventlog_kafka.bootstrap_servers, TOPIC, 2, {"retention.ms": "-1"})
    sent = produce(TOPIC, flights.records(some), {"bootstrap.servers": eventlog_kafka.bootstrap_servers})
    assert (sent.sent, sent.failed) == (len(some), 0)
    airflow.wait_dag(gate.DAG)
    airflow.unpause(gate.DAG)
    conf = {"eventlog_what": "interval", "eventlog_from": "2013-01-01T00:00Z", "eventlog_to": "2013-01-05T00:00Z"}
    run = airflow.trigger(gate.DAG, conf=conf, run_id="held")
    assert airflow.wait_run(gate.DAG, run, expect="failed") == "failed"
    return some


def test_the_gate_holds_flights_to_unknown_airports(
    airflow: AirflowStandalone, departures: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """`validate` fails at once and says what was stopped and how many; nothing is loaded."""
    states = {t["task_id"].split(".")[-1]: t["state"] for t in airflow.task_instances(gate.DAG, "held")}
    assert (states["validate"], states["load"]) == ("failed", "upstream_failed")
    unknown = int(departures["dest"].isin(["BQN", "PSE", "SJU", "STT"]).sum())
    assert unknown > 10
    said = airflow.logs(gate.DAG, "held", "flights_checked.validate")
    assert "QuarantineLimitError" in said
    assert f"{unknown} rows" in said
    assert not (airflow.home / "flights_checked.duckdb").exists()
    (batch,) = _asked(airflow, capsys, "quarantine", "list", "--pipeline", gate.PIPELINE)["batches"]
    assert (batch["state"], batch["codes"]) == ("held", {"check": unknown})


def test_a_redrive_lets_them_pass_without_kafka(
    airflow: AirflowStandalone,
    airflow_dags: Path,
    eventlog_kafka: SessionKafka,
    departures: pd.DataFrame,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under the corrected contract the stopped records run again in their own batch, although the topic is gone."""
    TopicAdmin({"bootstrap.servers": eventlog_kafka.bootstrap_servers}).delete(TOPIC)
    gate.correct(airflow_dags)
    words = ["redrive", "--pipeline", f"{airflow_dags / gate.FILE}:checked", "--check", "known_airport"]
    words += ["--why", gate.REASON, "--in-airflow", "--dag-id", gate.DAG, "--output", "json"]
    environment = airflow.environment() | {
        "EVENTLOG_AIRFLOW_URL": airflow.base_url,
        "EVENTLOG_AIRFLOW_USERNAME": USERNAME,
        "EVENTLOG_AIRFLOW_PASSWORD": airflow.password,
    }
    argv = [sys.executable, "-m", "airflow_provider_eventlog.cli.main", *words]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["airflow"]["made"], told["airflow"]["state"]) == ("now", "success")
    assert airflow.run(gate.DAG, told["airflow"]["run_id"])["note"] == f"redrive: {gate.REASON}"
    expected = {dest: int(count) for dest, count in departures["dest"].value_counts().items()}
    assert dict(_rows(airflow, "select dest, count(*) from flights group by 1")) == expected
    assert _rows(airflow, "select count(distinct (_partition, _offset)) from flights") == [(len(departures),)]
    assert _rows(airflow, "select count(*) from flights where tailnum is null or dep_time is null")[0][0] > 0
    assert _asked(airflow, capsys, "quarantine", "list", "--pipeline", gate.PIPELINE)["batches"] == []
    (batch,) = _asked(airflow, capsys, "batches", "--pipeline", gate.PIPELINE)["batches"]
    assert (batch["generation"], batch["state"]) == (2, "loaded")


def test_the_user_who_asked_is_in_the_decision(airflow: AirflowStandalone, departures: pd.DataFrame) -> None:
    """The redrive's record in staging names Airflow's user, the reason, the recipe before and the offsets."""
    folder = airflow.home / "eventlog" / "staging" / TOPIC / "decisions" / "redrive"
    (file,) = folder.iterdir()
    record = json.loads(file.read_text())["record"]
    assert (record["who"], record["why"]) == ("admin", gate.REASON)
    assert record["payload"]["base"] == 1
    assert record["payload"]["base_recipe"] != record["payload"]["recipe"]


def test_a_release_by_a_run_needs_something_held(airflow: AirflowStandalone, departures: pd.DataFrame) -> None:
    """A run that is to release a batch that is not held fails at plan with the reason, and binds nothing."""
    conf = {"eventlog_what": "release", "eventlog_batch": "none", "eventlog_reason": "a test"}
    run = airflow.trigger(gate.DAG, conf=conf, run_id="nothing")
    assert airflow.wait_run(gate.DAG, run, expect="failed") == "failed"
    assert "is not held" in airflow.logs(gate.DAG, run, "flights_checked.plan")
