"""Checks of a batch as they are declared: what is refused at once, and what survives being written down."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.redeclaring import redeclare
from airflow_provider_eventlog.declare import Check, ColumnChecks, DuckDB, Json, Pipeline, Rows, Stream, TableChecks
from airflow_provider_eventlog.declare.batch_checks import batch_checks

EVERY: list[ColumnChecks | TableChecks] = [
    ColumnChecks({
        "amount": {"null_check": {"equal_to": 0}, "min": {"geq_to": -1.5, "less_than": 9, "tolerance": 0.1}},
        "at": {"max": {"leq_to": datetime(2026, 1, 2, tzinfo=UTC)}, "min": {"geq_to": date(2026, 1, 1)}},
    }, partition_clause="amount > 0", accept_none=False, on_fail="warn", name="paid"),
    TableChecks({"some": {"check_statement": "count(*) > 0", "partition_clause": "amount > 1"}}),
]  # fmt: skip


def pipeline(*checks: Any, **more: Any) -> Pipeline:
    """A pipeline with checks of the batch."""
    return Pipeline(
        "p",
        stream=Stream("topic"),
        decode=Json({"amount": "BIGINT", "at": "TIMESTAMPTZ"}),
        batch_checks=list(checks),
        outputs=[Rows(DuckDB("x.duckdb", table="x"))],
        **more,
    )


def test_a_declaration_survives_being_written_down() -> None:
    """What is read back from the canonical form is equal, and a registered pipeline has its recipe again."""
    assert batch_checks([c.canonical() for c in EVERY]) == EVERY
    made = pipeline(*EVERY)
    assert redeclare(made.canonical(), made.recipe).recipe == made.recipe


def test_checks_of_a_batch_belong_to_the_recipe_only_where_declared() -> None:
    """Another bound is another recipe; a pipeline without any keeps the text it was registered with."""
    loose, strict = (pipeline(ColumnChecks({"amount": {"min": {"geq_to": n}}})) for n in (0, 1))
    assert loose.recipe != strict.recipe
    assert "batch_checks" not in pipeline().canonical()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"average": {"equal_to": 0}}, "'average' is not one of null_check"),
    ({"min": {"at_least": 0}}, "'at_least' is not one of equal_to"),
    ({"min": {}}, "needs at least one of equal_to"),
    ({"min": {"tolerance": 0.1}}, "needs at least one of equal_to"),
    ({"min": {"equal_to": 1, "geq_to": 0}}, "equal_to stands alone"),
    ({"min": {"greater_than": 1, "geq_to": 0}}, "only one of greater_than and geq_to"),
    ({"min": {"less_than": 1, "leq_to": 0}}, "only one of less_than and leq_to"),
    ({"min": {"greater_than": 1, "less_than": 1}}, "no value is greater_than 1"),
    ({"min": {"greater_than": 1, "leq_to": 1}}, "no value is greater_than 1"),
    ({"min": {"geq_to": 1, "less_than": 1}}, "no value is geq_to 1"),
    ({"min": {"geq_to": 2, "leq_to": 1}}, "no value is geq_to 2"),
    ({"min": {"geq_to": float("nan")}}, "must be a number"),
    ({"min": {"geq_to": None}}, "must be a number"),
    ({"min": {"geq_to": 1, "leq_to": "x"}}, "different types"),
    ({"min": {"geq_to": "a", "tolerance": 0.1}}, "share of a number"),
    ({"min": {"geq_to": 1, "tolerance": -0.1}}, "must be a share from 0"),
    ({"min": {"geq_to": 1, "tolerance": None}}, "must be a share from 0"),
    ({"min": {"geq_to": 1, "partition_clause": " "}}, "must be an SQL condition"),
    ({"min": 3}, "needs a mapping"),
    ({}, "needs {check"),
]


@pytest.mark.parametrize(("checks", "said"), REFUSED)
def test_what_no_column_check_can_be_is_refused_at_parse(checks: dict[str, Any], said: str) -> None:
    """Wrong words, bounds that nothing meets and empty declarations are errors that name the column and the word."""
    with pytest.raises(DeclarationError, match=said):
        ColumnChecks({"amount": checks})


def test_bounds_may_touch_where_both_include_them() -> None:
    """geq_to and leq_to of one value is what equal_to is, and stands."""
    assert ColumnChecks({"amount": {"min": {"geq_to": 1, "leq_to": 1}}}).rules()[0].name == "amount.min"


def test_what_no_table_check_can_be_is_refused_at_parse() -> None:
    """A check without a statement, of another word or name is an error."""
    refused: list[tuple[Any, str]] = [
        ({"a": {}}, "check_statement"),
        ({"a": {"check_statement": "true", "tolerance": 1}}, "'tolerance' is not one of"),
        ({"a b": {"check_statement": "true"}}, "check name"),
        ({}, "at least one check"),
    ]
    for checks, said in refused:
        with pytest.raises(DeclarationError, match=said):
            TableChecks(checks)


def test_quarantine_is_refused_for_a_whole_batch() -> None:
    """No single row breaks a check of the batch; the error says what to take instead."""
    for make in (
        lambda: ColumnChecks({"amount": {"min": {"geq_to": 0}}}, on_fail="quarantine"),
        lambda: TableChecks({"a": {"check_statement": "true"}}, on_fail="quarantine"),
    ):
        with pytest.raises(DeclarationError, match=r"'fail' or 'warn', or Check"):
            make()


def test_names_are_one_of_a_kind_over_all_checks() -> None:
    """A row check and one of the batch, or two of the batch, cannot share a name; a prefix tells them apart."""
    one = ColumnChecks({"amount": {"min": {"geq_to": 0}}})
    with pytest.raises(DeclarationError, match=r"the name 'amount.min' twice"):
        pipeline(one, one)
    with pytest.raises(DeclarationError, match="the name 'some' twice"):
        pipeline(EVERY[1], checks=[Check("some", "true")])
    assert pipeline(one, ColumnChecks({"amount": {"min": {"geq_to": 0}}}, name="again")).batch_checks[0] is one
    with pytest.raises(DeclarationError, match="batch_checks must be a list"):
        pipeline(Check("a", "true"))
