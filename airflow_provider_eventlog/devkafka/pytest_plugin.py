"""The pytest plugin: a real broker for a test session and fresh topics for its tests.

Loaded in every pytest run where the package is installed, so it imports nothing heavy before a fixture is used.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pytest


@dataclass(frozen=True)
class SessionKafka:
    """The broker of the test session; `embedded` is False where `--eventlog-kafka-bootstrap` named one."""

    bootstrap_servers: str
    embedded: bool


class TopicFactory(Protocol):
    """Makes topics: see `eventlog_topic`."""

    def __call__(self, partitions: int = 1, config: Mapping[str, str] | None = None, name: str | None = None) -> str:
        """Create a topic and return its name."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--eventlog-kafka-bootstrap` and the ini key of the same meaning."""
    text = "host:port[,host:port...] of a Kafka to use in tests instead of starting an embedded one"
    parser.getgroup("eventlog").addoption("--eventlog-kafka-bootstrap", metavar="SERVERS", default=None, help=text)
    parser.addini("eventlog_kafka_bootstrap", text, default="")


@pytest.fixture(scope="session")
def eventlog_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionKafka]:
    """Kafka for the session: one embedded broker, started at first use and stopped at the end, or the one named."""
    config = request.config
    named = config.getoption("--eventlog-kafka-bootstrap") or config.getini("eventlog_kafka_bootstrap")
    if named:
        yield SessionKafka(str(named), embedded=False)
        return
    from airflow_provider_eventlog.devkafka import cluster

    with cluster.start(data_dir=tmp_path_factory.mktemp("eventlog_kafka")) as running:
        yield SessionKafka(running.bootstrap_servers, embedded=True)


@dataclass
class _Topics:
    kafka: SessionKafka
    prefix: str
    made: list[str] = field(default_factory=list)

    def __call__(self, partitions: int = 1, config: Mapping[str, str] | None = None, name: str | None = None) -> str:
        from airflow_provider_eventlog.devkafka.topics import create_topic

        topic = name or f"{self.prefix}-{uuid.uuid4().hex[:12]}"
        create_topic(self.kafka.bootstrap_servers, topic, partitions, config)
        self.made.append(topic)
        return topic


@pytest.fixture
def eventlog_topic(request: pytest.FixtureRequest, eventlog_kafka: SessionKafka) -> Iterator[TopicFactory]:
    """A factory `make(partitions=1, config=None, name=None) -> str` of topics that did not exist before.

    Without `name` the name is unique, and begins with the test's. On an embedded broker topics stay until the
    session ends (to be looked at); on a named one those that were made here are deleted after the test.
    """
    topics = _Topics(eventlog_kafka, re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:80])
    yield topics
    if not eventlog_kafka.embedded and topics.made:
        from airflow_provider_eventlog.devkafka.topics import delete_topics

        delete_topics(eventlog_kafka.bootstrap_servers, topics.made)
