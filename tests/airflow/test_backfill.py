"""`eventlog backfill` against a real Airflow: runs made once, interrupted and gone on with, retried, and refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core.kafka.producer import Record, produce
from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka
from airflow_provider_eventlog.devkafka.topics import create_topic
from demo.airflow import USERNAME, AirflowStandalone

DAG = "refilled_dag"
COUNT, CHUNK = 120, 30
OFFSETS = f"0:0-{COUNT // 2},1:0-{COUNT // 2}"
RUNS = COUNT // CHUNK


class Shell:
    """Calls the command as a user of this Airflow does, signed in by environment variables."""

    def __init__(self, airflow: AirflowStandalone, dags: Path) -> None:
        self.airflow = airflow
        self.words = [sys.executable, "-m", "airflow_provider_eventlog.cli.main", "backfill", "--output", "json"]
        self.words += ["--pipeline", f"{dags / 'refilled.py'}:refilled", "--dag-id", DAG]
        self.environment = airflow.environment() | {
            "EVENTLOG_AIRFLOW_URL": airflow.base_url,
            "EVENTLOG_AIRFLOW_USERNAME": USERNAME,
            "EVENTLOG_AIRFLOW_PASSWORD": airflow.password,
        }

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.words, *words],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A suite that runs in the background of a shell ignores SIGINT, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __call__(self, *words: str, **environment: str) -> tuple[int, Any, str]:
        """Exit code, the JSON document on stdout (None for none), stderr; no secret is in either."""
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=180)
        assert self.airflow.password not in out + err
        return process.returncode, json.loads(out) if out else None, err

    def rows(self, table: str = "refilled") -> tuple[int, int]:
        with duckdb.connect(str(self.airflow.home / "refilled.duckdb"), read_only=True) as connection:
            found = connection.execute(
                f"select count(*), count(distinct (_partition, _offset)) from {table}"
            ).fetchone()
        assert found is not None
        return found[0], found[1]


@pytest.fixture(scope="module")
def shell(airflow: AirflowStandalone, airflow_dags: Path, eventlog_kafka: SessionKafka) -> Iterator[Shell]:
    """A topic with records, and the DAG that takes them, unpaused."""
    create_topic(eventlog_kafka.bootstrap_servers, "refilled", 2)
    records = [Record(json.dumps({"n": n}).encode(), None, n % 2) for n in range(COUNT)]
    assert produce("refilled", records, {"bootstrap.servers": eventlog_kafka.bootstrap_servers}).failed == 0
    airflow.wait_dag(DAG)
    airflow.unpause(DAG)
    yield Shell(airflow, airflow_dags)
    airflow.pause(DAG)


@pytest.fixture(scope="module")
def filled(shell: Shell, airflow: AirflowStandalone) -> dict[str, Any]:
    """The document of a back-fill that was interrupted once its runs were made, and asked for again."""
    first = shell.start("--offsets", OFFSETS, "--chunk", str(CHUNK))
    airflow.wait("the runs to be made", 120, lambda: len(airflow.runs(DAG)) == RUNS)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "the same command goes on" in err
    code, document, err = shell("--offsets", OFFSETS, "--chunk", str(CHUNK))
    assert code == 0, err
    return dict(document)


def test_an_interrupted_back_fill_goes_on(shell: Shell, airflow: AirflowStandalone, filled: dict[str, Any]) -> None:
    """Interrupted and asked for again, each run exists once, has ended well, and every offset is loaded once."""
    assert [(r["made"], r["state"]) for r in filled["runs"]] == [("before", "success")] * RUNS
    assert sorted(r["dag_run_id"] for r in airflow.runs(DAG)) == sorted(r["run_id"] for r in filled["runs"])
    assert shell.rows() == (COUNT, COUNT)


def test_runs_say_what_they_take(airflow: AirflowStandalone, filled: dict[str, Any]) -> None:
    """A run has no logical date, its offsets in conf and note, and its pipeline where the DAG holds several."""
    run = airflow.run(DAG, filled["runs"][1]["run_id"])
    assert run["logical_date"] is None
    expected = {"eventlog_what": "offsets", "eventlog_offsets": "0:30-60", "eventlog_pipeline": "refilled"}
    assert run["conf"] == expected
    assert "partition 0, offsets 30 to 59" in run["note"]
    states = {t["task_id"]: t["state"] for t in airflow.task_instances(DAG, run["dag_run_id"])}
    assert states == {"refilled.run": "success", "refilled_other.run": "skipped"}


def test_asking_twice_creates_nothing_twice(shell: Shell, airflow: AirflowStandalone, filled: dict[str, Any]) -> None:
    """The same question again finds the same runs, makes none, and leaves the rows as they are."""
    code, again, _ = shell("--offsets", OFFSETS, "--chunk", str(CHUNK))
    assert (code, [r["run_id"] for r in again["runs"]]) == (0, [r["run_id"] for r in filled["runs"]])
    assert len(airflow.runs(DAG)) == RUNS
    assert shell.rows() == (COUNT, COUNT)


def test_a_failed_run_is_named_and_cleared_when_asked(
    shell: Shell, airflow: AirflowStandalone, filled: dict[str, Any]
) -> None:
    """A run that failed ends the command with 1 and is named; --retry-failed has it done again, with the same rows."""
    run_id = filled["runs"][2]["run_id"]
    airflow.api("PATCH", f"/dags/{DAG}/dagRuns/{run_id}", {"state": "failed"})
    airflow.wait_run(DAG, run_id, expect="failed")
    code, failed, _ = shell("--offsets", OFFSETS, "--chunk", str(CHUNK))
    assert (code, failed["failed"]) == (1, [run_id])
    code, again, _ = shell("--offsets", OFFSETS, "--chunk", str(CHUNK), "--retry-failed")
    assert (code, again["runs"][2]["made"], again["failed"]) == (0, "cleared", [])
    assert len(airflow.runs(DAG)) == RUNS
    assert shell.rows() == (COUNT, COUNT)


def test_signing_in_by_an_airflow_connection(shell: Shell, airflow: AirflowStandalone, filled: dict[str, Any]) -> None:
    """Host, port, login and password may come from a connection of Airflow's."""
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": airflow.port, "login": USERNAME}
    environment = {"AIRFLOW_CONN_HERE": json.dumps(connection | {"password": airflow.password})}
    environment |= {"EVENTLOG_AIRFLOW_URL": "http://127.0.0.1:1", "EVENTLOG_AIRFLOW_PASSWORD": ""}
    what = ("--offsets", OFFSETS, "--chunk", str(CHUNK), "--airflow-conn-id", "here")
    code, again, err = shell(*what, **environment)
    assert code == 0, err
    assert {r["made"] for r in again["runs"]} == {"before"}


def test_authorised_by_airflow_alone(shell: Shell, airflow: AirflowStandalone) -> None:
    """A wrong password, a wrong token, an unknown DAG, one without eventlog, and nobody there: named, with code 1."""
    cases: list[tuple[str, str, tuple[str, ...], dict[str, str]]] = [
        ("AirflowAuthenticationError", "password of user", (), {"EVENTLOG_AIRFLOW_PASSWORD": "wrong-one"}),
        ("AirflowAuthenticationError", "does not take the token", (), {"EVENTLOG_AIRFLOW_TOKEN": "wrong-one"}),
        ("DagNotFoundError", "no_such", ("--dag-id", "no_such"), {}),
        ("AirflowApiError", "no eventlog_batch", ("--dag-id", "smoke_trivial"), {}),
        ("AirflowUnavailableError", "does not answer", ("--airflow-url", "http://127.0.0.1:1"), {}),
    ]
    before = len(airflow.runs(DAG))
    for kind, words, more, environment in cases:
        code, document, err = shell("--offsets", "0:0-5", *more, **environment)
        assert (code, document["error"]["type"]) == (1, kind), err
        assert words in document["error"]["message"]
        assert "wrong-one" not in json.dumps(document) + err
    assert len(airflow.runs(DAG)) == before
