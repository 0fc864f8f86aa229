# ruff: noqa: S608 - the SQL below is made of quoted names, numbers and expressions that were parsed
"""Tables on their way into the session and out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.errors import EventTimeError
from airflow_provider_eventlog.core.naming import printable, quote
from airflow_provider_eventlog.core.session import CHUNK_ROWS, typed_view

if TYPE_CHECKING:
    import duckdb

Micros = npt.NDArray[np.int64]
INSTANT = pa.timestamp("us", "UTC")
# What a column of times may hold: the years 1 to 9999, as everything that reads the results can.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_800_000_000
_FACTORS = {"s": 1_000_000, "ms": 1000, "us": 1}


def show(
    connection: duckdb.DuckDBPyConnection, view: str, table: pa.Table, columns: Mapping[str, str] | None = None
) -> None:
    """Let the session see a table as `view`.

    columns  of typed rows: give back types that Arrow has no name for. However such a table is chunked, the engine sees
             the same pieces, since it sums floating numbers as they come
    """
    if columns is None:
        connection.register(view, table)
        return
    if any(column.num_chunks > 1 for column in table.columns):
        table = table.combine_chunks()
    pieces = pa.Table.from_batches(table.to_batches(max_chunksize=CHUNK_ROWS), table.schema)
    connection.register(f"_in{view}", pieces)
    typed_view(connection, view, f"_in{view}", columns)


def keep(connection: duckdb.DuckDBPyConnection, table: str, query: str) -> None:
    """Keep a query's result as a table of the session."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {query}").fetchall()


def fetch(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema | None = None) -> pa.Table:
    """A query's result, with the fields of `schema` where it is given."""
    found = connection.sql(query).to_arrow_table()
    return found if schema is None else fit(found, schema)


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the fields of `schema`, by name; types that say the same are taken over."""
    columns = [table.column(f.name) for f in schema]
    columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def number(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A column of integers without nulls as an array."""
    return arrow.joined(table.column(column)).astype(np.int64, copy=False)


def truth(table: pa.Table, column: str) -> npt.NDArray[np.bool_]:
    """A column of booleans as an array, nulls as False."""
    chunks = [arrow.booleans(chunk) for chunk in table.column(column).chunks]
    return np.concatenate(chunks) if chunks else np.empty(0, np.bool_)


def with_numbers(table: pa.Table, **columns: Micros) -> pa.Table:
    """The table with BIGINT columns added."""
    for name, values in columns.items():
        table = table.append_column(name, arrow.fixed(values.astype(np.int64, copy=False), pa.int64()))
    return table


def numbers_table(**columns: Micros) -> pa.Table:
    """A table of BIGINT columns."""
    arrays = [arrow.fixed(values.astype(np.int64, copy=False), pa.int64()) for values in columns.values()]
    return pa.Table.from_arrays(arrays, names=list(columns))


def counted(count: int) -> Micros:
    """0, 1, 2, ..."""
    return np.arange(count, dtype=np.int64)


def zeros(count: int) -> Micros:
    """As many zeros."""
    return np.zeros(count, np.int64)


def stamp(rows: pa.Table, instant: int) -> pa.Table:
    """Rows whose window is told by their batch, with the batch's instant (ms since 1970 UTC) as `_at`."""
    return with_numbers(rows, _at=np.full(rows.num_rows, instant, np.int64))


def times(rows: pa.Table, column: str | None) -> Micros:
    """The time of each row in microseconds since 1970 UTC: a column's, or without one what `stamp` says.

    Raises EventTimeError for a column that holds no times, for NULL, infinity and years beyond 9999: such rows are to
    be kept out before.
    """
    if column is None:
        if "_at" not in rows.column_names:
            raise EventTimeError("The rows have no time column; stamp them with the instant of their batch.")
        return number(rows, "_at") * 1000
    found = rows.column(column)
    if not pa.types.is_timestamp(found.type) or found.type.unit not in _FACTORS:
        raise EventTimeError(f"Column {printable(column)} is a {found.type}; windows need a TIMESTAMPTZ or TIMESTAMP.")
    if found.null_count:
        raise EventTimeError(f"Column {printable(column)} is NULL in {found.null_count} rows, which have no window.")
    values = number(rows, column)
    factor = _FACTORS[found.type.unit]
    bad = (values < _FIRST // factor) | (values >= _LAST // factor)
    if bad.any():
        raise EventTimeError(
            f"Column {printable(column)} lies outside of the years 1 to 9999 in {int(bad.sum())} rows; keep them out "
            f"by a check."
        )
    return values * factor if factor > 1 else values


def concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Tables of one schema, one after another."""
    return pa.concat_tables([arrow.empty_table(schema), *tables])


def listed(names: Iterable[str], prefix: str = "") -> str:
    """Quoted names for a select list, each with a trailing comma: nothing for none."""
    return "".join(f"{prefix}{quote(name)}, " for name in names)


def same(names: Iterable[str], left: str, right: str) -> str:
    """SQL that is true where two relations have the same key; NULL is a key like any other."""
    tests = [f"{left}.{quote(n)} IS NOT DISTINCT FROM {right}.{quote(n)}" for n in names]
    return " AND ".join(tests) or "true"


def newest(relation: str, key: Sequence[str], gone: str | None = None) -> str:
    """SQL of the rows of a relation that are the last of their key by `_n`, without those that `gone` names later."""
    keys = ", ".join(quote(name) for name in key)
    query = f"SELECT * FROM {relation} QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _n DESC) = 1"
    if gone is None:
        return query
    later = f"SELECT 1 FROM {gone} g WHERE {same(key, 'g', 'w')} AND g._n > w._n"
    return f"SELECT w.* FROM ({query}) w WHERE NOT EXISTS ({later})"
