# ruff: noqa: S608 - the SQL below is made of quoted names and numbers
"""The tally of a landed slice: what was delivered, counted once, in few rows, whatever the batch and the verdict.

A tally is a function of the slice's raw bytes and of the rules' columns alone, so that every attempt, generation and
threshold shares it. Its rows, by `kind`:

    count   records of one producer (`key`; NULL where a rule knows none) in [low, high), ms since 1970: `rows` of them,
            `total` the sum of the checksum column modulo 2**64
    range   numbers low to high, both included, of one sequence and key: all of them are there
    run     records of one sequence and key in offset order: `low` the first number, `high` the last one, `rows` of
            them, `total` times a number was smaller than the one before
    unread  `rows` records that a rule (`name`) could not count: no value, a column that does not fit, none of a time

`key` of a sequence is the JSON list of its columns as text; `position` is the offset of a run's first record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow, partfile, rawfile, retention
from airflow_provider_eventlog.core.completeness import ranges
from airflow_provider_eventlog.core.completeness.plan import KEY, CompletenessPlan
from airflow_provider_eventlog.core.decoding import Decoder
from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.naming import quote
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import SliceRecord
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.transforming import TransformResult
from airflow_provider_eventlog.declare.completeness import ProducerCounts, Sequence
from airflow_provider_eventlog.declare.decode import Json

if TYPE_CHECKING:
    import duckdb

KIND = "tally"
COUNT, RANGE, RUN, UNREAD = "count", "range", "run", "unread"
SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("name", pa.string()),
        pa.field("key", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("position", pa.int64()),
        pa.field("low", pa.int64()),
        pa.field("high", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("total", pa.int64()),
    ]
)
# The years 1 to 9999 in milliseconds since 1970: a record dated beyond has no interval.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
_WORD = 2**64
# A sum modulo 2**64, as the signed number of 64 bits that a column can hold.
_SIGNED = f"""
    CAST(CASE WHEN m >= {_WORD // 2} THEN m - {_WORD} ELSE m END AS BIGINT)
"""
MODULO = "(({0}) % 18446744073709551616 + 18446744073709551616) % 18446744073709551616"


def batch_tally(
    engine: Engine, pipeline: str, batch: BatchPlan, slices: tuple[SliceRecord, ...], plan: CompletenessPlan
) -> pa.Table:
    """The tallies of all slices of a landed batch, in SCHEMA; published where they do not stand yet.

    Raises the staging errors, RawExpiredError where a slice was never counted and its raw file is gone.
    """
    tables = [arrow.empty_table(SCHEMA)]
    for index, record in enumerate(slices):
        engine.check_cancelled()
        tables.append(slice_tally(engine, pipeline, batch, record, plan))
        engine.progress("counted slices", index + 1, len(slices))
    return pa.concat_tables(tables)


def slice_tally(
    engine: Engine, pipeline: str, batch: BatchPlan, record: SliceRecord, plan: CompletenessPlan
) -> pa.Table:
    """The tally of one landed slice, published where it does not stand yet; raises as `batch_tally` does."""
    path = paths.tally(batch.stream, pipeline, batch.batch_id, plan.tally, record.range)
    if not engine.staging.exists(path):

        def write(temporary: Path) -> None:
            raw = retention.open_raw(engine, batch.stream, batch.batch_id, record)
            result = TransformResult(count_slice(plan, raw, record.range.partition), {})
            partfile.write_part(temporary, result, kind=KIND, wanted=record.range, recipe=plan.tally)

        engine.staging.publish(path, write)
    return read(engine, path)


def read(engine: Engine, path: str) -> pa.Table:
    """The rows of a published tally, compared with its digest; raises StagingCorruptError, StagingMissingError."""
    local = engine.staging.open(path)
    info = partfile.read_part_info(local)
    table = partfile.read_table(local)
    if table_digest(table) != info.digest:
        raise StagingCorruptError(
            f"The rows of {path} are not the ones that were counted; remove it, it is made again from the raw file."
        )
    return table


def count_slice(plan: CompletenessPlan, raw: Path | pa.Table, partition: int) -> pa.Table:
    """The tally of one slice of a partition; of a raw file, or of raw rows in offset order."""
    parts = [arrow.empty_table(SCHEMA)]
    numbered: dict[str, list[pa.Table]] = {rule.name: [] for rule in plan.sequences}
    # One thread: the order of rows tells the runs.
    with session(threads=1) as connection:
        decoder = Decoder(Json(plan.fields), connection) if plan.fields else None
        for piece in _pieces(raw):
            rows = _rows(decoder, piece)
            connection.register("_delivered", rows)
            lost = piece.num_rows - rows.num_rows
            parts += [_counts(connection, rule, plan.event_time, lost) for rule in plan.counts]
            for one in plan.sequences:
                parts.append(_unnumbered(connection, one, lost))
                numbered[one.name].append(_numbers(connection, one))
        for one in plan.sequences:
            if numbered[one.name]:
                parts += _ranges(connection, one, pa.concat_tables(numbered[one.name]))
        connection.register("_parts", pa.concat_tables([p.cast(SCHEMA) for p in parts]))
        return (
            connection.sql(
                f"""
            SELECT kind, name, key, CAST({partition} AS INTEGER) AS partition, position,
                   low, high, rows, {_SIGNED} AS total
            FROM (SELECT kind, name, key, position, low, high, CAST(sum(rows) AS BIGINT) AS rows,
                         {MODULO.format("sum(CAST(total AS HUGEINT))")} AS m
                  FROM _parts GROUP BY ALL)
            WHERE kind <> '{UNREAD}' OR rows > 0
            ORDER BY kind, name, key NULLS FIRST, low, high
            """
            )
            .to_arrow_table()
            .cast(SCHEMA)
        )


def _pieces(raw: Path | pa.Table) -> Iterator[pa.Table]:
    if isinstance(raw, Path):
        for batch in rawfile.iter_batches(raw):
            yield pa.Table.from_batches([batch])
    else:
        yield raw


def _rows(decoder: Decoder | None, raw: pa.Table) -> pa.Table:
    """The wanted columns of the records that have them, with `_key`, `_at` (ms) and `_position`."""
    if decoder is None:
        columns, meta = {}, [raw.column(name) for name in ("key", "timestamp", "offset")]
    else:
        typed = decoder.decode(raw)
        columns = {n: typed.column(n) for n in typed.column_names if not n.startswith("_")}
        meta = [typed.column(name) for name in ("_key", "_timestamp", "_offset")]
    columns |= {KEY: meta[0], "_at": meta[1].cast(pa.int64()), "_position": meta[2]}
    return pa.table(columns)


def _counts(connection: duckdb.DuckDBPyConnection, rule: ProducerCounts, event_time: str | None, lost: int) -> pa.Table:
    at = "_at"
    if rule.time == "event":
        assert event_time is not None
        at = f"CASE WHEN isfinite({quote(event_time)}) THEN epoch_ms({quote(event_time)}) END"
    key = "CAST(NULL AS VARCHAR)" if rule.producer is None else _text(rule.producer)
    checksum = "0" if rule.checksum is None else f"coalesce({quote(rule.checksum)}, 0)"
    readable = f"(moment BETWEEN {_FIRST_MS} AND {_LAST_MS}) IS TRUE"
    if rule.producer is not None:
        readable += " AND key IS NOT NULL"
    every = rule.every_ms
    # The remainder of a negative number is negative here, and positive once the length is added.
    low = f"moment - ((moment % {every}) + {every}) % {every}"
    found = connection.sql(
        f"""
        SELECT CASE WHEN ok THEN '{COUNT}' ELSE '{UNREAD}' END AS kind, CASE WHEN ok THEN key END AS key,
               CASE WHEN ok THEN {low} END AS low, CASE WHEN ok THEN {low} + {every} END AS high,
               count(*) AS rows, {MODULO.format("sum(CASE WHEN ok THEN CAST(checksum AS HUGEINT) ELSE 0 END)")} AS m
        FROM (SELECT *, {readable} AS ok
              FROM (SELECT {at} AS moment, {key} AS key, {checksum} AS checksum FROM _delivered))
        GROUP BY ALL
        UNION ALL SELECT '{UNREAD}', NULL, NULL, NULL, {lost}, 0
        """
    )
    shown = (
        f"kind, '{rule.name}' AS name, key, NULL AS partition, NULL AS position, low, high, rows, {_SIGNED} AS total"
    )
    return found.project(shown).to_arrow_table().cast(SCHEMA)


def _text(column: str) -> str:
    """SQL of a key column as text; NULL where its bytes are none."""
    return f"TRY(decode({quote(column)}))" if column == KEY else f"CAST({quote(column)} AS VARCHAR)"


def _unnumbered(connection: duckdb.DuckDBPyConnection, rule: Sequence, lost: int) -> pa.Table:
    return (
        connection.sql(
            f"""
        SELECT '{UNREAD}' AS kind, '{rule.name}' AS name, CAST(NULL AS VARCHAR) AS key, NULL AS partition,
               NULL AS position, NULL AS low, NULL AS high, count(*) + {lost} AS rows, 0 AS total
        FROM _delivered WHERE {quote(rule.column)} IS NULL
        """
        )
        .to_arrow_table()
        .cast(SCHEMA)
    )


def _numbers(connection: duckdb.DuckDBPyConnection, rule: Sequence) -> pa.Table:
    key = f"CAST(to_json([{', '.join(map(_text, rule.by)) or 'NULL'}]) AS VARCHAR)" if rule.by else "'[]'"
    return connection.sql(
        f"""
        SELECT {key} AS key, CAST({quote(rule.column)} AS BIGINT) AS number, _position
        FROM _delivered WHERE {quote(rule.column)} IS NOT NULL
        """
    ).to_arrow_table()


def _ranges(connection: duckdb.DuckDBPyConnection, rule: Sequence, numbers: pa.Table) -> list[pa.Table]:
    connection.register("_numbers", numbers)
    islands = connection.sql(
        f"""
        SELECT '{RANGE}' AS kind, '{rule.name}' AS name, key, NULL AS partition, NULL AS position, low, high,
               0 AS rows, 0 AS total
        FROM ({ranges.islands("_numbers")})
        """
    ).to_arrow_table()
    runs = connection.sql(
        f"""
        SELECT '{RUN}' AS kind, '{rule.name}' AS name, key, NULL AS partition, min(_position) AS position,
               arg_min(number, _position) AS low,
               arg_max(number, _position) AS high, count(*) AS rows,
               count(*) FILTER (WHERE number < before) AS total
        FROM (SELECT *, lag(number) OVER (PARTITION BY key ORDER BY _position) AS before FROM _numbers)
        GROUP BY key
        """
    ).to_arrow_table()
    return [islands.cast(SCHEMA), runs.cast(SCHEMA)]


def chosen(counted: pa.Table, kind: str, name: str) -> pa.Table:
    """The rows of a kind and rule."""
    kinds, names = counted.column("kind").to_pylist(), counted.column("name").to_pylist()
    mask = np.fromiter((k == kind and n == name for k, n in zip(kinds, names, strict=True)), np.bool_, len(kinds))
    return counted.filter(arrow.flags(mask))


def unread(counted: pa.Table, name: str) -> int:
    """How many records a rule could not count."""
    return sum(chosen(counted, UNREAD, name).column("rows").to_pylist())


def signed(value: int) -> int:
    """A number modulo 2**64 as a tally has it: with a sign."""
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def unsigned(value: int) -> int:
    """The same as people and producers write it."""
    return value % _WORD


def epoch_floor(at: int, every: int) -> int:
    """The start of the interval that an instant lies in."""
    return int(np.floor_divide(at, every)) * every
