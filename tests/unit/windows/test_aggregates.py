"""Aggregates: how they are taken apart, that nothing wraps, and that what can be exact is exact."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_eventlog.core.errors import EventTimeError, WindowDefinitionError
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.transforming import TYPE_KEY
from airflow_provider_eventlog.core.windows.plan import WindowPlan, analyze_windows
from airflow_provider_eventlog.declare.outputs import DuckDB
from airflow_provider_eventlog.declare.windows import Session, Tumbling, Windows
from tests.unit.windows.folding import SCHEMA, log, plan_of, result_of

BIG = 2**63 - 1


def plan(**aggregates: str) -> WindowPlan:
    with session(threads=1) as connection:
        return plan_of(connection, Tumbling("1 day"), aggregates=aggregates)


@pytest.mark.parametrize(
    "text",
    [
        "count(*)",
        "count(v)",
        "count_null(v)",
        "count_if(v > 1)",
        "count(*) FILTER (WHERE v IS NULL)",
        "sum(v)",
        "SUM(d * 2)",
        "sum(v > 1)",
        "min(kind)",
        "max(id)",
        "avg(d)::DECIMAL(12,3)",
        "round(mean(d), 1)",
        "stddev(f)",
        "variance(v)",
        "var_pop(d)",
        "first(kind)",
        "last(v) FILTER (WHERE v > 1)",
        "sum(f) / nullif(count(f), 0)",
        "max(v) - min(v)",
        "coalesce(sum(v), 0)",
        "CASE WHEN count(*) > 1 THEN 'many' ELSE 'one' END",
    ],
)
def test_these_are_merged_from_partial_results(text: str) -> None:
    """The aggregates with pieces, filtered or not, and expressions of them."""
    assert plan(x=text).again == ()


@pytest.mark.parametrize(
    "text",
    [
        "median(v)",
        "count(DISTINCT kind)",
        "sum(DISTINCT v)",
        "approx_count_distinct(kind)",
        "approx_top_k(kind, 3)",
        "list(v ORDER BY ts)",
        "string_agg(kind, ',')",
        "quantile_cont(f, 0.9)",
        "arg_max(kind, v)",
        "sum(v) / count(DISTINCT kind)",
        "min(v, 2)",
    ],
)
def test_anything_else_is_computed_again_and_said_so(text: str) -> None:
    """Any other SQL aggregate makes its windows be computed from rows; the plan names it."""
    made = plan(n="count(*)", x=text)
    assert [output.name for output in made.again] == ["x"]
    assert made.describe() == (
        "Windows 'w': merged from partial results: n; computed again from the rows of every window that changed: x"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sum(v", "does not parse"),
        ("v + 1", "holds no aggregate|outside of an aggregate"),
        ("sum(v) + v", "uses 'v' outside of an aggregate"),
        ("sum(nothing)", "nothing.*the columns are"),
        ("sum(kind)", "cannot run"),
        ("sum(v) OVER ()", "window function|no aggregate"),
        ("(SELECT 1)", "subquery|no aggregate"),
        ("sum((SELECT 1))", "a subquery"),
        ("count(*), sum(v)", "must be one expression"),
        ("sum(v) AS s", "must be one expression"),
        ("sum(v) FROM x", "must be one expression"),
        ("sum(v); DROP TABLE x", "not a SELECT statement"),
        ("sum(v); SELECT 1", "2 statements"),
        ("sum(random())", "not the same at every run"),
        ("sum(v) + random()", "not the same at every run"),
        ("max(ts) FILTER (WHERE ts < now())", "not the same at every run"),
        ("reservoir_quantile(v, 0.5)", "not the same at every run"),
        ("sum(sum(v))", "an aggregate"),
        ("sum(COLUMNS(*))", r"must name columns, not \*"),
        ("sum(v) FILTER (WHERE v)", "filter that is no condition"),
        ("histogram(v)", "cannot be stored"),
        ("read_csv('/etc/passwd')", "no aggregate|table function"),
        ("round(avg(d), 30)", "a DECIMAL holds 38"),
    ],
)
def test_what_does_not_work_is_refused_before_any_row(text: str, said: str) -> None:
    """The message names output, aggregate and text, and what is wrong."""
    with pytest.raises(WindowDefinitionError, match=rf"(?s)Windows 'w': aggregate 'x' .*({said})"):
        plan(x=text)


def test_keys_times_and_conditions_are_checked_with_the_columns() -> None:
    """A key that is no column, a time of the wrong type, a condition that is none: each named."""

    def analyze(schema: pa.Schema = SCHEMA, event_time: str | None = "ts", **changes: Any) -> WindowPlan:
        options = {"aggregates": {"n": "count(*)"}, "target": DuckDB("w.db", table="w"), **changes}
        window = options.pop("window", Tumbling("1 day"))
        with session(threads=1) as connection:
            return analyze_windows(connection, Windows(window, **options), schema, event_time)

    assert analyze(by=["K"]).by == ("k",)
    with pytest.raises(WindowDefinitionError, match=r"by names 'city'.*'kind'"):
        analyze(by=["city"])
    listed = SCHEMA.append(pa.field("tags", pa.list_(pa.string()), metadata={TYPE_KEY: b"VARCHAR[]"}))
    with pytest.raises(WindowDefinitionError, match="which is no key"):
        analyze(listed, by=["tags"])
    with pytest.raises(EventTimeError, match="'kind' is a VARCHAR"):
        analyze(event_time="kind")
    with pytest.raises(EventTimeError, match="'_timestamp'"):
        analyze(event_time=None)
    assert analyze(event_time=None, time="processing").time is None
    assert analyze(event_time=None, time="ingest").time is None
    with pytest.raises(WindowDefinitionError, match=r"start \('kind'\) is a VARCHAR"):
        analyze(window=Session(start="kind", end="true"))
    with pytest.raises(WindowDefinitionError, match=r"end .* an aggregate"):
        analyze(window=Session(start="true", end="count(*) > 1"))


def test_the_result_says_its_types() -> None:
    """Sums of integers are DECIMAL(38,0), which nothing wraps; means of decimals are decimals."""
    made = plan(s="sum(v)", sd="sum(d)", m="avg(v)", md="avg(d)", r="round(avg(d), 1)", c="count(*)", i="max(id)")
    kinds = {f.name: f.metadata[TYPE_KEY].decode() for f in made.result}
    assert kinds["s"] == "DECIMAL(38,0)"
    assert kinds["sd"] == "DECIMAL(38,2)"
    assert kinds["m"] == "DOUBLE"
    assert kinds["md"] == "DECIMAL(38,8)"
    assert kinds["r"] == "DECIMAL(38,1)"
    assert kinds["c"] == "BIGINT"
    assert kinds["i"] == "UUID"
    assert kinds["window_start"] == "TIMESTAMPTZ"
    assert made.key == ("k", "window_start")
    assert made.keys.names == ["k", "window_start"]


def test_sums_do_not_wrap() -> None:
    """Ten of the greatest BIGINT, and of the least, sum up exactly."""
    found = result_of({"s": "sum(v)", "m": "avg(v)"}, [{"v": BIG}] * 10)
    assert (found["s"], found["m"]) == (Decimal(10 * BIG), float(BIG))
    assert result_of({"s": "sum(v)"}, [{"v": -BIG - 1}] * 10)["s"] == Decimal(10 * (-BIG - 1))


def test_a_sum_beyond_all_digits_is_an_error() -> None:
    """What 38 digits do not hold is said, not cut."""
    huge = "sum(CAST('90000000000000000000000000000000000000' AS DECIMAL(38,0)))"
    with pytest.raises(WindowDefinitionError, match=r"failed on a value.*'x'"):
        result_of({"x": huge}, [{"v": 1}] * 3)


def test_means_of_decimals_are_exact_before_the_declared_rounding() -> None:
    """A mean just below a half is rounded down at once, not first up to eight digits and then up again."""
    few = [{"d": "0.04"}] * 999 + [{"d": "0.05"}] * 998
    mean = Fraction(4 * 999 + 5 * 998, 100 * 1997)
    assert mean < Fraction(45, 1000)
    found = result_of({"r": "avg(d)::DECIMAL(12,2)", "s": "round(avg(d), 2)", "p": "avg(d)"}, few)
    assert (found["r"], found["s"]) == (Decimal("0.04"), Decimal("0.04"))
    assert found["p"] == Decimal("0.04499750")
    half = result_of({"r": "avg(d)::DECIMAL(12,1)", "n": "round(avg(-d), 1)"}, [{"d": "0.20"}, {"d": "0.30"}])
    assert (half["r"], half["n"]) == (Decimal("0.3"), Decimal("-0.3"))


def test_means_of_integers_are_the_nearest_double() -> None:
    """Correctly rounded also where the sum has more digits than a DOUBLE."""
    values = [BIG, BIG - 1, 3, 10**15 + 7, -(2**62) + 1]
    found = result_of({"m": "avg(v)", "q": "round(avg(v), 2)"}, [{"v": v} for v in values])
    assert found["m"] == float(Fraction(sum(values), len(values)))
    # 5 divides 100 * the sum, so that two digits hold the mean.
    assert found["q"] == Decimal(sum(values) * 100 // 5).scaleb(-2)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 4],
        [10**9 + 1, 10**9 + 2, 10**9 + 4],
        [BIG, BIG - 1, BIG - 3],
        [BIG, -BIG - 1, 0, 17],
        [5],
        [-(2**40), 2**40 + 1],
    ],
)
def test_variances_of_integers_are_the_nearest_double(values: list[int]) -> None:
    """No cancellation, however far from zero the values are: the sums of squares are exact."""
    aggregates = {"vs": "variance(v)", "vp": "var_pop(v)", "ss": "stddev(v)", "sp": "stddev_pop(v)", "vd": "var_pop(d)"}
    found = result_of(aggregates, [{"v": v, "d": Decimal(v % 10**9) / 100} for v in values])
    count = len(values)
    deviation = count * sum(v * v for v in values) - sum(values) ** 2
    assert found["vp"] == float(Fraction(deviation, count**2))
    assert found["sp"] == math.sqrt(found["vp"])
    decimals = [Fraction(v % 10**9, 100) for v in values]
    mean = sum(decimals) / count
    assert found["vd"] == float(sum((x - mean) ** 2 for x in decimals) / count)
    if count > 1:
        assert found["vs"] == float(Fraction(deviation, count * (count - 1)))
        assert found["ss"] == math.sqrt(found["vs"])
    else:
        assert found["vs"] is None
        assert found["ss"] is None


def test_floating_variance_does_not_cancel() -> None:
    """Values that differ in their last digits only: merged as Chan et al. do, the variance keeps its digits."""
    values = [1e9 + x for x in (4.0, 7.0, 13.0, 16.0)]
    with log(Tumbling("1 day"), aggregates={"v": "variance(f)", "s": "stddev_pop(f)"}) as made:
        for value in values:
            made.add([{"f": value}])
        (row,) = made.target.values()
    assert row["v"] == pytest.approx(statistics.variance(values), rel=1e-12)
    assert row["s"] == pytest.approx(statistics.pstdev(values), rel=1e-12)


def test_what_is_not_finite_stays_so() -> None:
    """NaN and infinity go through sums, means and variances as floating numbers do, and stop nothing."""
    found = result_of({"s": "sum(f)", "m": "avg(f)", "v": "variance(f)"}, [{"f": math.inf}, {"f": 1.0}])
    assert (found["s"], found["m"]) == (math.inf, math.inf)
    assert math.isnan(found["v"])
    assert math.isnan(result_of({"s": "sum(f)"}, [{"f": math.nan}, {"f": 1.0}])["s"])


def test_nulls_count_in_count_star_only() -> None:
    """A window with only nulls has null sum, min, max, mean, first and last, and counts its rows."""
    aggregates = {
        "n": "count(*)", "c": "count(v)", "z": "count_null(v)", "s": "sum(v)", "lo": "min(v)", "m": "avg(v)",
        "md": "avg(d)", "f1": "first(v)", "l1": "last(v)", "sf": "sum(f)", "vf": "variance(f)", "vv": "var_pop(v)",
    }  # fmt: skip
    found = result_of(aggregates, [{"v": None}, {"v": None}])
    assert [found[name] for name in ("n", "c", "z")] == [2, 0, 2]
    assert {found[name] for name in set(aggregates) - {"n", "c", "z"}} == {None}


def test_first_and_last_go_by_time_and_position() -> None:
    """Not by the order of arrival; of equal times the lower position is first; nulls do not count."""
    with log(Tumbling("1 day"), aggregates={"a": "first(v)", "b": "last(v)", "u": "last(id)"}) as made:
        made.add([{"v": 5, "t": 10, "id": "00000000-0000-0000-0000-000000000005"}, {"v": None, "t": 1}])
        made.add([{"v": 1, "t": 10, "_offset": 0, "_partition": 1}, {"v": 7, "t": 2}, {"v": 9, "t": 2, "_offset": 300}])
        (row,) = made.target.values()
    assert (row["a"], row["b"]) == (7, 1)
    assert str(row["u"]).endswith("5")


def test_filters_apply_to_their_aggregate_only() -> None:
    """count_if and FILTER see the rows that they say."""
    rows = [{"v": 1, "kind": "a"}, {"v": 2, "kind": "b"}, {"v": 4, "kind": "a"}]
    found = result_of(
        {"a": "sum(v) FILTER (WHERE kind = 'a')", "b": "count_if(v > 1)", "c": "count_null(v) FILTER (WHERE v > 1)",
         "all": "sum(v)"},
        rows,
    )  # fmt: skip
    assert [found[name] for name in ("a", "b", "c", "all")] == [Decimal(5), 2, 0, Decimal(7)]


def test_aggregates_computed_again_see_all_rows_of_their_window() -> None:
    """Median, distinct and top-k of a window that grew over batches are those of all its rows."""
    aggregates = {"n": "count(*)", "med": "median(v)", "u": "count(DISTINCT kind)", "top": "mode(kind)", "l": "list(v)"}
    with log(Tumbling("1 minute"), aggregates=aggregates) as made:
        made.add([{"v": 1, "t": 1, "kind": "a"}, {"v": 9, "t": 70, "kind": "z"}])
        made.add([{"v": 2, "t": 30, "kind": "b"}, {"v": 10, "t": 3, "kind": "b"}])
        assert sorted(set(made.asked)) == ["arrival", "rows"]
        assert made.column("med") == [2.0, 9.0]
        assert made.column("u") == [2, 1]
        assert made.column("top") == ["b", "z"]
        assert made.column("l") == [[1, 10, 2], [9]]
        assert made.column("n") == [3, 1]
