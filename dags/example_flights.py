"""The flights that left New York in 2013, one batch a month, and their delays by carrier and month.

The schedule takes January and February by the records' timestamps. All other offsets come by hand: trigger the DAG
with `eventlog_what` = offsets and `eventlog_offsets` = for example 0:100-200,1:0-50, and leave the logical date empty,
since the schedule has an end.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_eventlog import Check, DuckDB, Json, Pipeline, Rows, Stream, Tumbling, Windows, eventlog_batch

stream = Stream(
    "flights",
    start="interval",
    decode=Json(
        {
            "year": "INTEGER",
            "month": "INTEGER",
            "day": "INTEGER",
            "dep_time": "INTEGER",
            "sched_dep_time": "INTEGER",
            "dep_delay": "INTEGER",
            "arr_delay": "INTEGER",
            "carrier": "VARCHAR",
            "flight": "INTEGER",
            "tailnum": "VARCHAR",
            "origin": "VARCHAR",
            "dest": "VARCHAR",
            "air_time": "INTEGER",
            "distance": "INTEGER",
            "hour": "INTEGER",
            "minute": "INTEGER",
            "time_hour": "TIMESTAMPTZ",
        }
    ),
    event_time="time_hour",
)

flights = Pipeline(
    "flights",
    stream=stream,
    transform="""
        select carrier, flight, tailnum, origin, dest, time_hour, hour, minute,
               dep_delay, arr_delay, arr_delay - dep_delay as made_good, air_time, distance,
               dep_time is null as cancelled
        from batch
    """,
    checks=[
        Check("from_new_york", "origin in ('EWR', 'JFK', 'LGA')"),
        Check("goes_somewhere", "distance > 0"),
        Check("cancelled_has_no_delay", "not cancelled or dep_delay is null"),
    ],
    outputs=[
        Rows(DuckDB("flights.duckdb", table="flights")),
        Windows(
            Tumbling("1 month"),
            by=["carrier"],
            aggregates={
                "flights": "count(*)",
                "low": "min(dep_delay)",
                "high": "max(dep_delay)",
                "mean": "avg(dep_delay)",
            },
            target=DuckDB("flights.duckdb", table="flights_by_month"),
        ),
    ],
)

with DAG(
    "flights",
    schedule=CronDataIntervalTimetable("0 0 1 * *", timezone="UTC"),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    end_date=datetime(2013, 2, 1, tzinfo=UTC),
    catchup=True,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    doc_md=__doc__,
    tags=["eventlog"],
):
    eventlog_batch(flights)
