"""What a user's type checker sees: checked by mypy with the package, never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_eventlog import (
    Check,
    DuckDB,
    EventLogError,
    EventLogHook,
    FromGroup,
    Json,
    OffsetsSensor,
    Pipeline,
    Raw,
    Rows,
    Stream,
    eventlog_batch,
)

stream = Stream("t", start=FromGroup("g"), decode=Json({"id": "BIGINT"}), max_future_skew="2 hours")
pipeline = Pipeline("p", stream=stream, checks=[Check("c", "id > 0")], outputs=[Rows(DuckDB("x.duckdb", table="t"))])
assert_type(pipeline.serialize(), str)
assert_type(pipeline.recipe, str)
assert_type(pipeline.replace(name="q", decode=Raw()), Pipeline)

with DAG(
    "d", schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"), start_date=datetime(2026, 1, 1, tzinfo=UTC)
):
    waiting = OffsetsSensor(task_id="wait", pipeline=pipeline, min_offsets=10)
    eventlog_batch(pipeline, tasks="one", parallelism=2, gap="hole", read="since_last", max_batches_per_run=3)

hook = EventLogHook(kafka_conn_id="kafka_default")
try:
    assert_type(hook.list_topics(), dict[str, int])
except EventLogError as error:
    assert_type(error.retriable, bool)
