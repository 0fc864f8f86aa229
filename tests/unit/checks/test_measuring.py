"""Results and verdicts of a batch's checks over parts, and which SQL is refused before any data is seen."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.checks import measuring
from airflow_provider_eventlog.core.errors import CheckDefinitionError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.stages import check
from airflow_provider_eventlog.core.transforming import transform_slice
from airflow_provider_eventlog.declare import ColumnChecks, DuckDB, Json, Pipeline, Rows, Stream, TableChecks
from airflow_provider_eventlog.declare.batch_checks import Rule
from tests.support.rawtables import raw_table

FIELDS = {"a": "BIGINT", "f": "DOUBLE", "name": "VARCHAR", "at": "TIMESTAMPTZ", "u": "UUID", "dec": "DECIMAL(9,2)"}
ROWS: list[bytes | None] = [
    b'{"a": 1, "f": 0.5, "name": "x", "at": "2026-01-01T00:00:00Z", "dec": 1.25}',
    b'{"a": 2, "f": 1.5, "name": "y", "at": "2026-01-01T12:00:00Z"}',
    b'{"a": 2, "name": "z", "at": "2026-01-02T00:00:00Z"}',
    b'{"f": -2.5, "name": null}',
]


def pipeline(*checks: ColumnChecks | TableChecks) -> Pipeline:
    """A pipeline with checks of the batch."""
    return Pipeline(
        "p",
        stream=Stream("topic"),
        decode=Json(FIELDS),
        batch_checks=checks,
        outputs=[Rows(DuckDB("x.duckdb", table="x"))],
    )


def figures(folder: Path, *checks: ColumnChecks | TableChecks, slices: list[list[bytes | None]]) -> dict[str, Any]:
    """What measuring adds to the accounting of a batch of slices."""
    made, files = pipeline(*checks), []
    for number, values in enumerate(slices):
        file = folder / f"{len(list(folder.iterdir()))}.parquet"
        wanted = OffsetRange(number, 0, max(1, len(values)))
        partfile.write_part(
            file, transform_slice(made, raw_table(values)), kind=partfile.TYPED, wanted=wanted, recipe=made.recipe
        )
        files.append(file)
    return measuring.measured(made, {"transform": {}}, files)


def column(of: str, **checks: dict[str, Any]) -> ColumnChecks:
    """Checks of one column."""
    return ColumnChecks({of: checks})


def test_each_column_check_counts_what_it_says(tmp_path: Path) -> None:
    """NULLs, distinct values, values that are there again, least and greatest; of all slices together."""
    none = {"equal_to": 0}
    checks = column("a", null_check=none, distinct_check=none, unique_check=none, min=none, max=none)
    found = figures(tmp_path, checks, slices=[ROWS[:2], ROWS[2:]])
    assert found["measured"] == {
        "a.null_check": 1, "a.distinct_check": 2, "a.unique_check": 1, "a.min": 1, "a.max": 2,
    }  # fmt: skip
    assert set(found["checks"]) == set(found["measured"])
    assert found["checks"]["a.min"] == {
        "rows": None, "result": 1, "expression": 'min("a") equal_to 0', "on_fail": "fail", "tolerated": None,
        "holds": True, "first": [],
    }  # fmt: skip


def test_checks_that_hold_are_measured_and_not_among_the_broken(tmp_path: Path) -> None:
    """Their results stay for comparison; the accounting names no check then."""
    found = figures(tmp_path, column("a", min={"geq_to": 1}), slices=[ROWS])
    assert found == {"transform": {}, "measured": {"a.min": 1}}


def test_clauses_choose_rows_together(tmp_path: Path) -> None:
    """A clause of all checks and one of a check must both be true of a row; a clause that is NULL leaves it out."""
    checks = ColumnChecks(
        {"a": {"max": {"equal_to": 2}, "min": {"equal_to": 2, "partition_clause": "f > 1 or false"}}},
        partition_clause="name <> 'z'",
    )
    found = figures(tmp_path, checks, slices=[ROWS])
    assert found["measured"] == {"a.max": 2, "a.min": 2}
    assert "checks" not in found


def test_table_checks_are_conditions_over_aggregates_or_rows(tmp_path: Path) -> None:
    """An aggregate's condition is judged once, a row's must be true of every row, with NULL as not true."""
    statements = {
        "some": "count(*) = 4",
        "mean": "avg(f) between -1 and 1 and max(a) = 2",
        "few": "count(*) FILTER (WHERE a = 2) < 2",
        "every": "a >= 1",
        "known": "a is null or a >= 1",
    }
    checks = TableChecks({name: {"check_statement": text} for name, text in statements.items()})
    part = TableChecks({"part": {"check_statement": "a >= 1", "partition_clause": "a is not null"}}, on_fail="warn")
    found = figures(tmp_path, checks, part, slices=[ROWS])
    assert found["measured"] == {"some": 1, "mean": 1, "few": 0, "every": 0, "known": 1, "part": 1}
    assert set(found["checks"]) == {"few", "every"}


def test_warnings_do_not_hold(tmp_path: Path) -> None:
    """on_fail="warn" is told as broken, and holds nothing."""
    found = figures(tmp_path, TableChecks({"none": {"check_statement": "count(*) = 0"}}, on_fail="warn"), slices=[ROWS])
    assert found["checks"]["none"]["holds"] is False


def test_text_and_times_are_compared_as_such(tmp_path: Path) -> None:
    """Dates are midnights in UTC, zones are converted, text is compared by code point, decimals exactly."""
    checks = ColumnChecks({
        "at": {"min": {"equal_to": date(2026, 1, 1)}, "max": {"leq_to": datetime(2026, 1, 2, tzinfo=UTC)}},
        "name": {"min": {"equal_to": "x"}, "max": {"less_than": "z"}},
        "dec": {"max": {"equal_to": 1.25}},
        "u": {"null_check": {"equal_to": 4}},
    })  # fmt: skip
    found = figures(tmp_path, checks, slices=[ROWS])
    assert set(found["checks"]) == {"name.max"}
    assert found["measured"]["at.max"] == "2026-01-02T00:00:00"
    assert found["measured"]["dec.max"] == "1.25"


@pytest.mark.parametrize("slices", [[], [[]], [[None]]])
def test_no_rows_are_judged_too(tmp_path: Path, slices: list[list[bytes | None]]) -> None:
    """A result of no rows is 0 unless NULL is not accepted; a count knows that nothing is there."""
    strict = ColumnChecks({"a": {"min": {"geq_to": 0}}}, accept_none=False, name="strict")
    table = TableChecks({"some": {"check_statement": "count(*) > 0"}, "every": {"check_statement": "a > 0"}})
    loose = TableChecks({"loose": {"check_statement": "a > 0"}}, accept_none=True)
    mild = column("a", min={"geq_to": 0}, max={"equal_to": 0}, null_check={"equal_to": 0})
    times = column("at", min={"geq_to": date(2026, 1, 1)})
    found = figures(tmp_path, strict, table, loose, mild, times, slices=slices)
    assert set(found["checks"]) == {"strict.a.min", "some", "every"}


def rule(tolerance: float | None = None, **bounds: Any) -> Rule:
    """A rule with bounds."""
    return Rule("r", "x", bounds, tolerance, (), "fail", accept_none=True)


@pytest.mark.parametrize(("result", "judged", "expected"), [
    (9, rule(0.1, geq_to=10), True),
    (8.9, rule(0.1, geq_to=10), False),
    (9, rule(0.1, greater_than=10), False),
    (11, rule(0.1, leq_to=10), True),
    (11, rule(0.1, less_than=10), False),
    (-11, rule(0.1, geq_to=-10), True),
    (-9, rule(0.1, leq_to=-10), True),
    (-8.9, rule(0.1, leq_to=-10), False),
    (9, rule(0.1, equal_to=10), True),
    (11.1, rule(0.1, equal_to=10), False),
    (0.0001, rule(0.5, equal_to=0), False),
    (float("nan"), rule(geq_to=0), False),
    (5, rule(greater_than=4, leq_to=5), True),
    (2**63 + 1, rule(equal_to=2**63), False),
    (None, rule(equal_to=0), True),
    (None, rule(greater_than=0), False),
])  # fmt: skip
def test_tolerance_widens_bounds_outwards_by_a_share(result: Any, judged: Rule, expected: bool) -> None:
    """As common-sql has it, below zero as well; strict bounds stay strict, and without a tolerance all is exact."""
    assert measuring.holds(judged, result) is expected


REFUSED = [
    (column("nope", min={"geq_to": 0}), "nope.min.*the columns are 'a'"),
    (column("name", min={"geq_to": 0}), "compares a VARCHAR with a number"),
    (column("a", min={"geq_to": "x"}), "compares a BIGINT with a text"),
    (column("u", min={"geq_to": "x"}), "compares a UUID with a text"),
    (column("at", max={"leq_to": 5}), "compares a TIMESTAMP WITH TIME ZONE with a number"),
    (column("a", min={"geq_to": 0, "partition_clause": "a"}), "BIGINT, not a BOOLEAN"),
    (column("a", min={"geq_to": 0, "partition_clause": "count(*) > 0"}), "aggregate"),
    (column("a", min={"geq_to": 0, "partition_clause": "true) --"}), "does not parse"),
]
STATEMENTS = [
    ("count(*)", "BIGINT, not a BOOLEAN"),
    ("count(nope) > 0", "the columns are"),
    ("a > 0 and count(*) > 0", "cannot run"),
    ('now() > "at"', "not the same at every run"),
    ("max(random()) > 0", "not the same at every run"),
    ("(select true)", "subquery"),
    ("count(*) > 0 from other", "one condition"),
    ("count(*) > 0 group by a", "GROUP BY"),
    ("sum(count(*)) > 0", "aggregate"),
    ("count(*) over () > 0", "window"),
    ("true; drop table x", "not a SELECT|statements"),
    ("count(*) >", "does not parse"),
]
TABLES = [(TableChecks({"t": {"check_statement": text}}), said) for text, said in STATEMENTS]


@pytest.mark.parametrize(("checks", "said"), [*REFUSED, *TABLES])
def test_sql_that_is_no_check_is_refused_before_data(checks: ColumnChecks | TableChecks, said: str) -> None:
    """Unknown columns, other types, no boolean and what looks beyond the batch are errors of check and plan."""
    with pytest.raises(CheckDefinitionError, match=f"(?s){said}"):
        check(pipeline(checks))


def test_a_statement_that_fails_on_a_value_says_so(tmp_path: Path) -> None:
    """A cast that fails on data is an error of the check's definition, not a crash."""
    with pytest.raises(CheckDefinitionError, match=r"try_cast.*Checks: cast\."):
        figures(tmp_path, TableChecks({"cast": {"check_statement": "max(name::int) > 0"}}), slices=[ROWS])
