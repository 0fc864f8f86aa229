# ruff: noqa: S608 - the SQL below is made of names of this package's own tables and numbers
"""Numbers without gaps: what of each sequence the chain has delivered up to a batch, and what a batch adds to it.

The state up to a batch is the union of the tallies of all batches before it and of its own: a function of what was
landed, however it was cut into slices and batches. A state is published once beside the batch; `since` in its footer
is the instant from which the chain was unbroken when that was done. Its cost follows keys and gaps, not history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_eventlog.core import arrow, partfile
from airflow_provider_eventlog.core.completeness import chain, ranges, tally
from airflow_provider_eventlog.core.completeness.plan import CompletenessPlan
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RawExpiredError
from airflow_provider_eventlog.core.naming import visible
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.transforming import TransformResult
from airflow_provider_eventlog.declare.completeness import Sequence
from airflow_provider_eventlog.declare.pipeline import Pipeline

if TYPE_CHECKING:
    import duckdb

KIND = "sequences"
_NOWHERE = OffsetRange(0, 0, 0)
FIRST = 10


@dataclass(frozen=True, slots=True)
class State:
    """What the chain has delivered up to a batch, as rows `range` and `run` of a tally.

    since  the instant from which that is whole; None: from the beginning of the log
    """

    rows: pa.Table
    since: int | None


def states(
    engine: Engine, pipeline: Pipeline, batch: BatchPlan, plan: CompletenessPlan, counted: pa.Table
) -> tuple[State, State]:
    """The states before a chain batch and behind it; published for it and those before it where they do not stand.

    counted  the batch's own tally
    """

    def stands(one: BatchPlan) -> bool:
        return engine.staging.exists(_path(pipeline, one, plan))

    reach = chain.before(engine, pipeline, batch, stands)
    before = _begin(engine, pipeline, batch, plan, reach)
    for one in reach.batches:
        try:
            own = tally.batch_tally(engine, pipeline.name, one, engine.ledger.slices(one.batch_id), plan)
        except RawExpiredError:
            before = State(arrow.empty_table(tally.SCHEMA), one.to_instant)
            continue
        before = _publish(engine, pipeline, one, plan, State(compose(before.rows, own), before.since))
    return before, _publish(engine, pipeline, batch, plan, State(compose(before.rows, counted), before.since))


def _begin(engine: Engine, pipeline: Pipeline, batch: BatchPlan, plan: CompletenessPlan, reach: chain.Reach) -> State:
    if not reach.why and reach.since is not None:
        end = (reach.batches[0] if reach.batches else batch).from_instant
        for one, _ in engine.ledger.batches(batch.stream, batch.epoch):
            if one.kind == "chain" and one.to_instant == end:
                return read(engine, _path(pipeline, one, plan))
    return State(arrow.empty_table(tally.SCHEMA), reach.since)


def _path(pipeline: Pipeline, batch: BatchPlan, plan: CompletenessPlan) -> str:
    return paths.sequences(batch.stream, pipeline.name, batch.batch_id, plan.tally)


def read(engine: Engine, path: str) -> State:
    """A published state; raises StagingMissingError, StagingCorruptError."""
    rows = tally.read(engine, path)
    info = partfile.read_part_info(engine.staging.open(path))
    return State(rows, info.failures["basis"]["since"])


def _publish(engine: Engine, pipeline: Pipeline, batch: BatchPlan, plan: CompletenessPlan, made: State) -> State:
    path = _path(pipeline, batch, plan)

    def write(temporary: Path) -> None:
        result = TransformResult(made.rows, {}, {"basis": {"since": made.since}})
        partfile.write_part(temporary, result, kind=KIND, wanted=_NOWHERE, recipe=plan.tally)

    engine.staging.publish(path, write)
    # Another attempt may have seen more of the chain; the first one stands.
    return read(engine, path)


def compose(*parts: pa.Table) -> pa.Table:
    """The state of several tallies or states of different offsets of one epoch, in whatever order they are given."""
    with session(threads=1) as connection:
        connection.register("_parts", pa.concat_tables(parts))
        return _composed(connection)


def _composed(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    known = f"(SELECT name, key, low, high FROM _parts WHERE kind = '{tally.RANGE}')"
    found = connection.sql(
        f"""
        SELECT '{tally.RANGE}' AS kind, name, key, CAST(NULL AS INTEGER) AS partition,
               CAST(NULL AS BIGINT) AS position, low, high, CAST(0 AS BIGINT) AS rows, CAST(0 AS BIGINT) AS total
        FROM ({ranges.union(known)})
        UNION ALL
        SELECT '{tally.RUN}', name, key, partition, min(position), arg_min(low, position), arg_max(high, position),
               CAST(sum(rows) AS BIGINT), CAST(sum(total) + count(*) FILTER (WHERE low < before) AS BIGINT)
        FROM (SELECT *, lag(high) OVER (PARTITION BY name, key, partition ORDER BY position) AS before
              FROM _parts WHERE kind = '{tally.RUN}')
        GROUP BY name, key, partition
        ORDER BY kind, name, key, partition NULLS FIRST, low
        """
    )
    return found.to_arrow_table().cast(tally.SCHEMA)


def standing(connection: duckdb.DuckDBPyConnection, rule: Sequence, rows: pa.Table) -> dict[str, Any]:
    """What a state says of a sequence: keys, records, distinct numbers, missing ones, duplicates, regressions."""
    _show(connection, "_state", rule, rows)
    keys, numbers, missing = _row(
        connection,
        f"""SELECT (SELECT count(DISTINCT key) FROM _state), ({_size("_state")}),
                   ({_size(f"({ranges.gaps(_started(rule, '_state'))})")})""",
    )
    records, regressions = _runs(rows, rule)
    return {
        "keys": keys,
        "records": records,
        "numbers": numbers,
        "missing": missing,
        "duplicates": records - numbers,
        "regressions": regressions,
        "first": _first(connection, f"SELECT key, low, high FROM ({ranges.gaps(_started(rule, '_state'))})"),
    }


def added(
    connection: duckdb.DuckDBPyConnection, rule: Sequence, before: pa.Table, after: pa.Table, counted: pa.Table
) -> dict[str, Any]:
    """What a batch adds to a sequence.

    `new` numbers lie beyond those known before, `filled` ones were missing before, `missing` ones are missing since
    this batch; share = new / (new + missing). `first` names the first of those gaps.
    """
    _show(connection, "_before", rule, before)
    _show(connection, "_after", rule, after)
    known = f"({ranges.spans(_started(rule, '_before'))})"
    again = f"({ranges.within('_after', known)})"
    numbers, were, inside = _row(connection, f"SELECT ({_size('_after')}), ({_size('_before')}), ({_size(again)})")
    opened = f"""
        SELECT g.name, g.key, g.low, g.high FROM ({ranges.gaps(_started(rule, "_after"))}) g
        LEFT JOIN {known} k ON g.name = k.name AND g.key = k.key
        WHERE k.key IS NULL OR g.low > k.high OR g.high < k.low
    """
    (missing,) = _row(connection, f"SELECT ({_size(f'({opened})')})")
    records, _ = _runs(counted, rule)
    filled = inside - were
    new = numbers - were - filled
    return {
        "records": records,
        "new": new,
        "filled": filled,
        "missing": missing,
        "duplicates": records - (numbers - were),
        "regressions": _runs(after, rule)[1] - _runs(before, rule)[1],
        "unread": tally.unread(counted, rule.name),
        "share": new / (new + missing) if new + missing else 1.0,
        "first": _first(connection, opened),
    }


def _show(connection: duckdb.DuckDBPyConnection, view: str, rule: Sequence, rows: pa.Table) -> None:
    connection.register(f"{view}_rows", rows)
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT name, key, low, high FROM {view}_rows "
        f"WHERE kind = '{tally.RANGE}' AND name = '{rule.name}'"
    ).fetchall()


def _started(rule: Sequence, view: str) -> str:
    """The ranges, and where a first number is declared, one before it for each key: nothing below it is missed."""
    if rule.start is None:
        return view
    at = rule.start - 1
    return f"""(
        SELECT name, key, low, high FROM {view}
        UNION ALL SELECT name, key, {at}, {at} FROM {view} GROUP BY name, key HAVING min(low) > {at}
    )"""


def _size(view: str) -> str:
    return f"SELECT coalesce(sum(CAST(high AS HUGEINT) - low + 1), 0) FROM {view}"


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(int(value) for value in row)


def _runs(rows: pa.Table, rule: Sequence) -> tuple[int, int]:
    """Records and regressions of a sequence."""
    with session(threads=1) as connection:
        connection.register("_runs", rows)
        first, second = _row(
            connection,
            f"SELECT coalesce(sum(rows), 0), coalesce(sum(total), 0) FROM _runs "
            f"WHERE kind = '{tally.RUN}' AND name = '{rule.name}'",
        )
    return first, second


def _first(connection: duckdb.DuckDBPyConnection, gaps: str) -> list[dict[str, Any]]:
    found = connection.execute(f"SELECT key, low, high FROM ({gaps}) ORDER BY key, low LIMIT {FIRST}").fetchall()
    return [{"key": visible(key, 200), "low": int(low), "high": int(high)} for key, low, high in found]


def verdict(rule: Sequence, figures: Mapping[str, Any], *, proved: bool) -> dict[str, Any]:
    """The figures with what follows from them: complete, gaps or unproved, and whether that holds the batch."""
    short = float(figures["share"]) < rule.threshold
    said = "unproved" if not proved else "gaps" if short else "complete"
    return {
        **figures,
        "threshold": rule.threshold,
        "verdict": said,
        "holds": said == "gaps" and rule.on_fail == "fail",
    }
