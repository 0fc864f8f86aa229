"""Transform of one slice: decode, the user's SQL or Python, row checks.

Every rule here is row-wise, so a slice is worked through one row group at a time, and neither the pieces nor the number
of threads can be seen in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow, quality, rawfile
from airflow_provider_eventlog.core.arrow import empty_table
from airflow_provider_eventlog.core.decoding import Decoder, declared_columns, engine_schema
from airflow_provider_eventlog.core.errors import EventTimeError, TransformError
from airflow_provider_eventlog.core.naming import check_column, printable, quote
from airflow_provider_eventlog.core.pytransform import POSITION, positions, run_python
from airflow_provider_eventlog.core.quarantine import Stopped
from airflow_provider_eventlog.core.session import CHUNK_ROWS, session, typed_view
from airflow_provider_eventlog.core.sqltransform import compile_sql, fail
from airflow_provider_eventlog.core.sqltree import EngineError, explain
from airflow_provider_eventlog.declare.decode import META_COLUMNS
from airflow_provider_eventlog.declare.windows import Windows

if TYPE_CHECKING:
    import duckdb

    from airflow_provider_eventlog.declare.pipeline import Pipeline

# Parquet, Arrow and the targets hold these alike; other types would come back as something else.
_STORABLE = frozenset(
    [
        "boolean",
        "tinyint",
        "smallint",
        "integer",
        "bigint",
        "utinyint",
        "usmallint",
        "uinteger",
        "ubigint",
        "float",
        "double",
        "decimal",
        "varchar",
        "blob",
        "date",
        "time",
        "timestamp",
        "uuid",
    ]
) | {"timestamp with time zone"}
# The engine's type of a column, kept beside the Arrow type that it travels as.
TYPE_KEY = b"eventlog.type"
_ROWS = "_rows"
# What a recipe's analysis has found: a plan says nothing of data or session, and each slice and fold asks for it.
_ANALYZED: dict[str, TransformPlan] = {}
_REMEMBERED = 64
_FIRST_TIME, _LAST_TIME = "TIMESTAMP '0001-01-01'", "TIMESTAMP '10000-01-01'"
_POSITION_FIELDS = (
    pa.field("_partition", pa.int32(), metadata={TYPE_KEY: b"INTEGER"}),
    pa.field("_offset", pa.int64(), metadata={TYPE_KEY: b"BIGINT"}),
    pa.field("_row", pa.int32(), metadata={TYPE_KEY: b"INTEGER"}),
)


@dataclass(frozen=True, slots=True)
class Stop:
    """Rows for which `condition` (SQL, never NULL) holds are quarantined: for a check, or ("") without event time."""

    check: str
    condition: str
    reason: str


@dataclass(frozen=True, slots=True)
class TransformPlan:
    """A pipeline's transform as it will run.

    columns  (name, type) of the result, without the positions
    schema   the Arrow schema of the result: columns, then `_partition, _offset, _row`; each field's metadata names
             the engine's type under TYPE_KEY
    sql      the rewritten query, None for a Python transform or none
    checks   compiled expressions of the checks that rows are counted by, by name
    stops    what keeps a row out of the result
    """

    columns: tuple[tuple[str, str], ...]
    schema: pa.Schema
    sql: str | None
    checks: Mapping[str, str]
    stops: tuple[Stop, ...]


@dataclass(frozen=True, slots=True)
class TransformResult:
    """The rows of one slice, ordered by `_partition, _offset, _row`, and their accounting.

    counts    landed = typed + tombstones + undecodable; passed + rejected = typed - filtered + exploded
    failures  {check: {"rows": n, "first": ["partition:offset", ...]}}, broken checks only
    stopped   what is undecodable or rejected; None for neither
    """

    table: pa.Table
    counts: dict[str, int]
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: Stopped | None = None


def analyze(pipeline: Pipeline) -> TransformPlan:
    """Check the transform, event time and checks without data; a process does so once for a recipe.

    Raises TransformError, EventTimeError, CheckDefinitionError, each naming what is wrong and the columns there are.
    """
    recipe = pipeline.recipe
    known = _ANALYZED.get(recipe)
    if known is None:
        with session(threads=1) as connection:
            known = _analyze(connection, pipeline)
        if len(_ANALYZED) >= _REMEMBERED:
            _ANALYZED.clear()
        _ANALYZED[recipe] = known
    return known


def transform_slice(pipeline: Pipeline, raw: Path | pa.Table) -> TransformResult:
    """Decode and transform one landed slice (a raw file, read with its checksums verified, or a raw table).

    Raises TransformError, EventTimeError, CheckDefinitionError, StagingCorruptError. What does not decode, has no event
    time or breaks a quarantine check is no error here: it is in `stopped`; other broken checks are in `failures`.
    """
    assert pipeline.decode is not None
    with session() as connection:
        plan = _analyze(connection, pipeline)
        decoder = Decoder(pipeline.decode, connection)
        counts = dict.fromkeys(("typed", "filtered", "exploded", "rejected", "passed"), 0)
        failures: dict[str, dict[str, Any]] = {}
        stopped = Stopped()
        tables = [empty_table(plan.schema)]
        for piece in _pieces(raw):
            typed = decoder.decode(piece)
            rows = _run(connection, pipeline, plan, typed)
            _count(counts, typed, rows)
            tables.append(_checked(connection, plan, piece, rows, stopped, failures))
            counts["passed"] += tables[-1].num_rows
            counts["rejected"] += rows.num_rows - tables[-1].num_rows
    stopped.undecodable(decoder.undecodable)
    counts = {
        "landed": decoder.landed,
        "tombstones": decoder.tombstones,
        "undecodable": decoder.failed,
        **counts,
    }
    return TransformResult(pa.concat_tables(tables), counts, failures, stopped if stopped.tables else None)


def _checked(
    connection: duckdb.DuckDBPyConnection,
    plan: TransformPlan,
    raw: pa.Table,
    rows: pa.Table,
    stopped: Stopped,
    failures: dict[str, dict[str, Any]],
) -> pa.Table:
    """The rows that may go on; the others are in `stopped`, and broken checks are counted in `failures`."""
    if not rows.num_rows or not (plan.stops or plan.checks):
        return rows
    columns = dict(plan.columns)
    _show(connection, "_checked", _ROWS, rows, columns)
    if plan.stops:
        broken = quality.first_broken(connection, [stop.condition for stop in plan.stops], _ROWS)
        bad = broken >= 0
        if bad.any():
            partitions, offsets = positions(rows)
            numbers = arrow.joined(rows.column("_row"))
            why = [(plan.stops[i].check, plan.stops[i].reason) for i in broken[bad].tolist()]
            stopped.rejected(raw, offsets[bad], numbers[bad], why)
            quality.merge(failures, _stops_broken(plan, broken, int(partitions[0]), offsets))
            rows = rows.filter(arrow.flags(~bad))
            _show(connection, "_checked", _ROWS, rows, columns)
    if plan.checks and rows.num_rows:
        quality.merge(failures, quality.evaluate(connection, plan.checks, _ROWS))
    return rows


def _stops_broken(
    plan: TransformPlan, broken: npt.NDArray[np.int64], partition: int, offsets: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    found = {}
    for index, stop in enumerate(plan.stops):
        mine = offsets[broken == index]
        if stop.check and len(mine):
            first = [f"{partition}:{offset}" for offset in np.unique(mine)[: quality.FIRST].tolist()]
            found[stop.check] = {"rows": len(mine), "first": first}
    return found


def count_checks(pipeline: Pipeline, rows: pa.Table) -> dict[str, dict[str, Any]]:
    """The checks that rows of the result break, as `TransformResult.failures`; those that keep rows out left aside.

    Raises CheckDefinitionError.
    """
    failures: dict[str, dict[str, Any]] = {}
    with session() as connection:
        plan = _analyze(connection, pipeline)
        for start in range(0, rows.num_rows if plan.checks else 0, rawfile.GROUP_ROWS):
            _show(connection, "_checked", _ROWS, rows.slice(start, rawfile.GROUP_ROWS), dict(plan.columns))
            quality.merge(failures, quality.evaluate(connection, plan.checks, _ROWS))
    return failures


def part_schema(pipeline: Pipeline) -> pa.Schema:
    """The schema of a pipeline's parts, as `TransformPlan.schema`."""
    return analyze(pipeline).schema


