"""Transforms: what SQL and Python may do, what is refused, and what the accounting says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_provider_eventlog.core import arrow, partfile, rawfile
from airflow_provider_eventlog.core.errors import (
    EventTimeError,
    ManifestVersionError,
    StagingCorruptError,
    TransformError,
)
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import StagedFile
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.transforming import TransformResult, analyze, transform_slice
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Raw, Rows, Stream
from tests.support.rawtables import damage, raw_file, raw_table

FIELDS = {"id": "BIGINT", "amount": "DECIMAL(12,2)", "items": "VARCHAR[]", "ts": "TIMESTAMPTZ"}


def pipeline(transform: Any = None, **changes: Any) -> Pipeline:
    """A pipeline over four fields."""
    given = {"decode": Json(FIELDS), "outputs": [Rows(DuckDB("x.duckdb", table="x"))], **changes}
    return Pipeline("p", stream=Stream("topic"), transform=transform, **given)


def payloads(count: int) -> list[bytes | None]:
    """Every fifth is a tombstone; item lists have 0 to 3 members."""
    return [
        json.dumps({"id": n, "amount": n / 4, "items": ["x"] * (n % 4), "ts": "2013-01-01T00:00:00Z"}).encode()
        if n % 5
        else None
        for n in range(count)
    ]


def rows(result: TransformResult) -> list[dict[str, Any]]:
    """The result's rows."""
    found: list[dict[str, Any]] = result.table.to_pylist()
    return found


def balanced(result: TransformResult) -> bool:
    """Whether the accounting's equations hold."""
    counts = result.counts
    return (
        counts["landed"] == counts["typed"] + counts["tombstones"] + counts["undecodable"]
        and counts["passed"] + counts["rejected"] == counts["typed"] - counts["filtered"] + counts["exploded"]
        and counts["passed"] == result.table.num_rows
    )


def test_no_transform_keeps_the_decoded_columns_and_positions() -> None:
    """Without a transform a row is its declared columns, `_partition`, `_offset` and `_row` 0."""
    result = transform_slice(pipeline(), raw_table(payloads(10), partition=2, start=100))
    assert result.table.schema.names == [*FIELDS, "_partition", "_offset", "_row"]
    assert [(r["id"], r["_partition"], r["_offset"], r["_row"]) for r in rows(result)] == [
        (n, 2, 100 + n, 0) for n in range(10) if n % 5
    ]
    nothing = dict.fromkeys(("undecodable", "filtered", "exploded", "rejected"), 0)
    assert result.counts == {"landed": 10, "tombstones": 2, "typed": 8, "passed": 8} | nothing
    assert result.stopped is None


def test_sql_filters_renames_and_explodes_in_offset_order() -> None:
    """Rows keep the offset they come from, copies are numbered from 0, and the equations hold."""
    result = transform_slice(
        pipeline("select id * 2 as twice, unnest(items) as item from batch b where b.id > 5"), raw_table(payloads(20))
    )
    expected = [(2 * n, n, copy) for n in range(6, 20) if n % 5 for copy in range(n % 4)]
    assert [(r["twice"], r["_offset"], r["_row"]) for r in rows(result)] == expected
    assert balanced(result)
    assert result.counts["filtered"] == len([n for n in range(20) if n % 5]) - len(
        {offset for _, offset, _ in expected}
    )


@pytest.mark.parametrize("sql", ["select * from batch", "from batch", "table batch", "select batch.* from batch"])
def test_star_means_the_declared_columns(sql: str) -> None:
    """`*` leaves the meta columns out; the positions are there once."""
    assert [name for name, _ in analyze(pipeline(sql)).columns] == list(FIELDS)


def test_meta_columns_may_be_selected() -> None:
    """Key, time and headers become columns where they are named; positions are not doubled."""
    plan = analyze(pipeline("select _key, _timestamp, _headers, _offset, _partition, id from batch"))
    assert [name for name, _ in plan.columns] == ["_key", "_timestamp", "_headers", "id"]
    assert plan.schema.names[-3:] == ["_partition", "_offset", "_row"]
    result = transform_slice(pipeline("select _key, _offset, id from batch"), raw_table(payloads(5)))
    assert [r["_key"] for r in rows(result)] == [b"k1", b"k2", b"k3", b"k4"]


