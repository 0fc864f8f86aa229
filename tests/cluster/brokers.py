"""Three real brokers, each with a proxy in front of the listener that its clients are told of."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from airflow_provider_eventlog.devkafka import broker, cluster
from airflow_provider_eventlog.devkafka.jars import class_path
from airflow_provider_eventlog.devkafka.java import find_java
from airflow_provider_eventlog.devkafka.state import ClusterState, Node, read_state, write_state
from tests.support.toxics import Proxy, Toxic

NODES = (1, 2, 3)
# How long a killed broker counts as present; Kafka's nine seconds would be waited out at every kill.
PROPERTIES = {
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}
# Below the ports that the system gives to outgoing connections: a client that keeps trying a dead broker's port could
# otherwise be given that very port and find itself, and the broker could not come back.
_PORTS = range(18_000, 32_000)


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition within a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.05)


class Brokers:
    """A running cluster.

    settings  for clients whose every byte passes the proxies; `direct` for those that look from beside
    injected  what was done to it, in order
    """

    def __init__(self, data: Path, ports: Mapping[str, list[int]], proxies: Mapping[int, Proxy]) -> None:
        self.data, self.proxies = data, proxies
        self.injected: list[str] = []
        self.direct = {"bootstrap.servers": ",".join(f"127.0.0.1:{port}" for port in ports["PLAINTEXT"])}
        self.settings = {"bootstrap.servers": ",".join(f"127.0.0.1:{proxies[n].port}" for n in NODES)}

    def kill(self, *nodes: int) -> None:
        """Kill brokers with SIGKILL, and wait until they are gone."""
        for number in nodes:
            node = self._node(number)
            assert node.pid is not None
            assert broker.is_alive(self.data, node), f"broker {number} was dead before"
            os.kill(node.pid, signal.SIGKILL)
            self.injected.append(f"kill {number}")
        until(lambda: not any(broker.is_alive(self.data, self._node(n)) for n in nodes), f"end of {nodes}", 10)

    def restart(self, *nodes: int, wait: bool = True) -> None:
        """Start dead brokers again, on their old ports, and wait until they answer."""
        state = self._state()
        for number in nodes:
            assert not broker.is_alive(self.data, self._node(number))
            state = state.with_pid(number, broker.spawn(find_java(), class_path(print), self.data, number))
            write_state(self.data, state)
        if wait:
            until(lambda: all(map(self._answers, nodes)), f"an answer of {nodes}")

    def alive(self) -> list[int]:
        """The brokers whose process lives."""
        return [n for n in NODES if broker.is_alive(self.data, self._node(n))]

    def spoil(self, *toxics: Toxic, nodes: tuple[int, ...] = NODES) -> None:
        """Put toxics in force at the proxies of some brokers."""
        for number in nodes:
            self.proxies[number].toxics = toxics
        self.injected += [f"{type(toxic).__name__} at {nodes}" for toxic in toxics]

    def heal(self) -> None:
        """No toxics, all brokers alive, every replica of every topic in sync again."""
        for proxy in self.proxies.values():
            proxy.heal()
        self.restart(*(set(NODES) - set(self.alive())))
        until(self._in_sync, "replicas in sync")

    def leader(self, topic: str, partition: int = 0) -> int:
        """The broker that leads a partition; -1 for none."""
        return self._partition(topic, partition).leader if (self._partition(topic, partition)) else -1

    def wait_leader(self, topic: str, partition: int = 0, but: int = -1) -> int:
        """Wait until a broker other than `but` leads a partition."""
        until(lambda: self.leader(topic, partition) not in (-1, but), f"a leader of {topic} other than {but}")
        return self.leader(topic, partition)

    def in_sync(self, topic: str, partition: int = 0) -> set[int]:
        """The in-sync replicas of a partition."""
        found = self._partition(topic, partition)
        return set(found.isrs) if found else set()

    @contextmanager
    def admin(self) -> Iterator[AdminClient]:
        """An admin client beside the proxies; a new one, since one made before a broker died may keep asking it."""
        yield AdminClient({**self.direct, "log_level": 0})

    def _partition(self, topic: str, partition: int) -> Any:
        with self.admin() as admin, contextlib.suppress(KafkaException):
            found = admin.list_topics(topic, timeout=5).topics.get(topic)
            return found.partitions.get(partition) if found else None
        return None

    def _in_sync(self) -> bool:
        with self.admin() as admin, contextlib.suppress(KafkaException):
            found = admin.list_topics(timeout=5)
            partitions = [p for topic in found.topics.values() for p in topic.partitions.values()]
            behind = [p for p in partitions if p.leader < 0 or set(p.isrs) != set(p.replicas)]
            return set(found.brokers) == set(NODES) and not behind
        return False

    def _answers(self, number: int) -> bool:
        node = self._node(number)
        assert broker.is_alive(self.data, node), broker.log_tail(self.data, number)
        return any(n.id == number and n.answers for n in cluster.status(self.data).nodes)

    def _node(self, number: int) -> Node:
        return self._state().nodes[number - 1]

    def _state(self) -> ClusterState:
        state = read_state(self.data)
        assert state is not None
        return state


@contextmanager
def started(data: Path) -> Iterator[Brokers]:
    """Three brokers with their proxies, as a context manager."""
    with contextlib.ExitStack() as stack:
        ports = _ports("PLAINTEXT", "CLIENT", "CONTROLLER", "PROXY")
        proxies = {
            n: stack.enter_context(Proxy(ports["CLIENT"][n - 1], port=ports["PROXY"][n - 1], seed=n)) for n in NODES
        }
        single = {n: _listeners(ports, n) for n in NODES}
        stack.enter_context(
            cluster.start(
                len(NODES), data_dir=data, port=ports["PLAINTEXT"][0], properties=PROPERTIES, node_properties=single
            )
        )
        yield Brokers(data, ports, proxies)


def _listeners(ports: Mapping[str, list[int]], number: int) -> dict[str, str]:
    """Brokers and onlookers use PLAINTEXT, clients CLIENT, which is announced under its proxy's port."""

    def at(kind: str) -> str:
        return f"127.0.0.1:{ports[kind][number - 1]}"

    voters = (f"{n}@127.0.0.1:{port}" for n, port in zip(NODES, ports["CONTROLLER"], strict=True))
    return {
        "controller.quorum.voters": ",".join(voters),
        "listeners": ",".join(f"{kind}://{at(kind)}" for kind in ("CONTROLLER", "PLAINTEXT", "CLIENT")),
        "advertised.listeners": f"PLAINTEXT://{at('PLAINTEXT')},CLIENT://{at('PROXY')}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CLIENT:PLAINTEXT",
    }


def _ports(*kinds: str) -> dict[str, list[int]]:
    """Free ports of each kind for all nodes, one behind the other."""
    count = len(kinds) * len(NODES)
    chance = random.SystemRandom()
    while True:
        first = chance.randrange(_PORTS.start, _PORTS.stop - count)
        if all(cluster.is_free(port) for port in range(first, first + count)):
            each = len(NODES)
            return {kind: list(range(first + i * each, first + (i + 1) * each)) for i, kind in enumerate(kinds)}
