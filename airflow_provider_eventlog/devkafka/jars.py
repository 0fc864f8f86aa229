"""Kafka's jars: resolved once from Maven coordinates by the PyPI package jgo, then remembered."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from airflow_provider_eventlog.devkafka.errors import INSTALL_HINT, DevKafkaError
from airflow_provider_eventlog.devkafka.files import locked, write_atomically

KAFKA_VERSION = "4.3.1"
# Kafka's own dependencies hold no slf4j binding: without one a broker that fails says nothing.
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
RESOLVE_SECONDS = 600.0


def cache_folder() -> Path:
    """Return the folder of what is worth keeping between starts: `eventlog-kafka` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "eventlog-kafka"


def class_path(log: Callable[[str], None], cache: Path | None = None) -> list[str]:
    """Return the absolute paths of Kafka's jars and their dependencies.

    The first call resolves them (some seconds and about 100 MB over the network, into jgo's own cache) and keeps the
    list in `cache`; later calls only check that every file is still there. Raises `DevKafkaError` when they cannot
    be resolved; nothing is remembered then.
    """
    cache = cache or cache_folder()
    digest = hashlib.sha256(COORDINATES.encode()).hexdigest()[:16]
    remembered = cache / f"jars-{digest}.json"
    if jars := _remembered(remembered):
        return jars
    with locked(cache / "jars.lock", RESOLVE_SECONDS):
        if jars := _remembered(remembered):
            return jars
        log(f"resolving the jars of Kafka {KAFKA_VERSION} (once on this machine)")
        jars = _resolve()
        write_atomically(remembered, json.dumps(jars, indent=1))
    return jars


def _remembered(path: Path) -> list[str]:
    try:
        jars = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(jars, list) or not all(isinstance(jar, str) and Path(jar).is_file() for jar in jars):
        return []
    return jars


def _resolve() -> list[str]:
    if importlib.util.find_spec("jgo") is None:
        raise DevKafkaError(
            f"The embedded Kafka needs Kafka's jars, and the package jgo that resolves them is not installed. "
            f"{INSTALL_HINT}"
        )
    # `jars` lists class path and module path alike: a broker needs both, and jgo may have split a cached environment.
    command = [sys.executable, "-m", "jgo", "--resolver", "python", "--class-path-only", "--color", "plain"]
    command += ["--wrap", "raw", "info", "jars", COORDINATES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DevKafkaError(
            f"The jars of {COORDINATES} were not resolved within {RESOLVE_SECONDS:g} s. Check that this machine "
            "reaches its Maven repository (jgo's own configuration names it), then try again."
        ) from error
    jars = [line.strip() for line in done.stdout.splitlines() if line.strip().endswith(".jar")]
    missing = [jar for jar in jars if not Path(jar).is_file()]
    if done.returncode != 0 or not jars or missing:
        said = "\n".join((done.stderr or done.stdout).splitlines()[-10:])
        raise DevKafkaError(
            f"The jars of {COORDINATES} could not be resolved (jgo ended with {done.returncode}). Check that this "
            f"machine reaches its Maven repository and that the extra is whole. {INSTALL_HINT}\n{said}"
        )
    return jars
