"""Two pipelines over one topic in one DAG, for back-fills through the REST API."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from airflow_provider_eventlog import DuckDB, Json, Pipeline, Rows, Stream, eventlog_batch

refilled = Pipeline(
    "refilled",
    stream=Stream("refilled", decode=Json({"n": "BIGINT"})),
    outputs=[Rows(DuckDB("refilled.duckdb", table="refilled"))],
)
other = refilled.replace(name="refilled_other", outputs=[Rows(DuckDB("refilled.duckdb", table="other"))])

with DAG(
    "refilled_dag",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    max_active_runs=2,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
):
    eventlog_batch(refilled, tasks="one")
    eventlog_batch(other, tasks="one")
