"""A transform in Python: a function from table to table, whose result is held to its declared schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow
from airflow_provider_eventlog.core.errors import EventLogError, TransformError
from airflow_provider_eventlog.core.naming import printable

if TYPE_CHECKING:
    from airflow_provider_eventlog.declare.pipeline import Pipeline

POSITION = ("_partition", "_offset")


def run_python(pipeline: Pipeline, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Call the pipeline's function on decoded rows and return its rows in `schema`, then `_partition, _offset`.

    schema  the declared columns as the engine has them. Rows are put in the order of their positions; rows of one
    position keep theirs. Raises TransformError if the function fails, or returns another type, other columns,
    values that do not fit, or a position it was not given.
    """
    assert callable(pipeline.transform)
    result = _call(pipeline.transform, table, pipeline.frame)
    wanted = pa.schema([*schema, *(table.schema.field(name) for name in POSITION)])
    present = set(result.schema.names)
    if len(present) != len(result.schema.names):
        raise _fail("returns a column twice")
    missing = [name for name in wanted.names if name not in present]
    if missing:
        returned = ", ".join(map(printable, result.schema.names))
        raise _fail(f"does not return {', '.join(map(printable, missing))}; it returns {returned}")
    # Columns it was given may be passed on undeclared; they are left out.
    extra = sorted(present - set(wanted.names) - set(table.schema.names))
    if extra:
        raise _fail(f"returns {', '.join(map(printable, extra))}, which its schema does not declare")
    columns = [_fitted(result.column(field.name), field) for field in wanted]
    return _ordered(pa.Table.from_arrays(columns, schema=wanted), table)


def _fail(message: str) -> TransformError:
    return TransformError(f"The Python transform {message}.")


def _call(function: Callable[[Any], Any], table: pa.Table, frame: str) -> pa.Table:
    given: Any = table
    if frame == "pandas":
        import pandas as pd

        # Arrow-backed columns keep integers with nulls, decimals and microseconds exact.
        given = table.to_pandas(types_mapper=pd.ArrowDtype)
    try:
        result = function(given)
    except EventLogError:
        raise
    except Exception as error:
        raise TransformError(
            f"The Python transform failed on {table.num_rows} rows: {type(error).__name__}: "
            f"{printable(str(error), 300)}."
        ) from error
    if frame == "pandas":
        import pandas as pd

        if not isinstance(result, pd.DataFrame):
            raise _fail(f"returns {type(result).__name__}; with frame='pandas' it must return a DataFrame")
        try:
            return pa.Table.from_pandas(result, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise _fail(f"returns a DataFrame that is no table: {printable(str(error), 300)}") from error
    if not isinstance(result, pa.Table):
        raise _fail(f"returns {type(result).__name__}; with frame='arrow' it must return a pyarrow.Table")
    return result


def _fitted(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    if not _may_become(column.type, field.type):
        raise _fail(f"returns column {printable(field.name)} as {column.type}, which does not become {field.type}")
    try:
        return column.cast(field.type, safe=True)
    except pa.ArrowException as error:
        raise _fail(
            f"returns column {printable(field.name)} with a value that does not fit {field.type}: "
            f"{printable(str(error), 200)}"
        ) from error


def _may_become(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a checked cast between the types cannot change what a value says."""
    types = pa.types
    if types.is_null(given) or given == wanted:
        return True
    if types.is_dictionary(given):
        return _may_become(given.value_type, wanted)
    if types.is_list(wanted):
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(check(given) for check in lists) and _may_become(given.value_type, wanted.value_type)
    if types.is_integer(given):
        return bool(types.is_integer(wanted) or types.is_floating(wanted) or types.is_decimal(wanted))
    if types.is_floating(given):
        return bool(types.is_floating(wanted) or types.is_integer(wanted))
    if types.is_timestamp(given):
        return bool(types.is_timestamp(wanted) and (given.tz is None) == (wanted.tz is None))
    for check in (types.is_decimal, types.is_date, types.is_time):
        if check(given):
            return bool(check(wanted))
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if any(check(given) for check in texts):
        return bool(types.is_string(wanted))
    blobs = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(given) for check in blobs) and bool(types.is_binary(wanted))


def _ordered(result: pa.Table, given: pa.Table) -> pa.Table:
    """The rows by position, ties as they came; positions that were not given are refused."""
    partitions, offsets = positions(result)
    if result.column("_partition").null_count or result.column("_offset").null_count:
        raise _fail("returns rows without _partition and _offset; keep the ones it was given")
    known_partitions, known_offsets = positions(given)
    for partition in np.unique(partitions):
        mine, known = offsets[partitions == partition], known_offsets[known_partitions == partition]
        strange = ~np.isin(mine, known)
        if strange.any():
            raise _fail(
                f"returns {int(strange.sum())} rows with positions it was not given, first {int(partition)}:"
                f"{int(mine[strange][0])}; rows keep the _partition and _offset they come from"
            )
    order = np.lexsort((offsets, partitions))
    if (order[1:] > order[:-1]).all():
        return result
    return result.take(arrow.fixed(order.astype(np.int64), pa.int64()))


def positions(table: pa.Table) -> tuple[Any, Any]:
    """`_partition` and `_offset` as NumPy arrays, which must be free of nulls to be used."""
    partitions, offsets = (arrow.joined(table.column(name)).astype(np.int64) for name in POSITION)
    return partitions, offsets
