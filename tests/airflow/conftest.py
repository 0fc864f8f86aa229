"""One real Airflow for all tests of this folder, on the session's real Kafka."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_eventlog.devkafka.pytest_plugin import SessionKafka
from demo.airflow import AirflowStandalone

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "dags"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Airflow."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("airflow")


@pytest.fixture(scope="session")
def airflow_env(eventlog_kafka: SessionKafka) -> dict[str, str]:
    """Variables of Airflow's environment: the connection to the session's Kafka."""
    connection = {"conn_type": "kafka", "extra": {"bootstrap.servers": eventlog_kafka.bootstrap_servers}}
    return {"AIRFLOW_CONN_KAFKA_DEFAULT": json.dumps(connection)}


@pytest.fixture(scope="session")
def airflow_dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the example DAGs and of the tests' own."""
    folder = tmp_path_factory.mktemp("dags")
    for source in (EXAMPLES, HERE / "dags"):
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="package")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, airflow_dags: Path, airflow_env: dict[str, str]
) -> Iterator[AirflowStandalone]:
    """A running Airflow with its DAGs paused; ended with this folder, since its scheduler is never idle."""
    with AirflowStandalone(tmp_path_factory.mktemp("airflow"), airflow_dags, env=airflow_env) as running:
        yield running
