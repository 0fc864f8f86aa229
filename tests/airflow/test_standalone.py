"""The Airflow that the other tests of this folder stand on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from demo.airflow import AirflowEndedError, AirflowStandalone, session_processes
from demo.airflow_api import ApiError, RunFailedError


def test_a_run_succeeds_and_leaves_its_xcom(airflow: AirflowStandalone) -> None:
    """A triggered run goes through the scheduler and two tasks, with its conf, and its result can be read."""
    airflow.wait_dag("smoke_trivial")
    airflow.unpause("smoke_trivial")
    run_id = airflow.trigger("smoke_trivial", conf={"n": 20}, run_id="smoke+1:a", note="why")
    assert airflow.wait_run("smoke_trivial", run_id) == "success"
    assert airflow.xcom("smoke_trivial", run_id, "add_one") == 41
    assert airflow.run("smoke_trivial", run_id)["note"] == "why"
    states = {t["task_id"]: t["state"] for t in airflow.task_instances("smoke_trivial", run_id)}
    assert states == {"double": "success", "add_one": "success"}
    assert "Returned value was: 41" in airflow.logs("smoke_trivial", run_id, "add_one")
    assert [r["dag_run_id"] for r in airflow.wait_runs("smoke_trivial", 1)] == [run_id]


def test_a_run_id_is_taken_once(airflow: AirflowStandalone) -> None:
    """A second run of the same id is refused with 409."""
    airflow.wait_dag("smoke_trivial")
    airflow.trigger("smoke_trivial", run_id="twice")
    with pytest.raises(ApiError) as refused:
        airflow.trigger("smoke_trivial", run_id="twice")
    assert refused.value.status == 409


def test_a_failed_run_is_told_with_its_log(airflow: AirflowStandalone) -> None:
    """Waiting for a run that fails raises with the failed task's own message."""
    airflow.wait_dag("smoke_trivial")
    airflow.unpause("smoke_trivial")
    run_id = airflow.trigger("smoke_trivial", conf={"n": {}})
    with pytest.raises(RunFailedError, match="unsupported operand"):
        airflow.wait_run("smoke_trivial", run_id)
    assert airflow.wait_run("smoke_trivial", run_id, expect="failed") == "failed"


def test_it_listens_on_this_machine_only(airflow: AirflowStandalone) -> None:
    """No component, supervisor or task of it accepts connections from elsewhere."""
    listening = set()
    for pid in airflow.processes():
        try:
            connections = psutil.Process(pid).net_connections()
        except psutil.NoSuchProcess:
            # A task's process that has ended since.
            continue
        listening |= {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    assert [tuple(address) for address in listening] == [("127.0.0.1", airflow.port)]


def test_a_death_ends_every_wait(tmp_path: Path) -> None:
    """Where the server ends by itself, waiting raises at once, with its output; and nothing of it is left."""
    broken = AirflowStandalone(tmp_path, tmp_path, env={"AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor"})
    broken.start()
    leader = broken.processes()[0]
    try:
        with pytest.raises(AirflowEndedError, match="NoSuchExecutor"):
            broken.wait_ready(timeout=60)
    finally:
        broken.stop()
    assert session_processes(leader) == []


def test_foreign_variables_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's Airflow settings and connections do not reach it; what it is given does."""
    monkeypatch.setenv("AIRFLOW_CONN_FOREIGN", "{}")
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "99")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid")
    env = AirflowStandalone(tmp_path, tmp_path, env={"AIRFLOW_CONN_MINE": "{}"}, parallelism=2).environment()
    assert "AIRFLOW_CONN_FOREIGN" not in env
    assert (env["AIRFLOW_CONN_MINE"], env["AIRFLOW__CORE__PARALLELISM"]) == ("{}", "2")
    assert "127.0.0.1" in env["NO_PROXY"].split(",")
    assert env["HOME"] == os.environ["HOME"]


def test_airflow_eventlog_is_the_same_command(airflow: AirflowStandalone) -> None:
    """`airflow eventlog ...` hands over options and `--help`, and ends with eventlog's own exit code."""
    command = shutil.which("airflow", path=airflow.environment()["PATH"])
    assert command is not None

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [command, "eventlog", *arguments]
        return subprocess.run(argv, env=airflow.environment(), capture_output=True, text=True, timeout=120)

    top, inner, wrong = call("--help"), call("plan", "--help"), call("plan", "--output", "json")
    assert (top.returncode, inner.returncode, wrong.returncode) == (0, 0, 2)
    assert top.stdout.startswith("usage: eventlog ")
    assert inner.stdout.startswith("usage: eventlog plan ")
    assert "eventlog plan: error: the following arguments are required: --pipeline" in wrong.stderr
