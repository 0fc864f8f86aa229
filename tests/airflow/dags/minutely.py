"""Minutes of the past: one DAG that catches up, one that is filled natively or by hand."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_eventlog import DuckDB, Json, Pipeline, Rows, Stream, eventlog_batch

for name, catchup in (("minutes_caught_up", True), ("minutes_filled", False)):
    with DAG(
        name,
        schedule=CronDataIntervalTimetable("* * * * *", timezone="UTC"),
        start_date=datetime(2024, 1, 1, tzinfo=UTC),
        end_date=datetime(2024, 1, 1, 0, 7, tzinfo=UTC),
        catchup=catchup,
        max_active_runs=8,
        default_args={"retries": 4, "retry_delay": timedelta(seconds=1)},
    ) as dag:
        eventlog_batch(
            Pipeline(
                name,
                stream=Stream(name, decode=Json({"minute": "BIGINT"})),
                outputs=[Rows(DuckDB(f"{name}.duckdb", table=name))],
            ),
            tasks="one",
            gap="hole",
        )
    globals()[name] = dag
