"""Sessions: visits of one user with less than a quarter of an hour between them, over hourly batches."""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_eventlog import DuckDB, Json, Pipeline, Session, Stream, Windows, eventlog_batch

visits = Pipeline(
    "visits_session",
    stream=Stream(
        "visits",
        start="interval",
        decode=Json({"user": "VARCHAR", "page": "VARCHAR", "ms": "BIGINT", "ts": "TIMESTAMPTZ"}),
        event_time="ts",
    ),
    outputs=[
        Windows(
            Session(gap="15 minutes", max_duration="6 hours"),
            by=["user"],
            aggregates={"visits": "count(*)", "came_by": "first(page)", "left_by": "last(page)"},
            on_late="amend",
            target=DuckDB("visits_session.duckdb", table="sessions"),
        )
    ],
)

with DAG(
    "visits_session",
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    end_date=datetime(2025, 1, 1, 2, tzinfo=UTC),
    catchup=True,
    max_active_runs=3,
    doc_md=__doc__,
    tags=["eventlog"],
):
    eventlog_batch(visits, tasks="one")
