# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""What a windows output will do, checked against the columns that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_eventlog.core.arrow import empty_table
from airflow_provider_eventlog.core.errors import EventTimeError, WindowDefinitionError
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.core.sqltree import EngineError, explain
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.core.windows import frames
from airflow_provider_eventlog.core.windows.aggregates import Output, Unit, condition, take_apart
from airflow_provider_eventlog.core.windows.assign import Placing
from airflow_provider_eventlog.core.windows.pieces import Piece
from airflow_provider_eventlog.declare.windows import Session, Windows
from airflow_provider_eventlog.declare.windows_sizes import Grid

if TYPE_CHECKING:
    import duckdb

_UNPLACED = ("_start", "_end", "_first", "_last", "_final_at")
_ROWS = "_analyzed"
# The broker's or producer's timestamp of a record.
TIMESTAMP = "_timestamp"


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """A windows output as it will run.

    windows     the declaration
    time        the column that a row's window is told by; None: all rows of a batch have the batch's instant
    by          the key columns as the rows spell them
    columns     (name, engine type) of the rows
    pieces      columns of a partial result; `units` are finished from them, `outputs` from units or from rows
    start, end  compiled conditions of a session between events, else ""
    rows        schema of typed rows: what a transform gives
    partial     schema of a slice's partial result: keys, `_pane` or `_first, _last`, `_rows`, partitions, pieces
    state       schema of a fold state: keys, `_kind`, bounds, `_rows`, partitions, `_revision`, pieces, and results
                (`_r0`, ...) that were computed again from rows. Instants are microseconds since 1970 UTC
    result      schema of the target's rows: keys, bounds, aggregates, `_rows`, `_partitions`, `_revision`, `_final`,
                `_complete`
    late        schema of late rows: `rows`, the window, and why
    """

    windows: Windows
    time: str | None
    by: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    pieces: tuple[Piece, ...]
    units: tuple[Unit, ...]
    outputs: tuple[Output, ...]
    start: str
    end: str
    rows: pa.Schema
    partial: pa.Schema
    state: pa.Schema
    result: pa.Schema
    late: pa.Schema

    @property
    def key(self) -> tuple[str, ...]:
        """The target's key."""
        return (*self.by, "window_start")

    @property
    def keys(self) -> pa.Schema:
        """The schema of the target's key: what a change-set deletes by."""
        return pa.schema([self.result.field(name) for name in self.key])

    @property
    def grid(self) -> Grid | None:
        """The grid of fixed or sliding windows; None for sessions."""
        return None if isinstance(self.windows.window, Session) else self.windows.window.grid

    @property
    def session(self) -> Session:
        """The declaration of a session."""
        assert isinstance(self.windows.window, Session)
        return self.windows.window

    @property
    def again(self) -> tuple[Output, ...]:
        """The aggregates that are computed again from the rows of every window that changed: worth a word to people."""
        return tuple(output for output in self.outputs if output.again)

    @property
    def amends(self) -> bool:
        """Whether rows for final windows make new revisions of them."""
        return self.windows.on_late == "amend"

    @property
    def lateness_us(self) -> int:
        """The allowed lateness."""
        return self.windows.allowed_lateness_ms * 1000

    def describe(self) -> str:
        """One line for a plan's log: which aggregates are merged, and which are computed again."""
        again = [output.name for output in self.again]
        merged = [output.name for output in self.outputs if not output.again]
        parts = [f"merged from partial results: {', '.join(merged)}"] if merged else []
        parts += [f"computed again from the rows of every window that changed: {', '.join(again)}"] if again else []
        return f"Windows {self.windows.name!r}: {'; '.join(parts)}"


def analyze_windows(
    connection: duckdb.DuckDBPyConnection,
    windows: Windows,
    schema: pa.Schema,
    event_time: str | None,
    *,
    append_time: bool = False,
) -> WindowPlan:
    """Check an output against its rows, without data.

    schema       of a transform's rows: columns, then `_partition, _offset, _row`, the engine's types under TYPE_KEY
    event_time   the pipeline's event time column, None for the record's timestamp
    append_time  whether the topic's timestamps are the broker's (LogAppendTime)

    Raises WindowDefinitionError, EventTimeError.
    """
    where = f"Windows {windows.name!r}"
    columns = {f.name: (f.metadata or {}).get(TYPE_KEY, b"").decode() or _engine_type(connection, f) for f in schema}
    by = tuple(_key(where, name, columns) for name in windows.by)
    time = _time(where, windows, columns, event_time, append_time)
    rows = pa.schema(list(schema))
    frames.show(connection, _ROWS, empty_table(rows), columns)
    taken = take_apart(connection, where, windows.aggregates, _ROWS, columns)
    start = end = ""
    if isinstance(windows.window, Session) and windows.window.start is not None:
        assert windows.window.end is not None
        start = condition(connection, f"{where}: start", windows.window.start, _ROWS, columns)
        end = condition(connection, f"{where}: end", windows.window.end, _ROWS, columns)
    if not isinstance(windows.window, Session):
        Placing(connection, windows.window.grid)
    keys = [rows.field(name) for name in by]
    kept = _piece_fields(connection, taken.pieces)
    results, again = _output_fields(connection, where, taken.units, taken.outputs, columns)
    places = ["_first", "_last"] if isinstance(windows.window, Session) else ["_pane"]
    further = pa.field("_further", pa.list_(pa.int32()))
    counts = [_field("_rows", pa.int64(), "BIGINT"), _field("_partitions", pa.int64(), "BIGINT"), further]
    state = pa.schema(
        [
            *keys,
            _field("_kind", pa.int8(), "TINYINT"),
            *(_field(name, pa.int64(), "BIGINT") for name in _UNPLACED),
            *counts,
            _field("_revision", pa.int64(), "BIGINT"),
            *kept,
            *again,
        ]
    )
    bounds = [_field(name, frames.INSTANT, "TIMESTAMPTZ") for name in ("window_start", "window_end")]
    result = pa.schema(
        [
            *keys,
            *bounds,
            *results,
            _field("_rows", pa.int64(), "BIGINT"),
            _field("_partitions", pa.int32(), "INTEGER"),
            _field("_revision", pa.int64(), "BIGINT"),
            _field("_final", pa.bool_(), "BOOLEAN"),
            _field("_complete", pa.bool_(), "BOOLEAN"),
        ]
    )
    late = pa.schema(
        [
            *rows,
            *(_field(f"_{name}", frames.INSTANT, "TIMESTAMPTZ") for name in ("window_start", "window_end")),
            _field("_watermark", frames.INSTANT, "TIMESTAMPTZ"),
            _field("_reason", pa.string(), "VARCHAR"),
        ]
    )
    partial = pa.schema([*keys, *(_field(name, pa.int64(), "BIGINT") for name in places), *counts, *kept])
    return WindowPlan(
        windows, time, by, tuple(columns.items()), taken.pieces, taken.units, taken.outputs, start, end,
        rows, partial, state, result, late,
    )  # fmt: skip


