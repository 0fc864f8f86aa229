"""A pipeline whose gate holds as soon as one record in twenty cannot be decoded."""

from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_provider_eventlog import DuckDB, Json, Pipeline, Rows, Stream, eventlog_batch

reported = Pipeline(
    "reported",
    stream=Stream("reported", decode=Json({"n": "BIGINT"})),
    outputs=[Rows(DuckDB("reported.duckdb", table="reported"))],
)

with DAG("reported_dag", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
    eventlog_batch(reported, parallelism=1)
