"""Declarations: clear errors, values that are equal where they say the same, and recipes that are stable."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.declare import Check, DuckDB, FromGroup, Json, Pipeline, Raw, Rows, Stream
from airflow_provider_eventlog.declare.decode import canonical_type
from airflow_provider_eventlog.declare.duration import milliseconds

ROOT = Path(__file__).parents[2]
OUT = [Rows(DuckDB("x.duckdb", table="x"))]


def pipeline(**changes: Any) -> Pipeline:
    """A pipeline with some arguments changed."""
    return Pipeline("p", **{"stream": Stream("t"), "outputs": OUT, **changes})


def identity(table: Any) -> Any:
    """A transform."""
    return table


BAD = [
    (lambda: Stream(""), "topic name"),
    (lambda: Stream("a/b"), "topic name"),
    (lambda: Stream(".."), "topic name"),
    (lambda: Stream("x" * 250), "topic name"),
    (lambda: Stream("t", name="-x"), "stream name"),
    (lambda: Stream("t", start="soon"), "start='soon'"),
    (lambda: Stream("t", start="2013-01-01T00:00:00"), "a time with a zone"),
    (lambda: Stream("t", start=dt.datetime(2013, 1, 1)), "a time with a zone"),
    (lambda: Stream("t", start={}), "start="),
    (lambda: Stream("t", start={0: -1}), "start="),
    (lambda: Stream("t", start={True: 1}), "start="),
    (lambda: Stream("t", max_batch_offsets=0), "max_batch_offsets=0"),
    (lambda: Stream("t", max_slice_offsets=True), "max_slice_offsets=True"),
    (lambda: Stream("t", max_future_skew="1 fortnight"), "max_future_skew='1 fortnight'"),
    (lambda: Stream("t", decode="json"), r"decode must be Json\(\.\.\.\) or Raw\(\)"),
    (lambda: FromGroup(""), "consumer group"),
    (lambda: Json({}), "at least one column"),
    (lambda: Json([("a", "BIGINT")]), "at least one column"),
    (lambda: Json({"a": "NUMBER"}), "column type 'NUMBER'"),
    (lambda: Json({"a": "DECIMAL(39,2)"}), "column type"),
    (lambda: Json({"a": "DECIMAL(2,3)"}), "column type"),
    (lambda: Json({"a": "BIGINT" + "[]" * 9}), "column type"),
    (lambda: Json({"a": "BIGINT); DROP TABLE x"}), "column type"),
    (lambda: Json({"a": 5}), "column type 5"),
    (lambda: Json({"": "BIGINT"}), "column name ''"),
    (lambda: Json({"a\0b": "BIGINT"}), "column name"),
    (lambda: Json({"_x": "BIGINT"}), "starts with '_'"),
    (lambda: Json({"a": "BIGINT", "A": "BIGINT"}), "twice"),
    (lambda: Check("a b", "true"), "check name"),
    (lambda: Check("a", " "), "SQL expression"),
    (lambda: Check("a", "true", on_fail="ignore"), "on_fail='ignore'"),
    (lambda: Check("a", "true", on_fail="warn", tolerance=1), "tolerance has no meaning"),
    (lambda: Check("a", "true", tolerance=1.5), "tolerance=1.5"),
    (lambda: Check("a", "true", tolerance=-1), "tolerance=-1"),
    (lambda: Check("a", "true", tolerance=True), "tolerance=True"),
    (lambda: DuckDB("", table="t"), "path=''"),
    (lambda: DuckDB(":memory:", table="t"), "local file"),
    (lambda: DuckDB("s3://b/x.duckdb", table="t"), "local file"),
    (lambda: DuckDB("x", table=""), "column name"),
    (lambda: DuckDB("x", table="_EventLog_load"), "own tables"),
    (lambda: Rows("x.duckdb"), "target='x.duckdb'"),
    (lambda: Rows(DuckDB("x", table="t"), name="a b"), "output name"),
    (lambda: Pipeline("a b", stream=Stream("t"), outputs=OUT), "pipeline name"),
    (lambda: pipeline(stream="t"), "must be a Stream"),
    (lambda: pipeline(outputs=[]), "at least one output"),
    (lambda: pipeline(outputs=OUT[0]), "must be a list of Rows"),
    (lambda: pipeline(outputs=OUT + OUT), "'x' twice"),
    (lambda: pipeline(outputs=[*OUT, Rows(DuckDB("x.duckdb", table="X"), name="y")]), "same table"),
    (lambda: pipeline(checks=[Check("a", "true"), Check("a", "true")]), "'a' twice"),
    (lambda: pipeline(checks=["amount > 0"]), "must be a list of Check"),
    (lambda: pipeline(transform=" "), "SQL text or a function"),
    (lambda: pipeline(transform=5), "SQL text or a function"),
    (lambda: pipeline(transform=identity), "schema="),
    (lambda: pipeline(transform="select 1", schema={"a": "BIGINT"}), "SQL tells its own"),
    (lambda: pipeline(transform=identity, schema={"a": "BIGINT"}, frame="polars"), "frame='polars'"),
]


@pytest.mark.parametrize(("make", "said"), BAD)
def test_malformed_declarations_are_refused_at_once(make: Any, said: str) -> None:
    """Each is a DeclarationError that names the knob or value, not retriable."""
    with pytest.raises(DeclarationError, match=said):
        make()
    assert not DeclarationError.retriable


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("bigint", "BIGINT"),
        (" Int ", "INTEGER"),
        ("text", "VARCHAR"),
        ("timestamp  with time zone", "TIMESTAMPTZ"),
        ("numeric( 12 , 2 )", "DECIMAL(12,2)"),
        ("string[] []", "VARCHAR[][]"),
    ],
)
def test_types_have_one_spelling(text: str, canonical: str) -> None:
    """Aliases, case and spaces do not matter, and the canonical spelling reads back as itself."""
    assert canonical_type(text) == canonical == canonical_type(canonical)


@pytest.mark.parametrize(
    ("value", "ms"),
    [("10 minutes", 600_000), ("1 h", 3_600_000), ("250ms", 250), (dt.timedelta(days=1), 86_400_000), (1.5, 1500)],
)
def test_durations(value: Any, ms: int) -> None:
    """Text, timedelta and seconds mean what they say."""
    assert milliseconds("knob", value) == ms


def test_equal_declarations_are_equal_values() -> None:
    """Spelling of start, types and knobs does not make another stream, and a changed one is another."""
    one = Stream("t", start="2013-01-01T01:00:00+01:00", decode=Json({"a": "int"}))
    two = Stream("t", start=dt.datetime(2013, 1, 1, tzinfo=dt.UTC), decode=Json({"a": "INTEGER"}))
    assert one == two
    assert one.canonical() == two.canonical()
    assert Stream("t", start={1: 5, 0: 7}).canonical() == Stream("t", start={0: 7, 1: 5}).canonical()
    assert Stream("t") != Stream("u")


def test_streams_defaults_reach_the_pipeline_and_its_own_go_first() -> None:
    """Decode and event_time come from the stream unless the pipeline has its own; without any it is Raw."""
    stream = Stream("t", decode=Json({"a": "BIGINT"}), event_time="a")
    assert pipeline(stream=stream).decode == stream.decode
    assert pipeline(stream=stream).event_time == "a"
    assert pipeline(stream=stream, decode=Raw(), event_time="b").decode == Raw()
    assert pipeline().decode == Raw()


def test_the_recipe_follows_what_shapes_rows_and_nothing_else() -> None:
    """Knobs of the raw data leave it alone; decode, transform, checks, outputs and version are all part of it."""
    base = pipeline()
    assert base.recipe == pipeline(stream=Stream("t", kafka_conn_id="other", max_slice_offsets=5)).recipe
    changed = [
        pipeline(decode=Json({"a": "BIGINT", "b": "BIGINT"})),
        pipeline(decode=Json({"b": "BIGINT", "a": "BIGINT"})),
        pipeline(event_time="value"),
        pipeline(transform="select * from batch"),
        pipeline(checks=[Check("a", "true")]),
        pipeline(outputs=[Rows(DuckDB("x.duckdb", table="y"))]),
        pipeline(version="2"),
    ]
    assert len({base.recipe, *(p.recipe for p in changed)}) == len(changed) + 1
    assert base.replace(version="2").recipe == pipeline(version="2").recipe


MODULE = '''
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
LIMIT = {limit}
KEPT = {{"DE", "FR", "IT", "US", "PL"}}
NESTED = [{{"a": ({{"DE", "FR", "IT", "US", "PL"}}, object())}}]
def helper(value):
    return value{plus}
def clean(table):
    """{doc}"""
    # {doc}
    return table.filter([helper(v) < LIMIT and v not in KEPT and NESTED{space}for v in table["a"]])
p = Pipeline("p", stream=Stream("t", decode=Json({{"b": "BIGINT", "a": "VARCHAR"}}), start={{1: 2, 0: 1}}),
             transform=clean, schema={{"b": "BIGINT", "a": "VARCHAR"}}, checks=[Check("c", "a is not null")],
             outputs=[Rows(DuckDB("x", table="x"))])
'''


def _serialized(folder: Path, module: str, seed: str, **parts: str) -> str:
    text = MODULE.format(**{"limit": "5", "plus": "", "doc": "Words.", "space": " ", **parts})
    (folder / f"{module}.py").write_text(text)
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import {module}; print({module}.p.serialize())"
    )
    environment = {"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_serialize_is_the_same_in_every_process_and_module(tmp_path: Path) -> None:
    """Hash seeds, the module's name, comments, docstrings and formatting do not show; a helper or constant does."""
    texts = {
        _serialized(tmp_path, "one", "0"),
        _serialized(tmp_path, "one", "1"),
        _serialized(tmp_path, "unusual_prefix_5f3a_two", "2", doc="Other words.", space="\n         "),
    }
    assert len(texts) == 1
    first = texts.pop()
    assert json.dumps(json.loads(first), sort_keys=True, separators=(",", ":")) == first.strip()
    assert _serialized(tmp_path, "three", "0", limit="6") != first
    assert _serialized(tmp_path, "four", "0", plus=" + 1") != first


def test_a_transform_without_readable_source_is_refused() -> None:
    """A function made by exec, a builtin and a callable object cannot be told apart later, and are refused."""
    scope: dict[str, Any] = {}
    exec("def made(table): return table", scope)
    for function in (scope["made"], len, print):
        with pytest.raises(DeclarationError):
            pipeline(transform=function, schema={"a": "BIGINT"}).serialize()


def test_importing_the_declarations_loads_no_engine() -> None:
    """The public names load none of pyarrow, duckdb, pandas and confluent_kafka, and touch no thread or socket."""
    code = """
import sys
import airflow_provider_eventlog
from airflow_provider_eventlog import Check, DuckDB, FromGroup, Json, Pipeline, Raw, Rows, Stream
p = Pipeline("p", stream=Stream("t", decode=Json({"a": "BIGINT"})), transform="select a from batch",
             outputs=[Rows(DuckDB("x", table="x"))])
p.serialize(), p.recipe
heavy = {"pyarrow", "duckdb", "pandas", "numpy", "confluent_kafka", "sqlalchemy", "airflow"}
loaded = heavy & {name.partition(".")[0] for name in sys.modules}
sys.exit(f"loaded {loaded}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