def _pieces(raw: Path | pa.Table) -> Iterator[pa.Table]:
    if isinstance(raw, Path):
        for batch in rawfile.iter_batches(raw):
            yield pa.Table.from_batches([batch])
    else:
        for start in range(0, raw.num_rows, rawfile.GROUP_ROWS):
            yield raw.slice(start, rawfile.GROUP_ROWS)


def _analyze(connection: duckdb.DuckDBPyConnection, pipeline: Pipeline) -> TransformPlan:
    assert pipeline.decode is not None
    given = declared_columns(pipeline.decode)
    sql = None
    if isinstance(pipeline.transform, str):
        empty = empty_table(Decoder(pipeline.decode, connection).schema)
        _show(connection, "_decoded", "batch", empty, given)
        sql = compile_sql(connection, pipeline.transform, [*given, *META_COLUMNS])
        columns = _bind(connection, sql, [*given, *META_COLUMNS])
    else:
        columns = dict(pipeline.schema) if pipeline.schema is not None else given
    fields = (f.with_metadata({TYPE_KEY: columns[f.name].encode()}) for f in engine_schema(connection, columns))
    schema = pa.schema([*fields, *_POSITION_FIELDS])
    _check_event_time(pipeline, columns)
    _show(connection, "_checked", _ROWS, empty_table(schema), columns)
    checks = quality.compile_checks(
        connection, pipeline.checks, _ROWS, {**columns, "_partition": "INTEGER", "_offset": "BIGINT", "_row": "INTEGER"}
    )
    stopping = {c.name: c for c in pipeline.checks if c.on_fail == "quarantine"}
    stops = [Stop(n, f"({checks[n]}) IS NOT TRUE", f"not true: {c.expression}") for n, c in stopping.items()]
    stops = [*_stops_without_time(pipeline, columns), *stops]
    counted = {name: expression for name, expression in checks.items() if name not in stopping}
    return TransformPlan(tuple(columns.items()), schema, sql, counted, tuple(stops))


