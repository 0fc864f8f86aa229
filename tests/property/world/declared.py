"""What is declared over the simulated topic: a pipeline of rows in several recipes, and one of windows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline, Raw, Rows, Stream, Tumbling, Windows
from tests.property.world.log import TOPIC

MINUTE = 60_000
T0 = 1_704_067_200_000
# A value that holds its batch in recipes that check, and one that transforms leave out.
HELD, LEFT_OUT = 666, 5
_WANTED = pa.schema(
    [
        pa.field("k", pa.string()),
        pa.field("v", pa.int64()),
        pa.field("ts", pa.timestamp("us", "UTC")),
        pa.field("_partition", pa.int32()),
        pa.field("_offset", pa.int64()),
    ]
)


def plain(table: Any) -> Any:
    """Values as they are."""
    return _parsed(table, 1)


def doubled(table: Any) -> Any:
    """A correction: values twice as large."""
    return _parsed(table, 2)


def tripled(table: Any) -> Any:
    """Another correction."""
    return _parsed(table, 3)


def negated(table: Any) -> Any:
    """The last correction."""
    return _parsed(table, -1)


def _parsed(table: Any, factor: int) -> Any:
    rows = []
    for value, partition, offset in zip(
        *(table[n].to_pylist() for n in ("value", "_partition", "_offset")), strict=True
    ):
        if value is None:
            continue
        told = json.loads(value)
        if told["v"] == LEFT_OUT:
            continue
        at = datetime.fromtimestamp(told["ms"] / 1000, UTC)
        row = {"k": told["k"], "v": told["v"] * factor, "ts": at, "_partition": partition, "_offset": offset}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_WANTED)


SCHEMA = {"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"}
NOT_HELD = Check("not_held", f"v <> {HELD}")
# (transform, what it multiplies by, its checks): recipe n of the pipeline of rows. The last one comes at the very end:
# one that was there before would be a no-op on what it has produced.
RECIPES = (
    (plain, 1, (NOT_HELD,)),
    (doubled, 2, ()),
    (tripled, 3, (Check("not_held", f"v <> {3 * HELD}"),)),
    (negated, -1, ()),
)
LAST = len(RECIPES) - 1


def stream(start: str, on_data_loss: str) -> Stream:
    """The stream of both pipelines; small bounds, so that few records make many batches and slices."""
    return Stream(
        TOPIC,
        start=start,
        decode=Raw(),
        on_data_loss=on_data_loss,
        max_batch_offsets=12,
        max_slice_offsets=4,
    )


def rows(over: Stream, recipe: int) -> Pipeline:
    """The pipeline of rows under one of its recipes."""
    transform, _, checks = RECIPES[recipe]
    return Pipeline(
        "rows",
        stream=over,
        transform=transform,
        schema=SCHEMA,
        checks=list(checks),
        outputs=[Rows(DuckDB("out.duckdb", table="t"))],
    )


def windows(over: Stream, on_late: str) -> Pipeline:
    """The pipeline of windows; it has one recipe, since another one has to be decided on."""
    output = Windows(
        Tumbling("1 minute"),
        by=["k"],
        aggregates={"n": "count(*)", "s": "sum(v)"},
        allowed_lateness="2 minutes",
        on_late=on_late,
        target=DuckDB("out.duckdb", table="w"),
    )
    return Pipeline(
        "windows",
        stream=over,
        transform=plain,
        schema=SCHEMA,
        event_time="ts",
        checks=[NOT_HELD],
        outputs=[output],
    )
