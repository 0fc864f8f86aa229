"""Decoding: what fits, what does not, and what is said of it."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_eventlog.core.decoding import decode_table, decoded_schema
from airflow_provider_eventlog.core.errors import DecodeError
from airflow_provider_eventlog.declare import Json, Raw
from tests.support.rawtables import raw_table

NOON = dt.datetime(2013, 1, 31, 12, 0, 30, 250000, tzinfo=dt.UTC)

FITS: list[tuple[str, str, Any]] = [
    ("BIGINT", "9007199254740993", 9007199254740993),
    ("BIGINT", "-9223372036854775808", -(2**63)),
    ("BIGINT", "2.0", 2),
    ("BIGINT", "2e3", 2000),
    ("BIGINT", "-0", 0),
    ("UBIGINT", "18446744073709551615", 2**64 - 1),
    ("TINYINT", "-128", -128),
    ("DECIMAL(12,2)", "1.1", Decimal("1.10")),
    ("DECIMAL(12,2)", "1.100", Decimal("1.10")),
    ("DECIMAL(12,2)", "7", Decimal("7.00")),
    ("DECIMAL(12,2)", "1e2", Decimal("100.00")),
    ("DECIMAL(12,2)", "9999999999.99", Decimal("9999999999.99")),
    ("DECIMAL(18,0)", "5.0", Decimal(5)),
    ("DECIMAL(38,2)", "123456789012345678901234567890123456.78", Decimal("123456789012345678901234567890123456.78")),
    ("DOUBLE", "7", 7.0),
    ("DOUBLE", "0.1", 0.1),
    ("DOUBLE", "1e-400", 0.0),
    ("FLOAT", "0.5", 0.5),
    ("BOOLEAN", "true", True),
    ("VARCHAR", '"a\\u0000b"', "a\0b"),
    ("VARCHAR", '""', ""),
    ("VARCHAR", '"\\ud83d\\ude00"', "\U0001f600"),
    ("DATE", '"2013-01-31"', dt.date(2013, 1, 31)),
    ("TIME", '"12:00:30.25"', dt.time(12, 0, 30, 250000)),
    ("TIMESTAMPTZ", '"2013-01-31T12:00:30.250Z"', NOON),
    ("TIMESTAMPTZ", '"2013-01-31T14:00:30.25+02:00"', NOON),
    ("TIMESTAMPTZ", '"2013-01-31 12:00:30.250000000"', NOON),
    ("TIMESTAMPTZ", '"2013-01-31"', dt.datetime(2013, 1, 31, tzinfo=dt.UTC)),
    ("TIMESTAMP", '"2013-01-31T12:00:30.25Z"', NOON.replace(tzinfo=None)),
    ("UUID", '"550e8400-e29b-41d4-a716-446655440000"', str(uuid.UUID("550e8400e29b41d4a716446655440000"))),
    ("JSON", '{"b": [1, 2.5]}', '{"b":[1,2.5]}'),
    ("BIGINT[]", "[1, null, 9007199254740993]", [1, None, 9007199254740993]),
    ("DECIMAL(4,1)[]", "[1, 2.5]", [Decimal("1.0"), Decimal("2.5")]),
    ("VARCHAR[][]", '[["a"], []]', [["a"], []]),
]
MISFITS = [
    ("BIGINT", "1.5"),
    ("BIGINT", '"12"'),
    ("BIGINT", "true"),
    ("BIGINT", "9223372036854775808"),
    ("BIGINT", "[1]"),
    ("BIGINT", "1e400"),
    ("BIGINT", "9" * 6000),
    ("BIGINT", "1e999999999999999999999"),
    ("TINYINT", "128"),
    ("UBIGINT", "-1"),
    ("DECIMAL(12,2)", "1.005"),
    ("DECIMAL(12,2)", "1.230000000000000000001"),
    ("DECIMAL(12,2)", "12345678901"),
    ("DECIMAL(12,2)", '"1.50"'),
    ("DECIMAL(12,2)", "1e-3"),
    ("DECIMAL(18,0)", "1.5"),
    ("DOUBLE", "1e400"),
    ("DOUBLE", '"1.5"'),
    ("DOUBLE", "NaN"),
    ("DOUBLE", "-Infinity"),
    ("DOUBLE", "true"),
    ("FLOAT", "1e39"),
    ("BOOLEAN", "1"),
    ("BOOLEAN", '"true"'),
    ("VARCHAR", "12"),
    ("VARCHAR", "{}"),
    ("VARCHAR", '"\\ud800"'),
    ("DATE", '"2013-01-31T00:00:00"'),
    ("DATE", '"2013-02-30"'),
    ("DATE", "20130131"),
    ("TIME", '"25:00"'),
    ("TIMESTAMPTZ", '"2013-01-31T12:00:30.1234567Z"'),
    ("TIMESTAMPTZ", '"2013-01-31T24:00:00Z"'),
    ("TIMESTAMPTZ", '"infinity"'),
    ("TIMESTAMPTZ", '"epoch"'),
    ("TIMESTAMPTZ", '"yesterday"'),
    ("TIMESTAMPTZ", "1359633630"),
    ("TIMESTAMP", '"2013-01-31T12:00:30+02:00"'),
    ("UUID", '"x"'),
    ("JSON", "9007199254740993.01"),
    ("BIGINT[]", "[1.5]"),
    ("BIGINT[]", '["1"]'),
    ("BIGINT[]", "1"),
    ("DOUBLE[]", "[1e400]"),
]
NOT_JSON = [
    b"",
    b" ",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"null",
    b"[1]",
    b'"a"',
    b"1",
    b"{",
    b'{"a":1}x',
    b'{"a":1}{"a":2}',
    b'{"a":1,}',
    b'{"a":1,"b":[1, ]}',
    b'{"a":1,"b":NaN}',
    b'{"a":1,"b":-inf}',
    b"{'a':1}",
    b'{"a":01}',
    b'\xef\xbb\xbf{"a":1}',
    b'{"a":1,"b":"\x00"}',
    b'{"a":1}\x00',
    b'{"a":1} // c',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a":1,"b":"\\ud800"}',
]


def _decode(kind: str, text: str) -> Any:
    table = decode_table(Json({"a": kind}), raw_table([f'{{"a": {text}}}'.encode()])).table
    return table.column("a").to_pylist()[0]


@pytest.mark.parametrize(("kind", "text", "value"), FITS)
def test_values_that_fit_are_exact(kind: str, text: str, value: Any) -> None:
    """A JSON value that its column's type can hold arrives exactly."""
    assert _decode(kind, text) == value


