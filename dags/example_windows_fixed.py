"""Visits by page in windows of ten minutes: each row counts in exactly one window, and a past window never changes."""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_eventlog import DuckDB, Json, Pipeline, Stream, Tumbling, Windows, eventlog_batch

visits = Pipeline(
    "visits_fixed",
    stream=Stream(
        "visits",
        start="interval",
        decode=Json({"user": "VARCHAR", "page": "VARCHAR", "ms": "BIGINT", "ts": "TIMESTAMPTZ"}),
        event_time="ts",
    ),
    outputs=[
        Windows(
            Tumbling("10 minutes"),
            by=["page"],
            disorder="1 minute",
            allowed_lateness="5 minutes",
            aggregates={"visits": "count(*)", "fastest": "min(ms)", "slowest": "max(ms)", "mean": "avg(ms)"},
            target=DuckDB("visits_fixed.duckdb", table="visits_by_page"),
        )
    ],
)

with DAG(
    "visits_fixed",
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    end_date=datetime(2025, 1, 1, 2, tzinfo=UTC),
    catchup=True,
    max_active_runs=3,
    doc_md=__doc__,
    tags=["eventlog"],
):
    eventlog_batch(visits, tasks="one")
