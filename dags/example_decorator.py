"""A function over one batch: mean amount by country of the orders of an hour."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, task

from airflow_provider_eventlog import DuckDB, Json, Pipeline, Rows, Stream

means = Pipeline(
    "order_means",
    stream=Stream(
        "orders",
        name="orders_by_hour",
        decode=Json({"id": "BIGINT", "amount": "DOUBLE", "country": "VARCHAR"}),
    ),
    outputs=[Rows(DuckDB("orders.duckdb", table="orders_by_hour"))],
)

with DAG(
    "order_means",
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["eventlog"],
):

    @task.eventlog(pipeline=means, frame="pandas")
    def mean_amount(batch: Any) -> dict[str, float]:
        """Mean amount by country."""
        return {str(country): float(mean) for country, mean in batch.groupby("country")["amount"].mean().items()}

    mean_amount()
