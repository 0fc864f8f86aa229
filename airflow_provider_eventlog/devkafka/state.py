"""What is known about a data folder's cluster: `cluster.json`, replaced whole at every change."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from airflow_provider_eventlog.devkafka.errors import DevKafkaError
from airflow_provider_eventlog.devkafka.files import write_atomically

FORMAT = 1


@dataclass(frozen=True)
class Node:
    """One combined broker and controller; `pid` is None while it is not meant to run."""

    id: int
    port: int
    controller_port: int
    pid: int | None = None


@dataclass(frozen=True)
class ClusterState:
    """A cluster's id, its Kafka release and its nodes in the order of their ids, 1 to N."""

    cluster_id: str
    kafka: str
    nodes: tuple[Node, ...]

    @property
    def bootstrap_servers(self) -> str:
        """Every broker's address, comma-separated."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def with_pid(self, node_id: int, pid: int | None) -> ClusterState:
        """Return a copy in which the node has this pid."""
        return replace(self, nodes=tuple(replace(n, pid=pid) if n.id == node_id else n for n in self.nodes))


def node_folder(data_dir: Path, node_id: int) -> Path:
    """Return the folder of one node: its properties, its data and its log."""
    return data_dir / f"node-{node_id}"


def read_state(data_dir: Path) -> ClusterState | None:
    """Return the folder's cluster, None where there never was one; `DevKafkaError` for a file that is not ours."""
    path = data_dir / "cluster.json"
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}")
        nodes = tuple(Node(**node) for node in document["nodes"])
        return ClusterState(document["cluster_id"], document["kafka"], nodes)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DevKafkaError(
            f"{path} cannot be read as a cluster's state ({error}). End its brokers by hand, then remove {data_dir}."
        ) from error


def write_state(data_dir: Path, state: ClusterState) -> None:
    """Replace the folder's `cluster.json`."""
    write_atomically(data_dir / "cluster.json", json.dumps({"format": FORMAT, **asdict(state)}, indent=1))
