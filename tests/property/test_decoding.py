"""Decoding against an exact reference: the fast path must never accept what the exact judge refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_eventlog.core.decoding import Decoder
from airflow_provider_eventlog.core.errors import DecodeError
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.declare import Json
from tests.support.rawtables import raw_table

FIELDS = {
    "i": "BIGINT",
    "t": "TINYINT",
    "u": "UBIGINT",
    "d": "DECIMAL(12,2)",
    "w": "DECIMAL(38,10)",
    "z": "DECIMAL(18,0)",
    "f": "DOUBLE",
    "b": "BOOLEAN",
    "s": "VARCHAR",
    "j": "JSON",
    "l": "BIGINT[]",
    "ts": "TIMESTAMPTZ",
}
NUMERALS = st.one_of(
    st.integers().map(str),
    st.integers(-(2**65), 2**65).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
TEXTS = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(max_size=8).map(lambda t: json.dumps(t, ensure_ascii=False)),
    st.sampled_from(
        ['"2013-01-31T05:00:00Z"', '"2013-01-31"', '"12"', '"1.5"', '"true"', '"NaN"', r'"\ud800"', r'"\u0000"']
    ),
)
VALUES = st.recursive(
    st.one_of(NUMERALS, TEXTS, st.sampled_from(["true", "false", "null", "NaN", "Infinity", "-inf", "tru", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(inner, max_size=3).map(lambda items: "[" + "".join(i + ", " for i in items) + "]"),
        st.lists(inner, max_size=2).map(lambda items: "{" + ",".join(f'"{n}":{v}' for n, v in enumerate(items)) + "}"),
    ),
    max_leaves=4,
)
DOCUMENTS = st.lists(st.tuples(st.sampled_from([*FIELDS, "other"]), VALUES), max_size=5).map(
    lambda members: ("{" + ", ".join(f'"{k}": {v}' for k, v in members) + "}").encode("utf-8", "surrogatepass")
)
PAYLOADS = st.one_of(
    DOCUMENTS,
    DOCUMENTS.map(lambda d: b" " + d),
    st.binary(max_size=20),
    VALUES.map(lambda v: v.encode("utf-8", "surrogatepass")),
)
RELAXED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _strict(payload: bytes) -> dict[str, Any]:
    """The payload by Python's parser, made strict; of repeated keys the first."""

    def refuse(literal: str) -> None:
        raise ValueError(literal)

    value = json.loads(
        payload.decode("utf-8"),
        parse_float=Decimal,
        parse_int=Decimal,
        parse_constant=refuse,
        object_pairs_hook=lambda pairs: dict(reversed(pairs)),
    )
    if not isinstance(value, dict):
        raise ValueError("not an object")
    json.dumps(value, default=str, ensure_ascii=False).encode("utf-8")
    return value


def _same(kind: str, given_value: Any, column: Any) -> bool:
    """Whether a decoded value is what the payload says."""
    if given_value is None or column is None:
        return given_value is None and column is None
    if kind.endswith("[]"):
        return len(given_value) == len(column) and all(
            _same(kind[:-2], g, c) for g, c in zip(given_value, column, strict=True)
        )
    if kind == "DOUBLE":
        return isinstance(given_value, Decimal) and float(given_value) == column
    if kind == "JSON":
        return bool(
            json.loads(column, parse_float=Decimal, parse_int=Decimal, object_pairs_hook=lambda p: dict(reversed(p)))
            == given_value
        )
    if kind == "BOOLEAN":
        return given_value is column
    if kind == "VARCHAR":
        return bool(given_value == column)
    if kind == "TIMESTAMPTZ":
        return isinstance(given_value, str)
    return isinstance(given_value, Decimal) and bool(given_value == column)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """One engine session for all examples."""
    with session(threads=2) as opened:
        yield opened


def _decode(connection: duckdb.DuckDBPyConnection, payloads: list[bytes]) -> list[dict[str, Any]]:
    decoder = Decoder(Json(FIELDS), connection)
    table = decoder.decode(raw_table(payloads))
    decoder.finish()
    rows: list[dict[str, Any]] = table.select(list(FIELDS)).to_pylist()
    return rows


@RELAXED
@given(st.lists(PAYLOADS, min_size=1, max_size=6))
def test_what_decodes_is_exactly_what_the_payload_says(
    connection: duckdb.DuckDBPyConnection, payloads: list[bytes]
) -> None:
    """Every payload either decodes to its exact values or is refused by DecodeError; nothing else is raised."""
    for payload in payloads:
        try:
            row = _decode(connection, [payload])[0]
        except DecodeError:
            continue
        document = _strict(payload)
        for name, kind in FIELDS.items():
            assert _same(kind, document.get(name), row[name]), (payload, name, row[name])


@RELAXED
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "i": st.integers(-(2**63), 2**63 - 1),
                "u": st.integers(0, 2**64 - 1),
                "d": st.decimals(-(10**10) + 1, 10**10 - 1, places=2),
                "f": st.floats(allow_nan=False, allow_infinity=False),
                "b": st.booleans(),
                "s": st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
                "l": st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=4),
                "unknown": st.text(max_size=5),
            },
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_fits_decodes(connection: duckdb.DuckDBPyConnection, documents: list[dict[str, Any]]) -> None:
    """Values within their types always decode, in order, whatever other rows the batch has."""
    rows = _decode(connection, [_encoded(document) for document in documents])
    for document, row in zip(documents, rows, strict=True):
        for name in FIELDS:
            assert row[name] == document.get(name), (document, name)


def _encoded(document: dict[str, Any]) -> bytes:
    members = (f'"{k}":{v if isinstance(v, Decimal) else json.dumps(v)}' for k, v in document.items())
    return ("{" + ",".join(members) + "}").encode()
