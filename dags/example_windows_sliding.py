"""The slowest pages of the last hour, told anew every twenty minutes: windows that overlap share their panes."""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_eventlog import DuckDB, Hopping, Json, Pipeline, Stream, Windows, eventlog_batch

visits = Pipeline(
    "visits_sliding",
    stream=Stream(
        "visits",
        start="interval",
        decode=Json({"user": "VARCHAR", "page": "VARCHAR", "ms": "BIGINT", "ts": "TIMESTAMPTZ"}),
        event_time="ts",
    ),
    outputs=[
        Windows(
            Hopping("1 hour", "20 minutes"),
            by=["page"],
            aggregates={"visits": "count(*)", "median": "median(ms)", "slowest": "max(ms)"},
            target=DuckDB("visits_sliding.duckdb", table="slow_pages"),
        )
    ],
)

with DAG(
    "visits_sliding",
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    end_date=datetime(2025, 1, 1, 2, tzinfo=UTC),
    catchup=True,
    max_active_runs=3,
    doc_md=__doc__,
    tags=["eventlog"],
):
    eventlog_batch(visits, tasks="one")