REFUSED = [
    ("select ts from batch; select 1", "2 statements"),
    ("insert into batch values (1)", "not a SELECT"),
    ("copy batch to 'x.csv'", "not a SELECT"),
    ("pivot batch on id", "not a SELECT"),
    ("select ts from", "does not parse at character"),
    ("", "SQL text"),
    ("values (1)", "EXPRESSION_LIST"),
    ("describe batch", "SHOW_REF"),
    ("select 1", "does not read from batch"),
    ("select count(*) from batch", "aggregate"),
    ("select sum(id) from batch", r"sum\(\), an aggregate"),
    ("select max(id) filter (where true) from batch", "aggregate"),
    ("select wavg(id, id) from batch", "aggregate"),
    ("select distinct id from batch", "DISTINCT"),
    ("select distinct on (id) id from batch", "DISTINCT"),
    ("select id from batch group by id", "GROUP BY"),
    ("select id from batch group by all", "GROUP BY ALL"),
    ("select id from batch having id > 1", "HAVING"),
    ("select row_number() over () from batch", "window"),
    ("select lag(id) over (order by id) from batch", "window"),
    ("select id from batch order by id", "ORDER"),
    ("select id from batch limit 1", "LIMIT"),
    ("select id from batch offset 1", "LIMIT"),
    ("select id from batch limit 10%", "LIMIT"),
    ("select id from batch tablesample 10%", "sample"),
    ("select id from batch using sample 3 rows", "sample"),
    ("select id from batch qualify id > 1", "QUALIFY"),
    ("select id from batch union all select id from batch", "set operation"),
    ("select id from batch except select 1", "set operation"),
    ("with x as (select 1) select id from batch", "WITH"),
    ("with recursive x as (select 1) select id from batch", "WITH"),
    ("select batch.id from batch, batch b", "joins"),
    ("select id from batch join batch b using (id)", "joins"),
    ("select id from batch, unnest(items)", "joins"),
    ("select id from (select * from batch)", "subquery"),
    ("select (select 1) from batch", "subquery"),
    ("select id from batch where id in (select 1)", "subquery"),
    ("select id from batch where exists (from batch)", "subquery"),
    ("select id from other", "only table is batch"),
    ("select id from main.batch", "only table is batch"),
    ("select id from 'x.parquet'", "only table is batch"),
    ("select id from read_parquet('x.parquet')", "table function"),
    ("select id from read_text('/etc/hostname')", "table function"),
    ("select id from batch as b(a)", "column aliases"),
    ("select $1 from batch", "parameter"),
    ("select random() from batch", "random"),
    ("select list_transform(items, lambda x: random()) from batch", "random"),
    ("select now() from batch", "now"),
    ("select current_timestamp from batch", "current_timestamp"),
    ("select CURRENT_DATE from batch", "current_date"),
    ("select localtimestamp from batch", "localtimestamp"),
    ("select today() from batch", "today"),
    ("select age(ts) from batch", "age"),
    ("select ago(interval 1 day) from batch", "ago"),
    ("select uuid() from batch", "uuid"),
    ("select gen_random_uuid() from batch", "gen_random_uuid"),
    ("select nextval('s') from batch", "nextval"),
    ("select getvariable('x') from batch", "getvariable"),
    ("select current_setting('threads') from batch", "current_setting"),
    ("select version() from batch", "version"),
    ("select user from batch", "user"),
    ("select pg_sleep(1) from batch", "pg_sleep"),
    ("select write_log('x') from batch", "write_log"),
    ("select getenv('HOME') from batch", "getenv"),
    ("select read_text('/etc/hostname') from batch", "read_text"),
    ("select nope from batch", "'nope|nope.*columns are 'id', 'amount'"),
    ("select id + ts from batch", "cannot run"),
    ("select id as _x from batch", "start with '_'"),
    ("select id as _batch_id from batch", "start with '_'"),
    ("select id as _offset from batch", "start with '_'"),
    ("select 1 as _key from batch", "start with '_'"),
    ("select * rename (id as _row) from batch", "start with '_'"),
    ("select columns('_.*') from batch", "start with '_'"),
    ("select id, id from batch", "twice"),
    ("select id, amount as ID from batch", "twice"),
    ("select _partition, _offset from batch", "no column"),
    ("select null as n from batch", "cannot be stored"),
    ("select id::hugeint as n from batch", "cannot be stored"),
    ("select interval 1 day as n from batch", "cannot be stored"),
]