def _stops_without_time(pipeline: Pipeline, columns: Mapping[str, str]) -> list[Stop]:
    """What keeps rows out that no time, and so no window, can be told of."""
    windows = [output for output in pipeline.outputs if isinstance(output, Windows)]
    named = [] if pipeline.event_time is None else [pipeline.event_time]
    # The record's timestamp is asked for where there is no event time, and by the time of ingestion.
    if "_timestamp" in columns and any(w.time == "ingest" or (w.time == "event" and not named) for w in windows):
        named.append("_timestamp")
    stops = []
    for name in dict.fromkeys(named):
        stops.append(Stop("", f"{quote(name)} IS NULL", f"{printable(name)} is NULL"))
        if windows:
            # Where no window can be: years that nothing reads, and infinity.
            inside = f"{quote(name)} >= {_FIRST_TIME} AND {quote(name)} < {_LAST_TIME}"
            beyond = f"{printable(name)} lies outside of the years 1 to 9999"
            stops.append(Stop("", f"({inside}) IS FALSE", beyond))
    return stops


def _bind(connection: duckdb.DuckDBPyConnection, sql: str, available: list[str]) -> dict[str, str]:
    try:
        relation = connection.sql(sql)
        names, types = list(relation.columns)[:-2], list(relation.types)[:-2]
    except EngineError() as error:
        raise fail(f"cannot run: {explain(error, available)}") from error
    if not names:
        raise fail("selects no column")
    columns: dict[str, str] = {}
    for name, kind in zip(names, types, strict=True):
        check_column(name)
        if name.startswith("_") and (name not in META_COLUMNS or name in POSITION):
            raise fail(f"names a column {printable(name)}; names that start with '_' are kept")
        if name.casefold() in {known.casefold() for known in columns}:
            raise fail(f"selects the column {printable(name)} twice; give one of them another name")
        if not _storable(kind):
            raise fail(f"gives column {printable(name)} the type {kind}, which cannot be stored; cast it to another")
        columns[name] = "TIMESTAMPTZ" if str(kind) == "TIMESTAMP WITH TIME ZONE" else str(kind)
    return columns


