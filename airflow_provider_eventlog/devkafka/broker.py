"""One broker: its properties, its formatted storage and its process."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from airflow_provider_eventlog.devkafka.errors import DevKafkaError
from airflow_provider_eventlog.devkafka.files import write_atomically
from airflow_provider_eventlog.devkafka.jars import KAFKA_VERSION, cache_folder
from airflow_provider_eventlog.devkafka.state import ClusterState, Node, node_folder

# A small heap, the serial collector and the first compiler tier start fastest and fit three nodes into 1 GB.
JVM_FLAGS = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
FORMAT_SECONDS = 60.0
TAIL_LINES = 20


def random_id() -> str:
    """Return a random id in Kafka's text form: 22 characters of URL-safe base 64, never with a leading dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def server_properties(data_dir: Path, state: ClusterState, node: Node, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of one combined node; `extra` wins over every one of them."""
    copies = min(3, len(state.nodes))
    in_sync = str(max(1, copies - 1))
    own = {
        "process.roles": "broker,controller",
        "node.id": str(node.id),
        "controller.quorum.voters": ",".join(f"{n.id}@127.0.0.1:{n.controller_port}" for n in state.nodes),
        "listeners": f"CONTROLLER://127.0.0.1:{node.controller_port},PLAINTEXT://127.0.0.1:{node.port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{node.port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(node_folder(data_dir, node.id) / "data"),
        "auto.create.topics.enable": "false",
        # Retention goes by record timestamp: test data dated in the past would vanish within minutes.
        "log.retention.ms": "-1",
        "log.initial.task.delay.ms": "100",
        "log.cleaner.backoff.ms": "1000",
        # The default of 128 MB is half of the heap.
        "log.cleaner.dedupe.buffer.size": "4194304",
        "default.replication.factor": str(copies),
        "min.insync.replicas": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        "num.io.threads": "4",
        "num.network.threads": "2",
        "background.threads": "2",
    }
    for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        own[f"{topic}.num.partitions"] = "1"
        own[f"{topic}.replication.factor"] = str(copies)
    own["transaction.state.log.min.isr"] = own["share.coordinator.state.topic.min.isr"] = in_sync
    return {**own, **extra}


def write_properties(data_dir: Path, state: ClusterState, node: Node, extra: Mapping[str, str]) -> Path:
    """Write the node's `server.properties` and return its path."""
    lines = [f"{key}={_escaped(value)}" for key, value in server_properties(data_dir, state, node, extra).items()]
    path = properties_file(data_dir, node.id)
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def properties_file(data_dir: Path, node_id: int) -> Path:
    """Return the path that a node's command line ends with: what tells its process from every other."""
    return node_folder(data_dir, node_id) / "server.properties"


def log_file(data_dir: Path, node_id: int) -> Path:
    """Return where the node's output goes."""
    return node_folder(data_dir, node_id) / "kafka.log"


def log_tail(data_dir: Path, node_id: int) -> str:
    """Return the last lines of a node's log, an empty text where there is none."""
    try:
        lines = log_file(data_dir, node_id).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])


def format_storage(java: Path, jars: list[str], data_dir: Path, state: ClusterState, plain: bool) -> None:
    """Format the data folder of every node that has none; their properties are written already.

    Kafka's own tool writes the first one's bootstrap record, which holds the release's feature levels and nothing of
    the cluster, so it is kept in the cache (where no extra properties are set: `plain`) and shared by all nodes:
    each run of the tool would cost one to three seconds. Raises `DevKafkaError` with what the tool said.
    """
    kept = cache_folder() / f"bootstrap-{KAFKA_VERSION}.checkpoint"
    record = kept.read_bytes() if plain and kept.is_file() else None
    for node in state.nodes:
        folder = node_folder(data_dir, node.id) / "data"
        if (folder / "meta.properties").is_file():
            continue
        if record is None:
            _run_format(java, jars, data_dir, state, node)
            record = (folder / "bootstrap.checkpoint").read_bytes()
            if plain:
                write_atomically(kept, record)
            continue
        write_atomically(folder / "bootstrap.checkpoint", record)
        meta = {"version": "1", "cluster.id": state.cluster_id, "node.id": node.id, "directory.id": random_id()}
        write_atomically(folder / "meta.properties", "".join(f"{key}={value}\n" for key, value in meta.items()))


def _run_format(java: Path, jars: list[str], data_dir: Path, state: ClusterState, node: Node) -> None:
    command = [str(java), *JVM_FLAGS, "-cp", os.pathsep.join(jars), "kafka.tools.StorageTool", "format"]
    command += ["-t", state.cluster_id, "-c", str(properties_file(data_dir, node.id))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DevKafkaError(f"Formatting {data_dir} for Kafka took more than {FORMAT_SECONDS:g} s.") from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-TAIL_LINES:])
        raise DevKafkaError(f"Kafka could not format its storage in {data_dir}:\n{said}")


def spawn(java: Path, jars: list[str], data_dir: Path, node_id: int) -> int:
    """Start a broker in a session of its own, so that it outlives the caller, and return its pid."""
    command = [str(java), *JVM_FLAGS, "-cp", os.pathsep.join(jars), "kafka.Kafka"]
    command.append(str(properties_file(data_dir, node_id)))
    log = str(log_file(data_dir, node_id))
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)


def is_alive(data_dir: Path, node: Node) -> bool:
    """Tell whether the node's recorded pid still is that broker: a pid may have been given to another process."""
    if node.pid is None:
        return False
    _reap(node.pid)
    return str(properties_file(data_dir, node.id)) in _command_line(node.pid)


def _reap(pid: int) -> None:
    # Only the process that started a broker can, and must, collect it.
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _command_line(pid: int) -> list[str]:
    if Path("/proc/self/cmdline").exists():
        try:
            # A process that was started just now has none for a moment, one that has ended never again.
            deadline = time.monotonic() + 1.0
            while not (words := Path(f"/proc/{pid}/cmdline").read_bytes()) and time.monotonic() < deadline:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                    break
                time.sleep(0.001)
            return os.fsdecode(words).split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return []
    told = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.split()


def end(data_dir: Path, nodes: list[Node], grace: float) -> list[int]:
    """End these brokers and return the pids that were alive; asks first, and kills what is left after `grace` s."""
    running = [node for node in nodes if is_alive(data_dir, node)]
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + seconds
        waiting = [node for node in running if _signal(data_dir, node, number)]
        while waiting and time.monotonic() < deadline:
            time.sleep(0.02)
            waiting = [node for node in waiting if is_alive(data_dir, node)]
        if not waiting:
            return [node.pid for node in running if node.pid is not None]
    raise DevKafkaError(f"Brokers {[node.pid for node in waiting]} of {data_dir} could not be ended.")


def _signal(data_dir: Path, node: Node, number: signal.Signals) -> bool:
    if node.pid is None or not is_alive(data_dir, node):
        return False
    try:
        os.kill(node.pid, number)
    except ProcessLookupError:
        return False
    return True
