"""A slice's partial results, one for each windows output: derived with its typed rows, and recorded beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow, rawfile
from airflow_provider_eventlog.core.errors import EventTimeError
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.transforming import TransformResult, part_schema
from airflow_provider_eventlog.core.windows import frames, watermark
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.core.windows.plan import TIMESTAMP, WindowPlan, analyze_windows
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import duckdb

_PREFIX = "partials."
# As confluent-kafka numbers them.
_LOG_APPEND_TIME = 2
# Batches outside of the chain never move a watermark, so that all of their times may be believed.
_ALL_TIMES = 2**50
_PLANS: dict[tuple[str, str], WindowPlan] = {}
_REMEMBERED = 64


def kind_of(output: str) -> str:
    """The kind of an output's parts."""
    return _PREFIX + output


def windows_of(pipeline: Pipeline) -> tuple[Windows, ...]:
    """The windows outputs of a pipeline."""
    return tuple(output for output in pipeline.outputs if isinstance(output, Windows))


def window_plan(connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, output: Windows) -> WindowPlan:
    """The plan of an output over the pipeline's rows; raises WindowDefinitionError, EventTimeError.

    It says nothing of data or session, so that a process makes it once for a recipe.
    """
    key = (pipeline.recipe, output.name)
    known = _PLANS.get(key)
    if known is None:
        known = _analyzed(connection, pipeline, output)
        if len(_PLANS) >= _REMEMBERED:
            _PLANS.clear()
        _PLANS[key] = known
    return known


def _analyzed(connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, output: Windows) -> WindowPlan:
    schema = part_schema(pipeline)
    if output.time == "ingest" and TIMESTAMP not in schema.names:
        raise EventTimeError(
            f"Windows {output.name!r}: time='ingest' needs the column {TIMESTAMP!r}; select it in the transform."
        )
    return analyze_windows(connection, output, schema, pipeline.event_time)


def of_slice(
    pipeline: Pipeline,
    batch: BatchPlan,
    raw: Callable[[], Path],
    rows: pa.Table,
    stamps: Mapping[str, int | None],
) -> dict[str, TransformResult]:
    """The partial results of a slice by kind of part; raises what `windows.partials.partial` raises.

    raw     gives the slice's verified raw file
    rows    its typed rows
    stamps  what is known already, by kind: the one time of all rows, or None where a column tells it

    Their counts say of the rows what folding must know without reading them: `rows`, `oldest` and `greatest` time (ms,
    rounded down), `believed`, the greatest one that the watermark may go by, and `stamp`, the instant that all rows
    have where no column tells their time. What a slice cannot tell is left out.
    """
    outputs = windows_of(pipeline)
    if not outputs:
        return {}
    made = {}
    # Floating sums are made in the order of rows.
    with session(threads=1) as connection:
        for output in outputs:
            plan = window_plan(connection, pipeline, output)
            kind = kind_of(output.name)
            stamp = stamps[kind] if kind in stamps else _stamp(output, batch, raw)
            stamped = with_times(plan, rows, stamp)
            counts = {"rows": rows.num_rows, **_times(plan, stamped, _believed_until(pipeline, batch))}
            if stamp is not None:
                counts["stamp"] = stamp
            made[kind] = TransformResult(partial(connection, plan, stamped), counts)
    return made


def with_times(plan: WindowPlan, rows: pa.Table, stamp: int | None) -> pa.Table:
    """Typed rows as the plan wants them: stamped where it has no time column, with the broker's time or one for all."""
    if plan.time is not None:
        return rows
    if stamp is not None:
        return frames.stamp(rows, stamp)
    return frames.with_numbers(rows, _at=np.floor_divide(frames.times(rows, TIMESTAMP), 1000))


def _times(plan: WindowPlan, rows: pa.Table, believed_until: int) -> Mapping[str, int]:
    if not rows.num_rows:
        return {}
    times = np.floor_divide(frames.times(rows, plan.time), 1000)
    found = {"oldest": int(times.min()), "greatest": int(times.max())}
    seen = watermark.look(rows, plan.time, 0, 0, believed_until)
    return found if seen.greatest is None else {**found, "believed": seen.greatest}


def _believed_until(pipeline: Pipeline, batch: BatchPlan) -> int:
    return _ALL_TIMES if batch.to_instant is None else batch.to_instant + pipeline.stream.max_future_skew_ms


def _stamp(output: Windows, batch: BatchPlan, raw: Callable[[], Path]) -> int | None:
    """The instant of all rows of a slice; None where a column tells each one's."""
    if output.time == "event":
        return None
    if output.time == "ingest" and _by_broker(raw()):
        return None
    if batch.to_instant is not None:
        return watermark.at_end(batch.to_instant)
    # A batch outside of the chain ends at no instant: its slices have the time of their newest record.
    times = rawfile.read_table(raw(), ["timestamp"]).column(0)
    known = [int(arrow.numbers(chunk.drop_null()).max()) for chunk in times.chunks if len(chunk) > chunk.null_count]
    return max(known, default=0)


def _by_broker(raw: Path) -> bool:
    kinds = arrow.joined(rawfile.read_table(raw, ["timestamp_type"]).column(0))
    return bool(len(kinds) and (kinds == _LOG_APPEND_TIME).all())