@pytest.mark.parametrize(("sql", "said"), REFUSED)
def test_sql_that_looks_beyond_its_row_is_refused_at_plan_time(sql: str, said: str) -> None:
    """Each is refused without data, by an error that names the part."""
    from airflow_provider_eventlog.core.errors import DeclarationError

    with pytest.raises((TransformError, DeclarationError), match=said):
        analyze(pipeline(sql))


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("select list_sum([1.5, 2.5])::double as v from batch", "DOUBLE"),
        ("select list_transform(items, lambda x: upper(x)) as v from batch", "VARCHAR[]"),
        ("select case when id > 1 then 'a' else 'b' end as v from batch", "VARCHAR"),
        ("select date_trunc('minute', ts) as v from batch", "TIMESTAMPTZ"),
        ("select age(ts, ts) > interval 1 day as v from batch", "BOOLEAN"),
        ("select split_part('a b', ' ', 1) as v from batch", "VARCHAR"),
        ("select {'a': id, 'b': [amount]} as v from batch", "STRUCT(a BIGINT, b DECIMAL(12,2)[])"),
        ("select try_cast(items[1] as date) as v from batch", "DATE"),
        ("select md5(items[1]) as v from batch where id between 1 and 2 or id is null", "VARCHAR"),
    ],
)
def test_row_wise_sql_is_allowed(sql: str, kind: str) -> None:
    """Functions of one row pass, macros and lambdas among them, and tell their type."""
    assert analyze(pipeline(sql)).columns == (("v", kind),)


def test_a_value_that_fails_in_sql_is_a_transform_error() -> None:
    """A cast that fails on data names the way out."""
    with pytest.raises(TransformError, match="try_cast"):
        transform_slice(pipeline("select cast(items[1] as int) as v from batch"), raw_table(payloads(5)))


def test_a_record_dated_beyond_all_years_fails_nothing() -> None:
    """A producer's timestamp that no engine can hold is NULL to a transform; its neighbours keep theirs."""
    raw = raw_table([json.dumps({"id": n}).encode() for n in range(4)])
    times = np.array([1000, 2**62, -(2**62), 253_402_300_799_999], np.int64)
    at = raw.schema.get_field_index("timestamp")
    raw = raw.set_column(at, raw.schema.field(at), arrow.fixed(times, pa.timestamp("ms", "UTC")))
    result = transform_slice(pipeline("select id, _timestamp, epoch_ms(_timestamp) as ms from batch"), raw)
    assert result.table.column("ms").to_pylist() == [1000, None, None, 253_402_300_799_999]
    assert result.counts["passed"] == 4


def test_event_time_must_exist_and_be_a_timestamp() -> None:
    """The column is looked for in the result, and its type is checked, both before any data."""
    assert analyze(pipeline("select id, ts as at from batch", event_time="at")).columns[1] == ("at", "TIMESTAMPTZ")
    with pytest.raises(EventTimeError, match="not a column of its result; the columns are 'id'"):
        analyze(pipeline("select id from batch", event_time="ts"))
    with pytest.raises(EventTimeError, match="is a VARCHAR"):
        analyze(pipeline("select 'x' as ts from batch", event_time="ts"))
    with pytest.raises(EventTimeError, match="'ts'"):
        analyze(pipeline(decode=Raw(), event_time="ts"))


def test_the_result_does_not_depend_on_pieces_or_threads(tmp_path: Path) -> None:
    """A slice gives the same table whole, through its file, and cut into several tables."""
    values = payloads(40_000)
    wanted = pipeline("select id, unnest(items) as item from batch where id % 3 > 0")
    whole = transform_slice(wanted, raw_table(values))
    assert transform_slice(wanted, raw_file(tmp_path / "raw.parquet", values)).table.equals(whole.table)
    halves = [
        transform_slice(wanted, raw_table(values[:777])),
        transform_slice(wanted, raw_table(values[777:], start=777)),
    ]
    assert pa.concat_tables([half.table for half in halves]).equals(whole.table)
    assert {k: sum(h.counts[k] for h in halves) for k in whole.counts} == whole.counts
    assert balanced(whole)