def _storable(kind: Any) -> bool:
    if kind.id in ("list", "struct"):
        return all(_storable(child) for _, child in kind.children)
    return kind.id in _STORABLE


def _check_event_time(pipeline: Pipeline, columns: Mapping[str, str]) -> None:
    name = pipeline.event_time
    if name is None:
        return
    if name not in columns:
        raise EventTimeError(
            f"Pipeline {pipeline.name!r}: event_time={printable(name)} is not a column of its result; the columns are "
            f"{', '.join(map(printable, columns))}. Select it, or name another."
        )
    if columns[name] not in ("TIMESTAMPTZ", "TIMESTAMP"):
        raise EventTimeError(
            f"Pipeline {pipeline.name!r}: event_time={printable(name)} is a {columns[name]}; it must be TIMESTAMPTZ or "
            f"TIMESTAMP (UTC)."
        )


def _show(
    connection: duckdb.DuckDBPyConnection, source: str, view: str, table: pa.Table, columns: Mapping[str, str]
) -> None:
    """Let the session see a table as `view`, with the types that Arrow has no name for given back."""
    connection.register(source, pa.Table.from_batches(table.to_batches(max_chunksize=CHUNK_ROWS), table.schema))
    typed_view(connection, view, source, columns)


def _run(connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, plan: TransformPlan, typed: pa.Table) -> pa.Table:
    assert pipeline.decode is not None
    if plan.sql is not None:
        _show(connection, "_decoded", "batch", typed, declared_columns(pipeline.decode))
        try:
            rows = connection.sql(plan.sql).to_arrow_table()
        except EngineError() as error:
            raise fail(
                f"failed on a value: {printable(str(error), 300)}; use try_cast or try(...) where values vary"
            ) from error
    elif callable(pipeline.transform):
        rows = run_python(pipeline, typed, pa.schema(list(plan.schema)[:-3]).remove_metadata())
    else:
        rows = typed.select([*(name for name, _ in plan.columns), *POSITION])
    partitions, offsets = positions(rows)
    after = (partitions[1:] > partitions[:-1]) | (partitions[1:] == partitions[:-1]) & (offsets[1:] >= offsets[:-1])
    if not after.all():
        raise TransformError("The transform's rows came out of order; nothing is kept. This is a defect, report it.")
    return pa.Table.from_arrays([*rows.columns, _row_numbers(partitions, offsets)], schema=plan.schema)


def _row_numbers(partitions: Any, offsets: Any) -> pa.Array:
    """0 for the first row of a position, counted up for its further ones; rows are in order."""
    index = np.arange(len(offsets), dtype=np.int64)
    first = np.ones(len(offsets), bool)
    first[1:] = (partitions[1:] != partitions[:-1]) | (offsets[1:] != offsets[:-1])
    rows = (index - np.maximum.accumulate(np.where(first, index, 0))).astype(np.int32)
    return arrow.fixed(rows, pa.int32())


def _count(counts: dict[str, int], typed: pa.Table, rows: pa.Table) -> None:
    copies = sum(int(np.count_nonzero(arrow.numbers(chunk))) for chunk in rows.column("_row").chunks)
    counts["typed"] += typed.num_rows
    counts["exploded"] += copies
    counts["filtered"] += typed.num_rows - (rows.num_rows - copies)
