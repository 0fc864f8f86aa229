"""Partial results of slices: the same every time, and refused where a row has no time."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.errors import EventTimeError
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.declare.windows import Hopping, Session, Tumbling
from tests.unit.windows.folding import log, plan_of, table

KINDS: list[Tumbling | Hopping | Session] = [
    Tumbling("1 minute"),
    Hopping("1 minute", "20 s"),
    Session("5 s", "1 minute"),
    Session(start="v = 1", end="v = 2"),
]


@pytest.mark.parametrize("window", KINDS, ids=repr)
def test_deterministic_to_the_byte(window: Tumbling | Hopping | Session) -> None:
    """However the rows are chunked and however often it is done, a slice has one partial result, floats included."""
    made = random.Random(1)
    rows = table(
        [{"k": made.choice("ab"), "f": made.gauss(0, 1e6), "t": made.random() * 100_000} for _ in range(20_000)]
    )
    aggregates = {"s": "sum(f)", "v": "variance(f)", "m": "avg(f)", "a": "first(f)"}
    digests = set()
    for size in (20_000, 1_000, 77):
        with session(threads=1) as connection:
            plan = plan_of(connection, window, aggregates=aggregates)
            chunked = pa.Table.from_batches(rows.to_batches(max_chunksize=size), rows.schema)
            found = partial(connection, plan, chunked)
            sink = pa.BufferOutputStream()
            pq.write_table(found.combine_chunks(), sink)
            digests.add((table_digest(found), sink.getvalue().to_pybytes()))
    assert len(digests) == 1
    assert found.num_rows >= 2


def test_a_slice_tells_rows_and_partitions() -> None:
    """Rows are counted per key and pane; partitions are told apart up to any number."""
    with log(Tumbling("1 minute")) as made:
        made.add(table([{"k": "a", "t": 1}, {"k": "a", "t": 2}, {"k": None, "t": 2}], partition=3))
        made.add(table([{"k": "a", "t": 3}], partition=62))
        made.add(table([{"k": "a", "t": 4}], partition=63))
        made.add(table([{"k": "a", "t": 4}], partition=3))
        made.add(table([{"k": "a", "t": 5, "_partition": 100}, {"k": "a", "t": 5, "_partition": 1000}]))
        assert made.column("_rows") == [1, 7]
        assert made.column("_partitions") == [1, 5]


@pytest.mark.parametrize(
    "time",
    [None, datetime.max.replace(tzinfo=UTC)],
)
def test_a_row_without_a_believable_time_is_never_put_anywhere(time: datetime | None) -> None:
    """NULL is refused, and so is what lies beyond the calendar; never a window of 1970."""
    rows = table([{"t": 1}, {"ts": time}])
    beyond = rows.set_column(
        6, rows.schema.field("ts"), pa.array([0, 2**63 - 1], pa.int64()).cast(pa.timestamp("us", "UTC"))
    )
    with session(threads=1) as connection:
        plan = plan_of(connection, Tumbling("1 day"))
        if time is None:
            with pytest.raises(EventTimeError, match="'ts' is NULL in 1 rows"):
                partial(connection, plan, rows)
        with pytest.raises(EventTimeError, match="years 1 to 9999 in 1 rows"):
            partial(connection, plan, beyond)


def test_times_of_any_resolution_are_the_same_times() -> None:
    """Milliseconds, microseconds, with a zone or as UTC without: one window."""
    digests = set()
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("ms", "UTC"), pa.timestamp("us"), pa.timestamp("s")):
        rows = table([{"t": 61}, {"t": 125}])
        rows = rows.set_column(6, "ts", rows.column("ts").cast(kind))
        assert frames.times(rows, "ts").tolist() == [1_704_067_261_000_000, 1_704_067_325_000_000]
        digests.add(str(kind))
    assert len(digests) == 4
    with pytest.raises(EventTimeError, match="windows need a TIMESTAMPTZ"):
        frames.times(rows, "kind")


def test_rows_of_a_batch_without_times_share_its_instant() -> None:
    """By processing time all rows lie in the window of their batch's end."""
    with log(Tumbling("1 minute"), time="processing") as made:
        made.add(frames.stamp(table([{"k": "a", "t": 1}, {"k": "a", "t": 500}]), 1_704_067_259_999))
        assert made.column("n") == [2]
        assert [start for _, start in made.target] == [datetime(2024, 1, 1, tzinfo=UTC).replace(minute=0)]


def test_an_empty_slice_has_an_empty_result() -> None:
    """No rows, no groups, with and without keys, for every kind of window."""
    for window in KINDS:
        for by in (["k"], []):
            with session(threads=1) as connection:
                plan = plan_of(connection, window, by=by)
                found = partial(connection, plan, table([]))
            assert found.num_rows == 0
            assert found.schema.equals(plan.partial)
