"""Clusters of the embedded Kafka: start, look at, stop.

A cluster lives in a data folder: `cluster.json` (ids, ports, pids) and a folder a node with its properties, data and
log. Its processes outlive the caller. Everything listens on 127.0.0.1 without authentication.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from airflow_provider_eventlog.devkafka import broker
from airflow_provider_eventlog.devkafka.errors import DevKafkaError, PortTakenError
from airflow_provider_eventlog.devkafka.files import locked
from airflow_provider_eventlog.devkafka.jars import KAFKA_VERSION, class_path
from airflow_provider_eventlog.devkafka.java import find_java
from airflow_provider_eventlog.devkafka.state import ClusterState, Node, read_state, write_state

MAX_NODES = 9
GRACE_SECONDS = 10.0
# Free ports are found by binding and letting go; somebody else may take one before the broker does.
PORT_ATTEMPTS = 3


@dataclass(frozen=True)
class NodeStatus:
    """One broker: `alive` its process runs, `answers` it replied to a metadata request."""

    id: int
    port: int
    pid: int | None
    alive: bool
    answers: bool


@dataclass(frozen=True)
class ClusterStatus:
    """What runs in a data folder; no nodes where no cluster was ever started."""

    data_dir: Path
    nodes: tuple[NodeStatus, ...]

    @property
    def running(self) -> bool:
        """Whether there are nodes and all of them answer."""
        return bool(self.nodes) and all(node.answers for node in self.nodes)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of the live brokers, comma-separated; empty where none lives."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes if node.alive)

    def to_json(self) -> dict[str, Any]:
        """Return the same as a JSON-able document."""
        return {
            "data_dir": str(self.data_dir),
            "running": self.running,
            "bootstrap_servers": self.bootstrap_servers,
            "nodes": [asdict(node) for node in self.nodes],
        }


@dataclass(frozen=True)
class RunningCluster:
    """A cluster that answered when it was returned. As a context manager it is stopped at the end of the block."""

    data_dir: Path
    cluster_id: str
    bootstrap_servers: str
    pids: tuple[int, ...]

    def stop(self) -> list[int]:
        """Stop it, as `stop(data_dir)` does."""
        return stop(self.data_dir)

    def __enter__(self) -> RunningCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _silent(line: str) -> None:
    del line


def start(
    nodes: int = 1,
    *,
    data_dir: Path,
    port: int | None = None,
    log: Callable[[str], None] = _silent,
    properties: Mapping[str, str] | None = None,
    node_properties: Mapping[int, Mapping[str, str]] | None = None,
    timeout: float = 120.0,
) -> RunningCluster:
    """Start `nodes` brokers (1 to 9) in `data_dir` and return once all of them answer.

    Brokers listen on `port`, `port` + 1, ...; without it on the ports they had before, or on free ones. On a folder
    whose cluster runs this returns that cluster; brokers of it that died are started again; a stopped cluster comes
    back with its data. `properties` are Kafka server settings and win over the defaults here, `node_properties` those
    of single nodes by id (1 to `nodes`), which win over both; brokers that already run keep theirs. `log` is called
    with each line of progress.

    Raises `DevKafkaError` if Java or the jars cannot be had, if the folder holds a cluster of another size or port,
    if a broker dies (with the last lines of its log), or if not all answer within `timeout` seconds. The brokers
    that this call started are ended then.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise DevKafkaError(f"A cluster has 1 to {MAX_NODES} nodes, not {nodes}.")
    data_dir = _resolved(data_dir)
    extra = {i: {**(properties or {}), **(node_properties or {}).get(i, {})} for i in range(1, nodes + 1)}
    with locked(data_dir / "lock", timeout):
        state = read_state(data_dir)
        alive = _alive(data_dir, state)
        _check_same(data_dir, state, nodes, port if alive else None)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if not alive:
                state = _planned(nodes, port, state, fresh=attempt > 1)
            assert state is not None
            try:
                return _bring_up(data_dir, state, extra, log, time.monotonic() + timeout)
            except PortTakenError:
                if alive or port is not None or attempt == PORT_ATTEMPTS:
                    raise
                log("a port was taken meanwhile; trying others")
    raise AssertionError("unreachable")


def status(data_dir: Path) -> ClusterStatus:
    """Return what runs in `data_dir`; changes nothing, and takes at most a few seconds for each silent broker."""
    data_dir = Path(data_dir).expanduser().resolve()
    state = read_state(data_dir)
    found = []
    for node in state.nodes if state else ():
        alive = broker.is_alive(data_dir, node)
        answers = alive and _connects(node.port) and node.id in _broker_ids(f"127.0.0.1:{node.port}", 2.0)
        found.append(NodeStatus(node.id, node.port, node.pid if alive else None, alive, answers))
    return ClusterStatus(data_dir, tuple(found))


def stop(data_dir: Path) -> list[int]:
    """End the brokers of `data_dir` and return the pids that were ended, none where nothing ran.

    Only a process whose command line names this folder's properties is touched: a recorded pid that by now belongs
    to another program is left alone. The data stay, and `start` brings them back.
    """
    data_dir = Path(data_dir).expanduser().resolve()
    if not (data_dir / "cluster.json").exists():
        return []
    with locked(data_dir / "lock", 120.0):
        state = read_state(data_dir)
        if state is None:
            return []
        ended = broker.end(data_dir, list(state.nodes), GRACE_SECONDS)
        for node in state.nodes:
            state = state.with_pid(node.id, None)
        write_state(data_dir, state)
        return ended