def test_payloads_that_do_not_decode_are_left_out() -> None:
    """Bad payloads among good ones are counted and stopped; the others are as they would be without them."""
    values = [*payloads(4), b"nonsense", *payloads(7)[5:]]
    result = transform_slice(pipeline("select id from batch"), raw_table(values))
    good = transform_slice(pipeline("select id from batch"), raw_table(payloads(7)))
    assert rows(result) == [r for r in rows(good) if r["_offset"] != 4]
    assert (result.counts["undecodable"], balanced(result)) == (1, True)
    assert result.stopped is not None
    assert result.stopped.codes == {"not_json": 1}


def test_a_python_transform_gets_and_gives_arrow() -> None:
    """It sees declared and meta columns; its rows are ordered by position, undeclared given columns are left out."""
    seen: list[list[str]] = []

    def turned(table: pa.Table) -> pa.Table:
        seen.append(table.schema.names)
        return table.filter(pc.greater(table["id"], 3)).take(pa.array([1, 0]))

    result = transform_slice(pipeline(turned, schema={"id": "INTEGER"}), raw_table(payloads(9)))
    assert seen == [[*FIELDS, "_key", "_timestamp", "_headers", "_partition", "_offset"]]
    assert rows(result) == [
        {"id": 4, "_partition": 0, "_offset": 4, "_row": 0},
        {"id": 6, "_partition": 0, "_offset": 6, "_row": 0},
    ]
    assert balanced(result)


def test_a_python_transform_may_explode() -> None:
    """Copies of a row keep its position and the order in which they were returned."""

    def doubled(table: pa.Table) -> pa.Table:
        return pa.concat_tables([table, table])

    result = transform_slice(pipeline(doubled, schema={"id": "BIGINT"}), raw_table(payloads(4)))
    assert [(r["id"], r["_row"]) for r in rows(result)] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert balanced(result)


def test_a_python_transform_gets_and_gives_pandas_exactly() -> None:
    """Integers with nulls beyond 2**53 and decimals survive the way through a DataFrame."""
    big = 2**53 + 1
    values: list[bytes | None] = [b'{"id": %d, "amount": 1.25}' % big, b"{}"]

    def through(frame: Any) -> Any:
        frame["amount"] = frame["amount"] * 2
        return frame

    result = transform_slice(
        pipeline(through, schema={"id": "BIGINT", "amount": "DECIMAL(20,4)"}, frame="pandas"), raw_table(values)
    )
    assert [(r["id"], str(r["amount"])) for r in rows(result)] == [(big, "2.5000"), (None, "None")]


def _raises(table: pa.Table) -> pa.Table:
    raise KeyError("lost")


BAD_PYTHON = [
    (_raises, {"id": "BIGINT"}, "KeyError: .*lost"),
    (lambda table: 5, {"id": "BIGINT"}, "returns int"),
    (lambda table: table.select(["id"]), {"id": "BIGINT"}, "does not return '_partition', '_offset'"),
    (lambda table: table, {"nope": "BIGINT"}, "does not return 'nope'"),
    (lambda table: table.append_column("more", table["id"]), {"id": "BIGINT"}, "'more'"),
    (lambda table: table, {"amount": "BIGINT"}, "decimal128.* does not become int64"),
    (lambda table: table, {"id": "VARCHAR"}, "does not become string"),
    (lambda table: table.set_column(0, "id", pc.add(table["id"], 300)), {"id": "UTINYINT"}, "does not fit uint8"),
    (
        lambda table: table.set_column(
            table.schema.get_field_index("_offset"), "_offset", pc.add(table["_offset"], 100)
        ),
        {"id": "BIGINT"},
        "positions it was not given, first 0:101",
    ),
    (
        lambda table: table.set_column(
            table.schema.get_field_index("_offset"), "_offset", pa.nulls(len(table), pa.int64())
        ),
        {"id": "BIGINT"},
        "without _partition and _offset",
    ),
]


@pytest.mark.parametrize(("function", "schema", "said"), BAD_PYTHON)
def test_a_python_transform_is_held_to_its_schema(function: Any, schema: dict[str, str], said: str) -> None:
    """Other types, other columns, values that do not fit and invented positions are refused."""

    def transform(table: pa.Table) -> pa.Table:
        return function(table)

    with pytest.raises(TransformError, match=said):
        transform_slice(pipeline(transform, schema=schema), raw_table(payloads(5)))