@pytest.mark.parametrize(("kind", "text"), MISFITS)
def test_values_that_do_not_fit_are_refused(kind: str, text: str) -> None:
    """Nothing is rounded, cut, taken for another type or read as a special word."""
    with pytest.raises(DecodeError, match="partition 0 offset 0: "):
        _decode(kind, text)


@pytest.mark.parametrize("payload", NOT_JSON, ids=lambda p: repr(p[:24]))
def test_what_is_no_json_object_is_refused_and_named(payload: bytes) -> None:
    """Malformed, hostile or non-object payloads are a DecodeError that names the offset, never anything else."""
    rows = [b'{"a": 1}', payload, b'{"a": 2}']
    with pytest.raises(DecodeError, match="1 of 3 payloads do not decode as declared, first partition 0 offset 8: "):
        decode_table(Json({"a": "BIGINT"}), raw_table(rows, start=7))


def test_deep_nesting_beside_the_declared_fields_is_left_alone() -> None:
    """100,000 closed brackets in an undeclared field neither crash the process nor fail the row."""
    deep = b'{"a": 1, "b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert decode_table(Json({"a": "BIGINT"}), raw_table([deep])).table.column("a").to_pylist() == [1]


def test_absent_and_null_fields_are_null() -> None:
    """An absent field, an explicit null and another field's presence all give NULL; names match by case."""
    rows = [b"{}", b'{"a": null}', b'{"A": 5}', b' {"a": 5} ']
    table = decode_table(Json({"a": "BIGINT", "s": "VARCHAR"}), raw_table(rows)).table
    assert table.column("a").to_pylist() == [None, None, None, 5]
    assert table.column("s").to_pylist() == [None] * 4


