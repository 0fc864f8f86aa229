"""DAGs of this suite's own: what the examples do not show."""

import json
import os
from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_provider_eventlog import DuckDB, Json, OffsetsSensor, Pipeline, Rows, Stream, eventlog_batch

waiting = Pipeline(
    "waiting",
    stream=Stream("waiting", start="earliest", decode=Json({"n": "BIGINT"})),
    outputs=[Rows(DuckDB("waiting.duckdb", table="waiting"))],
)

with DAG("waiting", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    sensor = OffsetsSensor(
        task_id="enough", pipeline=waiting, min_offsets=5, deferrable=True, poke_interval=0.5, timeout=120
    )
    sensor >> eventlog_batch(waiting, tasks="one")

quiet = Pipeline(
    "quiet",
    stream=Stream("quiet", decode=Json({"n": "BIGINT"})),
    outputs=[Rows(DuckDB("quiet.duckdb", table="quiet"))],
)

with DAG("quiet", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), default_args={"retries": 3}):
    eventlog_batch(quiet, parallelism=2)

# Nobody listens there: a run over it hangs until the reader's own deadline, unless it is told to stop.
os.environ["AIRFLOW_CONN_KAFKA_NOWHERE"] = json.dumps(
    {"conn_type": "kafka", "extra": {"bootstrap.servers": "127.0.0.1:1"}}
)
nowhere = quiet.replace(
    name="nowhere",
    stream=Stream("nowhere", kafka_conn_id="kafka_nowhere", decode=Json({"n": "BIGINT"})),
    outputs=[Rows(DuckDB("nowhere.duckdb", table="nowhere"))],
)

with DAG("nowhere", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    eventlog_batch(nowhere, tasks="one")