def _resolved(data_dir: Path) -> Path:
    data_dir = Path(data_dir).expanduser().resolve()
    if "," in str(data_dir):
        raise DevKafkaError(f"Kafka takes a comma in a folder's name as a separator: choose another than {data_dir}.")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DevKafkaError(f"The data folder {data_dir} cannot be made ({error}): choose another one.") from error
    return data_dir


def _alive(data_dir: Path, state: ClusterState | None) -> list[Node]:
    return [node for node in state.nodes if broker.is_alive(data_dir, node)] if state else []


def _check_same(data_dir: Path, state: ClusterState | None, nodes: int, port: int | None) -> None:
    if state is None:
        return
    if state.kafka != KAFKA_VERSION:
        raise DevKafkaError(
            f"{data_dir} holds a cluster of Kafka {state.kafka}, and this release runs {KAFKA_VERSION}: stop it and "
            "choose another folder."
        )
    if len(state.nodes) != nodes:
        raise DevKafkaError(
            f"{data_dir} holds a cluster of {len(state.nodes)} node(s), not {nodes}: ask for as many, or choose "
            "another folder."
        )
    if port is not None and state.nodes[0].port != port:
        raise DevKafkaError(
            f"The cluster in {data_dir} runs on port {state.nodes[0].port}, not {port}: stop it first, or leave the "
            "port out."
        )


def _planned(nodes: int, port: int | None, known: ClusterState | None, fresh: bool) -> ClusterState:
    cluster_id = known.cluster_id if known else broker.random_id()
    free = _free_ports(2 * nodes)
    ports, controllers = free[:nodes], free[nodes:]
    if port is not None:
        ports = list(range(port, port + nodes))
    elif known and not fresh and all(is_free(node.port) for node in known.nodes):
        ports = [node.port for node in known.nodes]
    planned = (Node(i + 1, ports[i], controllers[i]) for i in range(nodes))
    return ClusterState(cluster_id, KAFKA_VERSION, tuple(planned))


def is_free(port: int) -> bool:
    """Whether a server may listen on the port of 127.0.0.1."""
    with socket.socket() as probe:
        # As a Java server socket does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _bring_up(
    data_dir: Path,
    state: ClusterState,
    extra: Mapping[int, Mapping[str, str]],
    log: Callable[[str], None],
    deadline: float,
) -> RunningCluster:
    dead = [node for node in state.nodes if not broker.is_alive(data_dir, node)]
    if dead:
        java, jars = find_java(), class_path(log)
        for node in dead:
            if not is_free(node.port):
                raise PortTakenError(
                    f"Port {node.port} for broker {node.id} is taken: choose another, or leave it out."
                )
            broker.write_properties(data_dir, state, node, extra[node.id])
        # Before the storage carries the cluster's id: a start that is cut short must find the same id again.
        write_state(data_dir, state)
        broker.format_storage(java, jars, data_dir, state, plain=not any(extra.values()))
        log(f"starting {len(dead)} broker(s) in {data_dir}")
    started: list[Node] = []
    try:
        for node in dead:
            state = state.with_pid(node.id, broker.spawn(java, jars, data_dir, node.id))
            write_state(data_dir, state)
            started.append(state.nodes[node.id - 1])
        _wait_until_ready(data_dir, state, deadline)
    except BaseException:
        broker.end(data_dir, started, GRACE_SECONDS)
        for node in started:
            state = state.with_pid(node.id, None)
        write_state(data_dir, state)
        raise
    log(f"Kafka {state.kafka} answers at {state.bootstrap_servers}")
    pids = tuple(node.pid for node in state.nodes if node.pid is not None)
    return RunningCluster(data_dir, state.cluster_id, state.bootstrap_servers, pids)


def _wait_until_ready(data_dir: Path, state: ClusterState, deadline: float) -> None:
    wanted = {node.id for node in state.nodes}
    seen: set[int] = set()
    while time.monotonic() < deadline:
        for node in state.nodes:
            _raise_if_dead(data_dir, node)
        if all(_connects(node.port) for node in state.nodes):
            seen = _broker_ids(state.bootstrap_servers, 2.0)
            if seen >= wanted:
                return
        time.sleep(0.05)
    missing = sorted(wanted - seen)
    raise DevKafkaError(
        f"The brokers {missing} in {data_dir} did not answer in time. Is the machine overloaded? Their logs are in "
        f"{data_dir}; the last lines of broker {missing[0] if missing else 1}:\n"
        f"{broker.log_tail(data_dir, missing[0] if missing else 1)}"
    )


def _raise_if_dead(data_dir: Path, node: Node) -> None:
    if broker.is_alive(data_dir, node):
        return
    tail = broker.log_tail(data_dir, node.id)
    kind = PortTakenError if "Address already in use" in tail else DevKafkaError
    raise kind(
        f"Broker {node.id} died while it started. The last lines of {broker.log_file(data_dir, node.id)}:\n{tail}"
    )


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _broker_ids(bootstrap_servers: str, timeout: float) -> set[int]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    # The client would print a line for each broker that is not up yet.
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        return set(client.list_topics(timeout=timeout).brokers)
    except KafkaException:
        return set()
