"""A topic of numbered events and a control topic beside it, both in memory, run through all stages on real stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import TopicNotFoundError
from airflow_provider_eventlog.core.offsets import TopicIdentity
from airflow_provider_eventlog.core.protocols import LogSource
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import (
    ControlTopic,
    DuckDB,
    Json,
    Pipeline,
    ProducerCounts,
    Rows,
    Stream,
)
from tests.support.listlog import ListLog, engine_over

MINUTE = 60_000
# Midnight, so that intervals of a day begin where the events do.
T0 = 1_704_067_200_000
FIELDS = {"p": "VARCHAR", "d": "VARCHAR", "n": "BIGINT", "ts": "TIMESTAMPTZ"}
STREAM = Stream("orders", name="s", start="earliest", event_time="ts", decode=Json(FIELDS), max_slice_offsets=7)


def counts(**more: Any) -> ProducerCounts:
    """Counts of producers by ten minutes, from the control topic, unless told otherwise."""
    options = {"source": ControlTopic("orders_counts"), "producer": "p", "every": "10 minutes", **more}
    return ProducerCounts(**options)


def pipeline(*rules: Any, **more: Any) -> Pipeline:
    """Rows alone, unless told otherwise."""
    outputs = [Rows(DuckDB("out.duckdb", table="t"))]
    return Pipeline("p", **{"stream": STREAM, "outputs": outputs, "completeness": list(rules), **more})


class World:
    """The topics and a home; `now` is ten hours after T0, and a millisecond later at each question."""

    def __init__(self, home: Path, partitions: int = 2) -> None:
        self.home = home
        self.log = ListLog(*([] for _ in range(partitions)))
        self.control = ListLog([])
        self.control.identity = TopicIdentity("cluster", "orders_counts", "control-id")
        self.missing = False
        self._ticks = iter(range(10**9))

    def engine(self) -> Engine:
        """The engine as a process would open it."""
        made = engine_over(self.log, self.home, lambda: T0 + 600 * MINUTE + next(self._ticks))

        def source(stream: Stream) -> LogSource:
            if stream.topic == "orders":
                return self.log
            if self.missing:
                raise TopicNotFoundError("There is no such topic.")
            return self.control

        made.open_source = source
        return made

    def send(self, *values: dict[str, Any] | bytes | None, at: float, partition: int = 0) -> None:
        """Append records dated so many minutes after T0; a document gets that as its event time."""
        for value in values:
            stamp = T0 + round(at * MINUTE)
            offset = len(self.log.values[partition])
            self.log.timestamps[partition, offset] = stamp
            if isinstance(value, dict):
                event = {"ts": datetime.fromtimestamp(stamp / 1000, UTC).isoformat(), **value}
                value = json.dumps(event).encode()
            self.log.values[partition].append(value)

    def publish(self, producer: str, start: int, count: int, *, minutes: int = 10, **more: Any) -> None:
        """Publish a count of the interval that begins so many minutes after T0."""
        low = T0 + start * MINUTE
        self.say(
            json.dumps(
                {"producer": producer, "start": low, "end": low + minutes * MINUTE, "count": count, **more}
            ).encode(),
            start + minutes,
        )

    def say(self, value: bytes | None, at: float) -> None:
        """Append a record of the control topic."""
        self.control.timestamps[0, len(self.control.values[0])] = T0 + round(at * MINUTE)
        self.control.values[0].append(value)

    def run(self, made: Pipeline, number: int, minutes: int = 10, key: str = "") -> dict[str, Any]:
        """All stages of one interval of a schedule that begins at T0."""
        with self.engine() as engine:
            return stages.run(engine, made, interval(number, minutes), key or f"r{number}")

    def validated(self, made: Pipeline, number: int, minutes: int = 10, key: str = "") -> dict[str, Any]:
        """All stages but load; what validate says of completeness."""
        name = key or f"r{number}"
        with self.engine() as engine:
            up_to_transformed(engine, made, interval(number, minutes), name)
            (report,) = stages.validate(engine, made, name)["batches"]
            found: dict[str, Any] = report["accounting"]["completeness"]
            return found

    def standing(self) -> dict[str, bytes]:
        """The published files of completeness, by name."""
        root = self.home / "staging"
        return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*completeness*/**/*.parquet"))} | {
            str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("completeness-*.json"))
        }


def interval(number: int, minutes: int = 10, **more: Any) -> RunRequest:
    """The interval of a schedule that begins at T0."""
    start = T0 + number * minutes * MINUTE
    return RunRequest("interval", (start, start + minutes * MINUTE), first=number == 0, parallelism=1, **more)


def up_to_transformed(engine: Engine, made: Pipeline, request: RunRequest, key: str) -> None:
    """Plan, land and transform."""
    plan = stages.plan(engine, made, request, key)
    for group in range(len(plan.groups)):
        stages.land(engine, made, key, group)
    for group in range(len(plan.groups)):
        stages.transform(engine, made, key, group)


def of(producer: str, *numbers: int, **more: Any) -> Sequence[dict[str, Any]]:
    """Documents of a producer."""
    return [{"p": producer, "d": "x", "n": n, **more} for n in numbers]
