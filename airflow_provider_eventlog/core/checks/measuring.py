# ruff: noqa: S608 - the SQL below is made of quoted names and of expressions that were parsed
"""Verdicts of a batch's rules over its typed parts.

A function of the rows alone: they are read in order by one thread, so that even a sum of floats is the same whenever
and wherever the batch is validated again. All rules without a partition_clause, and all with the same one, are
measured in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.arrow import empty_table
from airflow_provider_eventlog.core.checks.compiling import Compiled, compile_rules
from airflow_provider_eventlog.core.errors import CheckDefinitionError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.session import session, typed_view
from airflow_provider_eventlog.core.sqltree import EngineError
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.declare.batch_checks import Bound, Rule, instant

if TYPE_CHECKING:
    import duckdb

    from airflow_provider_eventlog.declare.pipeline import Pipeline

MEASURED = "measured"
_ROWS, _SOURCE = "_rows", "_parts"
_LONGEST = 200


def check_rules(pipeline: Pipeline) -> None:
    """Check the SQL of a pipeline's batch checks without data; raises CheckDefinitionError."""
    if pipeline.batch_checks:
        with session(threads=1) as connection:
            _compile(connection, pipeline, partfile.part_schema(pipeline))


def measured(
    pipeline: Pipeline, figures: Mapping[str, Any], parts: Sequence[Path], schema: pa.Schema | None = None
) -> dict[str, Any]:
    """A generation's accounting with its batch checks added; as it is where the pipeline declares none.

    parts   its typed parts in order, bytes verified
    schema  theirs; None for the one that the pipeline's recipe gives

    `measured` has every check's result, `checks` the broken ones, as `gate.broken_checks` has row checks, but with
    `rows` None and the `result`. Raises CheckDefinitionError for a statement that fails on a value,
    StagingCorruptError.
    """
    if not pipeline.batch_checks:
        return dict(figures)
    schema = partfile.part_schema(pipeline) if schema is None else schema
    results: dict[str, Any] = {}
    with session(threads=1) as connection:
        compiled = _compile(connection, pipeline, schema)
        for where in dict.fromkeys(one.where for one in compiled):
            together = [one for one in compiled if one.where == where]
            results |= _results(connection, together, parts, schema)
    broken = {one.rule.name: _broken(one.rule, results[one.rule.name]) for one in compiled}
    checks = {**figures.get("checks", {}), **{name: told for name, told in broken.items() if told is not None}}
    told = {one.rule.name: _to_json(results[one.rule.name]) for one in compiled}
    return {**figures, MEASURED: told, **({"checks": checks} if checks else {})}


def _compile(connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, schema: pa.Schema) -> tuple[Compiled, ...]:
    columns = {f.name: (f.metadata or {}).get(TYPE_KEY, b"").decode() for f in schema}
    connection.register(_SOURCE, empty_table(schema))
    typed_view(connection, _ROWS, _SOURCE, columns)
    return compile_rules(connection, pipeline.batch_checks, _ROWS, columns)


def _results(
    connection: duckdb.DuckDBPyConnection, compiled: Sequence[Compiled], parts: Sequence[Path], schema: pa.Schema
) -> dict[str, Any]:
    where = f" WHERE {compiled[0].where}" if compiled[0].where else ""
    names = [one.rule.name for one in compiled]
    # A reader gives its rows once.
    connection.register(_SOURCE, pa.RecordBatchReader.from_batches(schema, partfile.iter_batches(parts, schema)))
    try:
        row = connection.execute(f"SELECT {', '.join(c.value for c in compiled)} FROM {_ROWS}{where}").fetchall()[0]
    except EngineError() as error:
        raise CheckDefinitionError(
            f"A check of the batch failed on its rows ({printable(str(error), 300)}); use try_cast or try(...) where "
            f"values vary. Checks: {', '.join(names)}."
        ) from error
    finally:
        connection.unregister(_SOURCE)
    return dict(zip(names, row, strict=True))


def _broken(rule: Rule, result: Any) -> dict[str, Any] | None:
    if holds(rule, result):
        return None
    return {
        "rows": None,
        "result": _to_json(result),
        "expression": rule.expression,
        "on_fail": rule.on_fail,
        "tolerated": None,
        "holds": rule.on_fail == "fail",
        "first": [],
    }


def holds(rule: Rule, result: Any) -> bool:
    """Whether a result is within its rule's bounds, a table check's is 1; NULL by `accept_none`."""
    if rule.bounds is None:
        return rule.accept_none if result is None else bool(result)
    bounds = {word: instant(value) for word, value in rule.bounds.items()}
    if result is None:
        if not rule.accept_none:
            return False
        if any(isinstance(value, (str, datetime)) for value in bounds.values()):
            return True
        result = 0
    return all(_within(word, result, value, rule.tolerance) for word, value in bounds.items())


def _within(word: str, result: Any, bound: Bound, share: float | None) -> bool:
    # Widened outwards, below zero as well.
    by: Any = 0 if share is None or not isinstance(bound, (int, float)) else abs(bound) * share
    low: Any = bound if not by else bound - by
    high: Any = bound if not by else bound + by
    found = {
        "equal_to": lambda: low <= result <= high,
        "greater_than": lambda: result > low,
        "geq_to": lambda: result >= low,
        "less_than": lambda: result < high,
        "leq_to": lambda: result <= high,
    }
    return bool(found[word]())


def _to_json(result: Any) -> Any:
    if result is None or isinstance(result, (bool, int)):
        return result
    if isinstance(result, float):
        return result if math.isfinite(result) else str(result)
    if isinstance(result, Decimal):
        return str(result)
    return result.isoformat() if isinstance(result, datetime) else printable(str(result), _LONGEST)
