"""Orders as they come: wait for enough of them, then load everything since the last batch, in one task."""

from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_provider_eventlog import Check, DuckDB, Json, OffsetsSensor, Pipeline, Rows, Stream, eventlog_batch

orders = Pipeline(
    "orders",
    stream=Stream(
        "orders",
        start="earliest",
        decode=Json({"id": "BIGINT", "amount": "DECIMAL(12,2)", "country": "VARCHAR", "ts": "TIMESTAMPTZ"}),
        event_time="ts",
    ),
    transform="select id, amount, country, ts from batch where amount is not null",
    checks=[Check("amount_not_negative", "amount >= 0")],
    outputs=[Rows(DuckDB("orders.duckdb", table="orders"))],
)

with DAG(
    "orders",
    schedule="@continuous",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["eventlog"],
):
    # A thousand new orders, or ten minutes with at least one.
    enough = OffsetsSensor(
        task_id="enough", pipeline=orders, min_offsets=1000, max_wait=600, deferrable=True, timeout=24 * 3600
    )
    enough >> eventlog_batch(orders, tasks="one", read="since_last", max_batches_per_run=10)