def test_the_first_of_a_repeated_key_counts() -> None:
    """A repeated key is no error, on either path, and its first value is taken."""
    rows = [b'{"a": 1, "a": 2}', b'{"a": 1.0, "a": "x"}']
    assert decode_table(Json({"a": "BIGINT"}), raw_table(rows)).table.column("a").to_pylist() == [1, 1]


def test_tombstones_are_counted_and_not_decoded() -> None:
    """A null value is a tombstone; an empty one is a payload."""
    decoded = decode_table(Raw(), raw_table([None, b"", b"x", None]))
    assert (decoded.landed, decoded.tombstones) == (4, 2)
    assert decoded.table.column("value").to_pylist() == [b"", b"x"]
    assert decoded.table.column("_offset").to_pylist() == [1, 2]


def test_meta_columns_belong_to_their_rows() -> None:
    """Key, time and position stay with their payload, in raw order, across many chunks."""
    count = 70_000
    rows = [None if n % 7 == 0 else json.dumps({"n": n}).encode() for n in range(count)]
    decoded = decode_table(Json({"n": "BIGINT"}), raw_table(rows, partition=3, start=0))
    numbers = [n for n in range(count) if n % 7]
    table = decoded.table
    assert decoded.tombstones == count - len(numbers)
    assert table.column("n").to_pylist() == table.column("_offset").to_pylist() == numbers
    assert table.column("_key").to_pylist() == [f"k{n}".encode() for n in numbers]
    assert set(table.column("_partition").to_pylist()) == {3}


def test_failures_are_counted_and_the_first_five_named() -> None:
    """The message has the count, five offsets with reasons, and payloads cut short and escaped."""
    rows = [b'{"a": "\x1b[31m' + b"x" * 5000 + b'"}'] * 7 + [b'{"a": 1}']
    with pytest.raises(DecodeError) as caught:
        decode_table(Json({"a": "BIGINT"}), raw_table(rows))
    text = str(caught.value)
    assert text.startswith("7 of 8 payloads do not decode")
    assert [f"offset {n}:" in text for n in range(7)] == [True] * 5 + [False] * 2
    assert "\x1b" not in text
    assert len(text) < 2000
    assert not DecodeError.retriable


def test_the_schema_is_known_without_data() -> None:
    """`decoded_schema` is the schema of every decoded table, empty ones included."""
    decode = Json(
        {name.replace("(", "_"): name for name in ("BIGINT", "DECIMAL(12,2)", "UUID", "JSON", "DATE[]", "TIME")}
    )
    assert decode_table(decode, raw_table([])).table.schema == decoded_schema(decode)
    assert decode_table(decode, raw_table([b"{}", None])).table.schema == decoded_schema(decode)


def test_awkward_column_names_are_only_names() -> None:
    """Quotes, dots and SQL in a declared name reach no SQL and find their field."""
    names = [
        'a"b',
        "a'b",
        "a.b",
        "$.a",
        "x; drop table _raw",
        "ä",
        "select",
        "x",
        "odd",
        "s",
        "j",
        "v0",
        "tv1",
        "value",
    ]
    payload = json.dumps({name: index for index, name in enumerate(names)}).encode()
    table = decode_table(Json(dict.fromkeys(names, "BIGINT")), raw_table([payload])).table
    assert [table.column(name).to_pylist()[0] for name in names] == list(range(len(names)))
