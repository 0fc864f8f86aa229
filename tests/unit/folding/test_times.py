"""Times of windows through all stages: by event, by the broker, by the batch; and rows that have none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventTimeError, WindowDefinitionError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.declare import DuckDB, Session, Tumbling
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import MINUTE, SHOWN, SINCE_LAST, STREAM, T0, interval, pipeline, rows, send, windows

TIMED = dataclasses.replace(STREAM, start=datetime.fromtimestamp(T0 / 1000, UTC))
BY_BROKER = "select k, v, _timestamp from batch"


class Stamped(ListLog):
    """A topic whose timestamps are the broker's."""

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        for batch in super().read(wanted, record_loss=record_loss):
            at = batch.schema.get_field_index("timestamp_type")
            yield batch.set_column(at, batch.schema.field(at), pa.array([2] * batch.num_rows, pa.int8()))


def run(engine: Engine, made: Any, number: int) -> dict[str, Any]:
    """All stages of an interval; what became of the windows."""
    report: dict[str, Any] = stages.run(engine, made, interval(number), f"r{number}")["load"]["windows"]["w"]
    return report


def test_windows_by_the_time_of_processing(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """All rows of a batch lie in its last window, whatever their own times; the batch's end is the watermark."""
    made = pipeline(windows(time="processing", window=Tumbling("5 minutes")), stream=TIMED)
    send(log, ("a", 1, 1), ("a", 2, 700))
    log.timestamps[0, 1] = T0 + 2 * MINUTE
    report = run(engine, made, 0)
    assert report["watermark"] == "2024-01-01T00:10:00.000Z"
    assert [row[:5] for row in rows(tmp_path, SHOWN)] == [("a", 5.0, 2, 3, True)]


def test_windows_by_the_time_of_ingestion(tmp_path: Path) -> None:
    """With broker timestamps rows go by these; where a topic has none, by their batch's end."""
    made = pipeline(windows(time="ingest"), stream=TIMED, transform=BY_BROKER, event_time=None)
    made = dataclasses.replace(made, stream=dataclasses.replace(TIMED, event_time=None), event_time=None)
    found = {}
    for name, log in (("broker", Stamped([])), ("producer", ListLog([]))):
        send(log, ("a", 1, 1), ("a", 2, 3))
        with engine_over(log, tmp_path / name, lambda: T0 + 600 * MINUTE) as engine:
            mark = run(engine, made, 0)["watermark"]
        found[name] = (mark, [(row[1], row[2]) for row in rows(tmp_path / name, SHOWN)])
    assert found["broker"] == ("2024-01-01T00:03:00.000Z", [(1.0, 1), (3.0, 1)])
    assert found["producer"] == ("2024-01-01T00:10:00.000Z", [(9.0, 2)])


def test_an_empty_interval_moves_the_watermark_to_its_end(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Partitions that are proved empty hold no window open: it becomes final with the empty interval's end."""
    made = pipeline(windows(disorder="1 minute"), stream=TIMED)
    send(log, ("a", 1, 9.5))
    assert run(engine, made, 0)["watermark"] == "2024-01-01T00:08:30.000Z"
    assert [row[4] for row in rows(tmp_path, SHOWN)] == [False]
    assert run(engine, made, 1)["watermark"] == "2024-01-01T00:19:00.000Z"
    assert [row[4] for row in rows(tmp_path, SHOWN)] == [True]


def test_a_time_beyond_belief_closes_nothing(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A row dated years ahead has its window, but windows of the present stay open for others."""
    made = pipeline(windows(), stream=TIMED)
    send(log, ("a", 1, 9.5))
    send(log, ("a", 1, 5_000_000), recorded=9.6)
    assert run(engine, made, 0)["watermark"] == "2024-01-01T00:09:30.000Z"
    send(log, ("a", 2, 9.7), recorded=11)
    report = run(engine, made, 1)
    assert [fold["late"] for fold in report["folded"]] == [0]
    assert [(row[1], row[2]) for row in rows(tmp_path, SHOWN)] == [(9.0, 2), (5_000_000.0, 1)]


def test_rows_without_a_usable_time_are_quarantined(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """NULL, infinity and the year 12000 are no window of 1970: they are counted in quarantine, the rest goes on."""
    made = pipeline(windows(), stream=TIMED, max_quarantine_ratio=0.9)
    send(log, ("a", 1, 1))
    for text in (None, "infinity", "-infinity", "12000-01-01T00:00:00Z"):
        log.timestamps[0, len(log.values[0])] = T0 + MINUTE
        log.values[0].append(json.dumps({"k": "a", "v": 1, "ts": text}).encode())
    report = stages.run(engine, made, interval(0), "r")
    figures = report["validate"]["batches"][0]["accounting"]
    assert (figures["transform"]["passed"], sum(figures["quarantine"].values())) == (1, 4)
    assert report["load"]["windows"]["w"]["folded"][0]["rows"] == 1
    assert [row[1] for row in rows(tmp_path, SHOWN)] == [1.0]


def test_a_record_without_a_usable_timestamp_is_quarantined(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Windows by the record's timestamp take none that is dated beyond all years; the batch goes on."""
    made = pipeline(windows(), stream=dataclasses.replace(STREAM, event_time=None), transform=BY_BROKER)
    made = dataclasses.replace(made, max_quarantine_ratio=0.9)
    send(log, ("a", 1, 1), ("a", 2, 2))
    log.timestamps[0, 1] = 2**62
    report = stages.run(engine, made, SINCE_LAST, "r")
    assert report["validate"]["batches"][0]["accounting"]["quarantine"] == {"no_event_time": 1}
    assert [row[1:3] for row in rows(tmp_path, SHOWN)] == [(1.0, 1)]


def test_late_rows_go_to_their_table(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A late row is in the late table with its window and why; counted once as a row and once for each window."""
    from airflow_provider_eventlog.declare import Hopping

    made = pipeline(
        windows(window=Hopping("2 minutes", "1 minute"), late=DuckDB("w.duckdb", table="late")), stream=TIMED
    )
    send(log, ("a", 1, 9.5))
    run(engine, made, 0)
    send(log, ("b", 2, 2.5), ("a", 4, 8.5), recorded=11)
    folded = run(engine, made, 1)["folded"][0]
    assert (folded["rows"], folded["placed"], folded["late"], folded["late_pairs"]) == (2, 1, 1, 3)
    shown = "k, v, CAST((epoch_ms(_window_start) - 1704067200000) / 60000 AS INTEGER), _reason"
    why = "final before the row came"
    assert rows(tmp_path, shown, "late") == [("a", 4, 7, why), ("b", 2, 1, why), ("b", 2, 2, why)]


@pytest.mark.parametrize(
    ("output", "more", "told"),
    [
        (windows(aggregates={"n": "count(*"}), {}, "aggregate 'n'"),
        (windows(by=["nothing"]), {}, "no column"),
        (windows(time="ingest"), {}, "_timestamp"),
        (windows(window=Session(start="v = ", end="v = 2")), {}, "start"),
        (windows(), {"transform": "select k, v from batch", "event_time": None, "stream": None}, "_timestamp"),
    ],
)
def test_what_cannot_be_folded_is_refused_before_anything_is_planned(
    engine: Engine, log: ListLog, output: Any, more: dict[str, Any], told: str
) -> None:
    """An aggregate that does not parse, an unknown key, a missing time column: an error that names it, no plan."""
    send(log, ("a", 1, 1))
    if "stream" in more:
        more = {**more, "stream": dataclasses.replace(STREAM, event_time=None)}
    made = pipeline(output, **more)
    with pytest.raises((WindowDefinitionError, EventTimeError), match=told):
        stages.plan(engine, made, SINCE_LAST, "r")
    assert engine.ledger.runs() == ()


def test_the_plan_says_what_is_computed_again() -> None:
    """Aggregates without partial results are named before the first run."""
    made = pipeline(windows(aggregates={"n": "count(*)", "m": "median(v)"}))
    assert stages.describe_windows(made) == [
        "Windows 'w': merged from partial results: n; computed again from the rows of every window that changed: m"
    ]
