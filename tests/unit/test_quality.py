"""Row checks: what breaks one, what is counted, and which expressions are refused."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import CheckDefinitionError
from airflow_provider_eventlog.core.quality import merge
from airflow_provider_eventlog.core.transforming import analyze, transform_slice
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
from tests.support.rawtables import raw_table

FIELDS = {"id": "BIGINT", "name": "VARCHAR", "u": "UUID", "j": "JSON"}


def pipeline(*expressions: str, transform: str | None = None) -> Pipeline:
    """A pipeline with checks c0, c1, ..."""
    return Pipeline(
        "p",
        stream=Stream("topic"),
        decode=Json(FIELDS),
        transform=transform,
        checks=[Check(f"c{n}", expression) for n, expression in enumerate(expressions)],
        outputs=[Rows(DuckDB("x.duckdb", table="x"))],
    )


def failures(values: list[bytes | None], *expressions: str, transform: str | None = None) -> dict[str, dict[str, Any]]:
    """Failures of checks over payloads."""
    return transform_slice(pipeline(*expressions, transform=transform), raw_table(values)).failures


def test_false_and_null_break_a_check_alike() -> None:
    """Only true holds; a broken check is counted with its first offsets, one that holds is not mentioned."""
    values = [b'{"id": 1}', b'{"id": -1}', b'{"id": null}', None, b'{"id": 2}']
    found = failures(values, "id > 0", "_offset >= 0", "id > 0 or id is null")
    assert found == {"c0": {"rows": 2, "first": ["0:1", "0:2"]}, "c2": {"rows": 1, "first": ["0:1"]}}


def test_every_broken_row_counts_and_five_offsets_are_named() -> None:
    """Rows are counted, exploded copies too; the named offsets are distinct, lowest first, at most five."""
    values: list[bytes | None] = [b'{"id": %d}' % n for n in range(1000)]
    found = failures(values, "id < 10", transform="select id, unnest([1, 2]) as copy from batch")
    assert found == {"c0": {"rows": 1980, "first": [f"0:{n}" for n in range(10, 15)]}}


def test_checks_see_the_engines_types() -> None:
    """A UUID compares as a UUID and JSON is taken apart as JSON, though Arrow carries both as text."""
    values: list[bytes | None] = [b'{"u": "550E8400-E29B-41D4-A716-446655440000", "j": {"a": 5}}']
    assert failures(values, "u = '550e8400e29b41d4a716446655440000'", "j.a::int = 5") == {}


def test_pieces_of_a_slice_add_up() -> None:
    """Merging failures of two pieces sums rows and keeps the first five offsets."""
    total: dict[str, dict[str, Any]] = {}
    merge(total, {"c": {"rows": 4, "first": ["0:1", "0:2", "0:3", "0:4"]}})
    merge(total, {"c": {"rows": 2, "first": ["0:7", "0:8"]}, "d": {"rows": 1, "first": ["0:9"]}})
    assert total == {
        "c": {"rows": 6, "first": ["0:1", "0:2", "0:3", "0:4", "0:7"]},
        "d": {"rows": 1, "first": ["0:9"]},
    }


REFUSED = [
    ("nope > 0", "columns are 'id', 'name', 'u', 'j', '_partition'"),
    ("id >", "does not parse at character"),
    ("id", "BIGINT, not a BOOLEAN"),
    ("id > 0, name = 'x'", "one expression"),
    ("id > 0 as x", "one expression"),
    ("id > 0 from batch", "one expression"),
    ("id > 0 where true", "one expression"),
    ("id > 0) from x; drop table y; --", "does not parse"),
    ("true; select true", "2 statements"),
    ("id > 0 order by 1", "ORDER"),
    ("id > 0 group by 1", "GROUP BY"),
    ("true union select true", "set operation"),
    ("*", "name columns"),
    ("columns(*) is not null", "name columns"),
    ("sum(id) > 0", "aggregate"),
    ("rank() over () > 0", "window"),
    ("id > (select 1)", "subquery"),
    ("unnest([true])", "unnest"),
    ("now() > '2013-01-01'", "now"),
    ("current_date > '2013-01-01'", "current_date"),
    ("random() > 0", "random"),
    ("id = $1", "parameter"),
]


@pytest.mark.parametrize(("expression", "said"), REFUSED)
def test_expressions_that_are_no_row_check_are_refused(expression: str, said: str) -> None:
    """Each is refused without data, naming the check and what is wrong with it."""
    with pytest.raises(CheckDefinitionError, match=f"(?s)^Check 'c0' .*{said}"):
        analyze(pipeline(expression))


def test_a_comment_cannot_swallow_what_comes_after() -> None:
    """Expressions are taken from the syntax tree, so a trailing comment ends with its check."""
    found = failures([b'{"id": -1}'], "id > 0 -- comment", "id < 0 /* fine */", "id = 5")
    assert set(found) == {"c0", "c2"}


def test_an_expression_that_fails_on_a_value_says_so() -> None:
    """A cast that fails on data is an error of the check's definition, not a crash."""
    with pytest.raises(CheckDefinitionError, match="try_cast"):
        failures([b'{"name": "x"}'], "name::int > 0")
