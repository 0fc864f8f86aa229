"""One cluster of three brokers for all tests of this folder, healed in front of each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.devkafka.topics import create_topic
from tests.cluster.brokers import Brokers, started
from tests.cluster.world import World


@pytest.fixture(scope="package")
def cluster_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """The running brokers, in whatever state the last test has left them."""
    with started(tmp_path_factory.mktemp("brokers")) as brokers:
        yield brokers


@pytest.fixture
def brokers(cluster_of_three: Brokers) -> Iterator[Brokers]:
    """The brokers, whole: all alive, all replicas in sync, nothing spoiled, nothing injected yet."""
    cluster_of_three.heal()
    cluster_of_three.injected.clear()
    yield cluster_of_three
    for proxy in cluster_of_three.proxies.values():
        proxy.heal()


@pytest.fixture
def world(brokers: Brokers, tmp_path: Path) -> Callable[..., World]:
    """`world(partitions=1, config=None, **stream)`: a fresh topic and a pipeline over it in a home of its own."""

    def make(partitions: int = 1, config: dict[str, str] | None = None, **stream: Any) -> World:
        topic = f"t-{uuid.uuid4().hex[:12]}"
        create_topic(brokers.direct["bootstrap.servers"], topic, partitions, config)
        return World(brokers, topic, tmp_path, **stream)

    return make
