"""docker-compose.yml: valid, pinned, closed to the outside, and free of secrets."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
RUNNING = sorted(SERVICES.keys() - {"airflow-init"})
SENSITIVE = re.compile(r"PASSWORD$|SECRET|FERNET|_KEY$|TOKEN")
REQUIRED = r"\$\{[A-Z_]+:\?[^}]+\}"


def _dockerfile(service: dict[str, Any]) -> str:
    return str(service["build"]["dockerfile_inline"])


def test_it_is_valid() -> None:
    """The file satisfies the compose specification's own schema."""
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    checked = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_images_are_pinned() -> None:
    """Every image, the base of the built one among them, names a full version."""
    images = [s["image"] for s in SERVICES.values()]
    images += [re.findall(r"^FROM (\S+)$", _dockerfile(s), re.M)[0] for s in SERVICES.values() if "build" in s]
    for image in images:
        assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?", image), image


def test_the_base_image_is_the_airflow_that_is_tested() -> None:
    """Airflow in the image is the release that the constraints pin and this suite runs on."""
    for service in (s for s in SERVICES.values() if "build" in s):
        assert f"FROM apache/airflow:{version('apache-airflow')}-python3.11\n" in _dockerfile(service)


def test_what_the_image_copies_is_there() -> None:
    """Each path that the build takes from the repository exists in it."""
    for service in (s for s in SERVICES.values() if "build" in s):
        sources = [p for line in re.findall(r"^COPY (.+)$", _dockerfile(service), re.M) for p in line.split()[1:-1]]
        assert sources
        assert [p for p in sources if not (FILE.parent / p).exists()] == []


def test_the_parts_are_there() -> None:
    """Three Kafka nodes that form one quorum, PostgreSQL, and each component of Airflow on the LocalExecutor."""
    nodes = [name for name, s in SERVICES.items() if s["image"].startswith("apache/kafka:")]
    voters = {f"{SERVICES[n]['environment']['KAFKA_NODE_ID']}@{n}:9093" for n in nodes}
    assert len(nodes) == len(voters) == 3
    for node in nodes:
        assert set(SERVICES[node]["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")) == voters
    assert len({SERVICES[n]["environment"]["CLUSTER_ID"] for n in nodes}) == 1
    assert SERVICES["postgres"]["image"].startswith("postgres:17.")
    commands = {s["command"] for s in SERVICES.values() if isinstance(s.get("command"), str)}
    assert commands == {"api-server", "scheduler", "dag-processor", "triggerer"}
    for name in RUNNING:
        if name.startswith("airflow-"):
            assert SERVICES[name]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"


def test_airflow_shares_one_volume() -> None:
    """All of Airflow's services see the same AIRFLOW_HOME, below which staging, ledger and DuckDB files lie."""
    airflow = [s for name, s in SERVICES.items() if name.startswith("airflow-")]
    mounts = {v for s in airflow for v in s["volumes"] if v.split(":")[1] == s["environment"]["AIRFLOW_HOME"]}
    assert mounts == {"airflow-home:/srv/airflow"}
    assert all(mounts < set(s["volumes"]) for s in airflow)


def test_volumes_are_declared_and_used() -> None:
    """Each named volume that a service mounts is declared, and none is declared in vain."""
    mounted = {v.split(":")[0] for s in SERVICES.values() for v in s["volumes"]}
    assert {v for v in mounted if not v.startswith(".")} == set(COMPOSE["volumes"])
    assert all((FILE.parent / v).is_dir() for v in mounted if v.startswith("."))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_dependencies_wait_for_what_they_need(name: str) -> None:
    """What a service depends on is defined, and waited for until it is healthy, or done where it runs once."""
    for wanted, how in SERVICES[name].get("depends_on", {}).items():
        assert wanted in SERVICES
        done = "service_healthy" if "healthcheck" in SERVICES[wanted] else "service_completed_successfully"
        assert how == {"condition": done}


@pytest.mark.parametrize("name", RUNNING)
def test_long_running_services_are_watched(name: str) -> None:
    """Every service that stays has a health check with its own bounds, and is started again."""
    assert {"test", "interval", "timeout", "retries", "start_period"} <= SERVICES[name]["healthcheck"].keys()
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_ports_are_for_this_machine() -> None:
    """Every published port is bound to the loopback address, and published once."""
    ports = [port for s in SERVICES.values() for port in s.get("ports", [])]
    assert len(ports) == 4
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_is_written_down(name: str) -> None:
    """A sensitive variable, and the password in an address, is a required variable of the caller's environment."""
    for key, value in SERVICES[name].get("environment", {}).items():
        if SENSITIVE.search(key):
            assert re.fullmatch(REQUIRED, value), key
        for userinfo in re.findall(r"://([^/@\s]*:.*)@", value):
            assert re.fullmatch(rf"[a-z]+:{REQUIRED}", userinfo), key


def test_the_variables_are_the_ones_the_head_makes() -> None:
    """The comment at the head makes each variable that the file asks for."""
    text = FILE.read_text()
    head, body = text.split("\nname:", 1)
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+):\?", body))
    assert len(asked) == 5
    assert [name for name in asked if not re.search(rf"\b{name}\b", head)] == []