def _key(where: str, name: str, columns: Mapping[str, str]) -> str:
    found = next((known for known in columns if known.casefold() == name.casefold()), None)
    if found is None:
        raise WindowDefinitionError(
            f"{where}: by names {printable(name)}, which is no column of the rows; they are "
            f"{', '.join(map(printable, columns))}."
        )
    if columns[found].endswith("[]") or columns[found].startswith("STRUCT"):
        raise WindowDefinitionError(f"{where}: by names {printable(name)}, a {columns[found]}, which is no key.")
    return found


def _time(
    where: str, windows: Windows, columns: Mapping[str, str], event_time: str | None, append_time: bool
) -> str | None:
    if windows.time == "processing" or (windows.time == "ingest" and not append_time):
        return None
    name = TIMESTAMP if windows.time == "ingest" or event_time is None else event_time
    if name not in columns:
        raise EventTimeError(
            f"{where}: time={windows.time!r} needs the column {printable(name)}, which the rows do not have; they have "
            f"{', '.join(map(printable, columns))}."
        )
    if columns[name] not in ("TIMESTAMPTZ", "TIMESTAMP"):
        raise EventTimeError(
            f"{where}: the time column {printable(name)} is a {columns[name]}; it must be TIMESTAMPTZ or "
            f"TIMESTAMP (UTC)."
        )
    return name


def engine_type(field: pa.Field) -> str:
    """The engine's type of a field of a plan's schemas."""
    return str((field.metadata or {}).get(TYPE_KEY, b"").decode())


def _field(name: str, kind: pa.DataType, engine: str) -> pa.Field:
    return pa.field(name, kind, metadata={TYPE_KEY: engine.encode()})


def _engine_type(connection: duckdb.DuckDBPyConnection, field: pa.Field) -> str:
    frames.show(connection, "_one", empty_table(pa.schema([field])))
    kind = str(connection.sql("SELECT * FROM _one").types[0])
    return "TIMESTAMPTZ" if kind == "TIMESTAMP WITH TIME ZONE" else kind


def _piece_fields(connection: duckdb.DuckDBPyConnection, pieces: tuple[Piece, ...]) -> list[pa.Field]:
    if not pieces:
        return []
    select = ", ".join(f"{piece.partial()} AS {piece.name}" for piece in pieces)
    query = f"SELECT {select} FROM (SELECT *, CAST(0 AS BIGINT) AS _t FROM {_ROWS})"
    return [pa.field(f.name, f.type) for f in frames.fetch(connection, query).schema]


def _output_fields(
    connection: duckdb.DuckDBPyConnection,
    where: str,
    units: tuple[Unit, ...],
    outputs: tuple[Output, ...],
    columns: Mapping[str, str],
) -> tuple[list[pa.Field], list[pa.Field]]:
    """The fields of the aggregates, and those of the ones that the state keeps as results."""
    select = ", ".join(f"CAST(NULL AS {unit.result}) AS {unit.name}" for unit in units) or "1 AS _none"
    frames.keep(connection, "_units", f"SELECT {select}")
    results: list[pa.Field] = []
    again: list[pa.Field] = []
    for output in outputs:
        relation = _ROWS if output.again else "_units"
        try:
            kind = str(connection.sql(f"SELECT {output.sql} FROM {relation}").types[0])
        except EngineError() as error:
            raise WindowDefinitionError(
                f"{where}: aggregate {printable(output.name)} cannot run: {explain(error, columns)}."
            ) from error
        kind = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ", "HUGEINT": "DECIMAL(38,0)"}.get(kind, kind)
        if (
            kind.startswith(("MAP", "UNION", "INTERVAL", "UHUGEINT", "BIGNUM", "BIT", "VARIANT", "ENUM"))
            or "HUGE" in kind
        ):
            raise WindowDefinitionError(
                f"{where}: aggregate {printable(output.name)} is a {kind}, which cannot be stored; cast it to another "
                f"type."
            )
        stored = frames.fetch(connection, f"SELECT CAST(NULL AS {kind}) AS {quote(output.name)}").schema.field(0)
        results.append(_field(output.name, stored.type, kind))
        if output.again:
            again.append(_field(f"_r{len(again)}", stored.type, kind))
    return results, again
