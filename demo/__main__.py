"""`python -m demo`: the main job, end to end, on a real Kafka and a real Airflow.

DEMO_EXIT=1 ends after the results; otherwise, in a terminal, everything stays up until Ctrl-C.
DEMO_DIR is the folder for all data (default: .work/demo in the repository); it is emptied at the start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
from airflow_provider_eventlog.core.kafka.producer import produce
from airflow_provider_eventlog.devkafka import cluster
from demo import flights, gate, hello, job
from demo.airflow import USERNAME, AirflowStandalone
from demo.show import say, step

if TYPE_CHECKING:
    import pandas as pd

REPOSITORY = Path(__file__).resolve().parent.parent
PARTITIONS = 4


def main() -> int:
    """Run the demo; 0 if every figure is equal."""
    folder = Path(os.environ.get("DEMO_DIR") or REPOSITORY / ".work" / "demo").absolute()
    cluster.stop(folder / "kafka")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _job(folder)
    except KeyboardInterrupt:
        say("\nstopping")
    finally:
        cluster.stop(folder / "kafka")
    return 0


def _job(folder: Path) -> None:
    with step("Start three Kafka brokers"):
        brokers = cluster.start(3, data_dir=folder / "kafka", log=lambda text: say(f"    {text}"))
        servers = brokers.bootstrap_servers
        say(f"    at {servers}")
    with step("Hello test"):
        hello.hello(servers)
    with step("Produce the flights of 2013"):
        frame = flights.dataset()
        # Kafka expires by record timestamp: flights of 2013 would go as soon as their segment rolls.
        TopicAdmin({"bootstrap.servers": servers}).create(flights.TOPIC, PARTITIONS, 3, {"retention.ms": "-1"})
        settings = {"bootstrap.servers": servers, "compression.type": "zstd", "linger.ms": 20}
        sent = produce(flights.TOPIC, flights.records(frame), settings)
        say(f"    {len(sent.receipts):,} flights acknowledged, {sent.failed} failed")
        if len(sent.receipts) != flights.ROWS:
            raise RuntimeError(f"{flights.ROWS:,} flights were expected")
    home = folder / "airflow"
    connection = json.dumps({"conn_type": "kafka", "extra": {"bootstrap.servers": servers}})
    # A copy, since the demo corrects one of them.
    dags = folder / "dags"
    shutil.copytree(REPOSITORY / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    airflow = AirflowStandalone(home, dags, env={"AIRFLOW_CONN_KAFKA_DEFAULT": connection})
    try:
        with step("Start Airflow"):
            airflow.start()
            airflow.wait_ready()
            say(f"    at {airflow.base_url}, user {USERNAME}, password {airflow.password}")
        _airflow(airflow, home, dags, servers, frame)
        if sys.stdout.isatty() and os.environ.get("DEMO_EXIT", "") in ("", "0"):
            say(
                f"\nAirflow is at {airflow.base_url}, user {USERNAME}, password {airflow.password}; Kafka at {servers}."
            )
            say("Ctrl-C stops everything.", style="bold")
            signal.pause()
    finally:
        airflow.stop()


def _airflow(airflow: AirflowStandalone, home: Path, dags: Path, servers: str, frame: pd.DataFrame) -> None:
    ledger = home / "eventlog" / "ledger.sqlite"
    with step("Two scheduled intervals"):
        job.scheduled(airflow)
    with step("Back-fill by offsets"):
        ends = {p: end for p, (_, end) in TopicAdmin({"bootstrap.servers": servers}).watermarks(flights.TOPIC).items()}
        job.back_fill(airflow, ends, ledger)
    with step("Results"):
        job.accounting(ledger)
        job.compare(home / "flights.duckdb", frame)
    with step("A gate that holds"):
        stopped = gate.held(airflow, home)
    with step("The contract corrected, a redrive"):
        gate.correct(dags)
        gate.redrive(airflow)
        gate.compare(home, frame, stopped)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
