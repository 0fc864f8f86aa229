"""A pipeline that is corrected between runs, and one whose loads wait for windows."""

from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_provider_eventlog import Check, DuckDB, Json, Pipeline, Rows, Stream, Tumbling, Windows, eventlog_batch

FACTOR = "v"
decode = Json({"v": "BIGINT", "ts": "TIMESTAMPTZ"})

for name, check, outputs in (
    ("mended", None, []),
    (
        "awaited",
        Check("small", "v < 100", on_fail="quarantine", tolerance=0),
        [
            Windows(
                Tumbling("1 minute"),
                aggregates={"n": "count(*)", "total": "sum(v)"},
                target=DuckDB("awaited.duckdb", table="windows"),
            )
        ],
    ),
):
    with DAG(name, schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)) as dag:
        eventlog_batch(
            Pipeline(
                name,
                stream=Stream(name, decode=decode, start="earliest"),
                transform=f"select {FACTOR} as v, ts from batch",
                event_time="ts",
                checks=[check] if check else [],
                max_quarantine_ratio=1.0,
                outputs=[Rows(DuckDB(f"{name}.duckdb", table="rows")), *outputs],
            ),
            parallelism=1,
            wait_for_fold=bool(outputs),
        )
    globals()[name] = dag