def test_the_session_is_shut_off() -> None:
    """Inside the session files, settings, extensions and Python variables are out of reach."""
    import duckdb

    leaked = pa.table({"a": [1]})
    with session() as connection:
        for sql in (
            "select * from read_csv('/etc/passwd')",
            "copy (select 1) to '/tmp/eventlog-leak.csv'",
            "attach '/tmp/eventlog-leak.duckdb' as leak",
            "install spatial",
            "load spatial",
            "set threads = 1",
            "set enable_external_access = true",
            "select * from leaked",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql).fetchall()
        assert connection.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]
    assert leaked.num_rows == 1


def test_small_batches_never_load_pandas() -> None:
    """Decoding, SQL, checks and the part file leave pandas out of the process."""
    code = """
import sys
from pathlib import Path
from tests.support.rawtables import raw_file
from tests.unit.test_transforming import payloads, pipeline
from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.transforming import transform_slice
from airflow_provider_eventlog.declare import Check
for name in [n for n in sys.modules if n.split(".")[0] == "pandas"]:
    raise SystemExit(f"{name} was loaded by imports")
raw = raw_file(Path(sys.argv[1]) / "raw", payloads(100))
result = transform_slice(pipeline("select * from batch where id > 1", checks=[Check("c", "id < 50")]), raw)
assert result.failures["c"]["rows"] == 40, result.failures
partfile.write_part(Path(sys.argv[1]) / "part", result, kind="typed", wanted=OffsetRange(0, 0, 100), recipe="r")
sys.exit("pandas" in sys.modules)
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, folder],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    assert done.returncode == 0, done.stderr


def test_part_files_are_repeatable_and_carry_their_accounting(tmp_path: Path) -> None:
    """The same rows give the same bytes; the footer tells what a later attempt needs; rows read back equal."""
    result = transform_slice(
        pipeline("select id, items, _headers from batch", checks=[Check("even", "id % 2 = 0")]), raw_table(payloads(50))
    )
    wanted = OffsetRange(0, 0, 50)
    paths = [tmp_path / name for name in ("a", "b")]
    infos = [partfile.write_part(p, result, kind="typed", wanted=wanted, recipe="r") for p in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert infos[0] == partfile.read_part_info(paths[1])
    record = partfile.read_part(paths[0], StagedFile("p", 1, "s"))
    assert (record.range, record.counts, record.failures) == (wanted, result.counts, result.failures)
    assert record.failures["even"] == {"rows": 20, "first": ["0:1", "0:3", "0:7", "0:9", "0:11"]}
    assert partfile.read_table(paths[0]).equals(result.table)
    assert pa.Table.from_batches(partfile.iter_batches(paths, result.table.schema)).num_rows == 80


def test_damaged_parts_are_not_read(tmp_path: Path) -> None:
    """A flipped bit in a page, a cut file and a newer format are errors of their own."""
    result = transform_slice(pipeline(), raw_table(payloads(50)))
    path = tmp_path / "part"
    partfile.write_part(path, result, kind="typed", wanted=OffsetRange(0, 0, 50), recipe="r")
    whole = damage(path)
    with pytest.raises(StagingCorruptError):
        partfile.read_table(path)
    with pytest.raises(StagingCorruptError):
        list(partfile.iter_batches([path], result.table.schema))
    path.write_bytes(whole[:-10])
    with pytest.raises(StagingCorruptError):
        partfile.read_part_info(path)
    path.write_bytes(whole)
    with pytest.raises(StagingCorruptError, match="columns"):
        list(partfile.iter_batches([path], result.table.schema.remove(0)))
    newer = partfile.FORMAT + 1
    path.write_bytes(whole.replace(b'"format":1', f'"format":{newer}'.encode()))
    with pytest.raises(ManifestVersionError):
        partfile.read_part_info(path)


def test_a_damaged_raw_file_is_not_decoded(tmp_path: Path) -> None:
    """No byte of a raw file is used whose checksum does not hold."""
    path = raw_file(tmp_path / "raw", payloads(50))
    assert rawfile.read_info(path).rows == 50
    damage(path)
    with pytest.raises(StagingCorruptError):
        transform_slice(pipeline(), path)
