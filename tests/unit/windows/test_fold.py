"""Folding into fixed and sliding windows: final means final, late rows are told, amendments are new revisions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.errors import WindowLimitError
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.windows import filling, frames, state
from airflow_provider_eventlog.core.windows.fold import Arrival, fold
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.declare.windows import Hopping, Tumbling
from tests.unit.windows.folding import at, log, ms, plan_of, table

MINUTE = Tumbling("1 minute")


def test_results_grow_until_they_are_final() -> None:
    """A window is published as rows come, each time with the next revision; final, it leaves the state and stays."""
    with log(MINUTE) as made:
        made.add([{"k": "a", "v": 1, "t": 1}], until=1)
        made.add([{"k": "a", "v": 2, "t": 59}], until=59)
        (row,) = made.target.values()
        assert (row["n"], row["s"], row["_revision"], row["_final"]) == (2, Decimal(3), 2, False)
        made.add([{"k": "b", "v": 5, "t": 60}], until=60)
        first, second = (made.target["a", at(0)], made.target["b", at(60)])
        assert (first["n"], first["_revision"], first["_final"]) == (2, 2, True)
        assert (second["_revision"], second["_final"]) == (1, False)
        assert made.state.column("k").to_pylist() == ["b"]


def test_a_window_becomes_final_one_lateness_after_its_end() -> None:
    """Until the watermark has passed end plus allowed lateness, rows are taken."""
    with log(MINUTE, allowed_lateness="30 s") as made:
        made.add([{"k": "a", "t": 1}], until=89.999)
        made.add([{"k": "a", "t": 2}], until=90)
        assert made.column("n") == [2]
        assert made.column("_final") == [True]
        made.add([{"k": "a", "t": 3}])
        assert (made.column("n"), made.counts["late"]) == ([2], 1)


def test_late_rows_are_told_with_every_window_they_missed() -> None:
    """A row may be late for some of its windows: rows and pairs are counted apart, and both balance."""
    with log(Hopping("1 minute", "20 s")) as made:
        made.add([{"k": "a", "t": 100}], until=100)
        result = made.add([{"k": "a", "v": 7, "t": 50}, {"k": "a", "v": 9, "t": 10}, {"k": None, "t": 101}])
        told = [(row["v"], row["_window_start"], row["_window_end"]) for row in result.late.to_pylist()]
        assert told == [
            (7, at(0), at(60)),
            (7, at(20), at(80)),
            (7, at(40), at(100)),
            (9, at(-40), at(20)),
            (9, at(-20), at(40)),
            (9, at(0), at(60)),
        ]
        assert {(row["_watermark"], row["_reason"]) for row in made.late} == {(at(100), "final before the row came")}
        assert made.counts["rows"] == 3
        assert (made.counts["placed"], made.counts["late"], made.counts["late_pairs"]) == (1, 2, 6)
        made.add([{"k": "a", "t": 70}])
        assert (made.counts["placed"], made.counts["late"], made.counts["late_pairs"]) == (1, 0, 2)


def test_a_late_row_changes_nothing_but_the_late_output() -> None:
    """The final window's row is not published again, and the state does not hear of it."""
    with log(MINUTE) as made:
        made.add([{"k": "a", "v": 1, "t": 1}], until=60)
        result = made.add([{"k": "a", "v": 2, "t": 2}])
        assert (result.upserts.num_rows, result.deletes.num_rows, result.delta.num_rows) == (0, 0, 0)
        assert result.late.num_rows == 1


def test_amending_publishes_a_new_revision() -> None:
    """With on_late="amend" a row for a final window makes a revision of it, from the closed window alone."""
    with log(MINUTE, on_late="amend", aggregates={"n": "count(*)", "s": "sum(v)", "u": "count(DISTINCT v)"}) as made:
        made.add([{"k": "a", "v": 1, "t": 1}], until=60)
        made.add([{"k": "a", "v": 2, "t": 70}], until=130)
        made.add([{"k": "a", "v": 1, "t": 2}, {"k": "z", "v": 4, "t": 3}])
        row = made.target["a", at(0)]
        assert (row["n"], row["s"], row["u"], row["_revision"], row["_final"]) == (2, Decimal(2), 1, 2, True)
        new = made.target["z", at(0)]
        assert (new["n"], new["_revision"], new["_final"]) == (1, 1, True)
        assert made.counts["amended"] == 2
        assert made.target["a", at(60)]["_revision"] == 1
        made.add([{"k": "a", "v": 8, "t": 3}])
        assert (made.target["a", at(0)]["n"], made.target["a", at(0)]["_revision"]) == (3, 3)
        assert made.late == []
        assert made.state.num_rows == 0


def test_an_explicit_act_amends_what_the_output_would_not() -> None:
    """`amend=True` gives a final window a new revision once, where its contents are at hand."""
    with log(MINUTE) as made:
        made.add([{"k": "a", "v": 1, "t": 1}], until=60)
        made.correct(0, [{"k": "a", "v": 5, "t": 1}], amend=True)
        row = made.target["a", at(0)]
        assert (row["s"], row["_final"]) == (Decimal(5), True)


def test_a_corrected_generation_counts_once() -> None:
    """A replaced batch's partial results take the place of the earlier ones; windows that lose all rows are deleted."""
    with log(MINUTE) as made:
        made.add([{"k": "a", "v": 1, "t": 1}, {"k": "b", "v": 3, "t": 5}], until=1)
        made.add([{"k": "a", "v": 2, "t": 2}])
        made.correct(0, [{"k": "a", "v": 10, "t": 1}, {"k": "c", "v": 1, "t": 61}])
        assert made.target["a", at(0)]["s"] == Decimal(12)
        assert made.target["c", at(60)]["s"] == Decimal(1)
        assert ("b", at(0)) not in made.target
        assert sorted(made.state.column("k").to_pylist()) == ["a", "c"]
        made.add([{"k": "a", "v": 100, "t": 3}])
        assert made.target["a", at(0)]["s"] == Decimal(112)


def test_a_correction_leaves_final_windows_alone() -> None:
    """Without an act to amend, a corrected generation changes open windows only, and says how many it left."""
    with log(MINUTE) as made:
        made.add([{"k": "a", "v": 1, "t": 1}, {"k": "a", "v": 1, "t": 61}], until=60)
        made.correct(0, [{"k": "a", "v": 7, "t": 1}, {"k": "a", "v": 7, "t": 61}])
        assert made.column("s") == [Decimal(1), Decimal(7)]
        assert made.counts["kept"] == 1
        assert made.late == []


def test_null_and_empty_keys_are_keys() -> None:
    """NULL, the empty text and any text make windows of their own; so does having no key at all."""
    with log(MINUTE) as made:
        for _ in range(2):
            made.add([{"k": None, "t": 1}, {"k": "", "t": 1}, {"k": "a", "t": 1}])
        assert made.column("n") == [2, 2, 2]
        assert made.column("_revision") == [2, 2, 2]
    with log(MINUTE, by=[]) as made:
        made.add([{"k": None, "t": 1}, {"k": "", "t": 1}], until=1)
        made.add([{"k": "a", "t": 2}], until=60)
        assert list(made.target) == [(at(0),)]
        assert (made.column("n"), made.column("_final")) == ([3], [True])


def test_several_keys_of_several_types() -> None:
    """Keys may be numbers, identifiers, times; each combination is one."""
    one = "00000000-0000-0000-0000-000000000001"
    with log(MINUTE, by=["v", "id", "d"]) as made:
        made.add(
            [{"v": 1, "id": one, "d": "1.50"}, {"v": 1, "id": one, "d": "1.50"}, {"v": 1, "id": None, "d": "1.50"}]
        )
        made.add([{"v": 1, "id": one, "d": "1.5"}, {"v": None, "id": one, "d": None}])
        assert sorted(made.column("n")) == [1, 1, 3]
        assert made.plan.key == ("v", "id", "d", "window_start")


@pytest.mark.parametrize(("fill", "empty"), [("null", None), ("zero", Decimal(0))])
def test_empty_windows_are_filled_between_the_first_and_the_last(fill: str, empty: Any) -> None:
    """Each key gets its own; they count 0 rows, hold NULL or 0, become final like others and take rows until then."""
    with log(MINUTE, fill=fill, aggregates={"n": "count(*)", "s": "sum(v)", "l": "last(kind)"}) as made:
        made.add([{"k": "a", "v": 1, "t": 1}, {"k": "b", "v": 1, "t": 250}], until=1)
        made.add([{"k": "a", "v": 2, "t": 190}], until=130)
        assert made.column("n") == [1, 0, 0, 1, 1]
        assert made.column("s") == [Decimal(1), empty, empty, Decimal(2), Decimal(1)]
        assert made.column("l") == [None] * 5
        assert made.column("_final") == [True, True, False, False, False]
        made.add([{"k": "a", "v": 5, "t": 130}, {"k": "a", "v": 5, "t": 70}], until=200)
        assert made.column("n") == [1, 0, 1, 1, 1]
        assert made.target["a", at(120)]["_revision"] == 2
        assert made.counts["late"] == 1
        made.add([{"k": "a", "v": 5, "t": 400}])
        assert [start for key, start in sorted(made.target) if key == "a"] == [at(60 * n) for n in range(7)]


def test_an_earlier_row_fills_towards_the_left() -> None:
    """A row before the key's first window fills what lies between them."""
    with log(MINUTE, fill="null") as made:
        made.add([{"k": "a", "t": 200}])
        made.add([{"k": "a", "t": 1}])
        assert made.column("n") == [1, 0, 0, 1]
        made.add([{"k": "a", "t": 70}])
        assert made.column("n") == [1, 1, 0, 1]


def test_a_filled_window_that_loses_its_rows_stays_empty() -> None:
    """A correction does not tear a hole into a filled series."""
    with log(MINUTE, fill="zero", aggregates={"n": "count(*)", "u": "count(DISTINCT v)"}) as made:
        made.add([{"k": "a", "v": 1, "t": 70}])
        made.add([{"k": "a", "v": 1, "t": 1}, {"k": "a", "v": 1, "t": 130}])
        made.correct(0, [{"k": "a", "v": 1, "t": 2}])
        assert made.column("n") == [2, 0, 1]
        assert made.column("u") == [1, 0, 1]


def test_a_wrong_time_does_not_fill_for_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    """More empty windows than is sensible are refused before anything is made."""
    monkeypatch.setattr(filling, "LIMIT", 1000)
    with log(MINUTE, fill="null") as made:
        made.add([{"k": "a", "ts": datetime(2024, 1, 1, tzinfo=UTC)}])
        with pytest.raises(WindowLimitError, match=r"527040 empty windows.*Nothing was folded"):
            made.add([{"k": "a", "ts": datetime(2025, 1, 1, tzinfo=UTC)}])
        assert made.column("n") == [1]


@pytest.mark.parametrize(
    ("holes", "whole"),
    [
        ([], [True, True, True]),
        ([(ms(60), ms(120))], [True, False, True]),
        ([(ms(59), ms(60))], [False, True, True]),
        ([(None, ms(61))], [False, False, True]),
        ([(ms(120), None)], [True, True, False]),
        ([(None, None)], [False, False, False]),
        ([(ms(0), ms(1)), (ms(179), ms(500))], [False, True, False]),
    ],
)
def test_windows_that_a_hole_can_touch_are_not_complete(
    holes: Sequence[tuple[int | None, int | None]], whole: list[bool]
) -> None:
    """`_complete` says whether uncovered offsets can still hold rows of the window."""
    with log(MINUTE) as made:
        made.add([{"k": "a", "t": 60 * n} for n in range(3)], until=120, holes=holes)
        assert made.column("_complete") == whole


def test_a_fold_needs_only_what_it_touches() -> None:
    """State rows of other keys and of windows that stay open may be left out: the change-set is the same."""
    with session(threads=1) as connection:
        plan = plan_of(connection, MINUTE)
        first = table([{"k": k, "v": 1, "t": t} for k in "abc" for t in (1, 70, 130)])
        one = fold(
            connection,
            plan,
            state.empty_state(plan),
            Arrival([partial(connection, plan, first)], lambda wanted: first),
            before=None,
            after=ms(0),
        )
        whole = state.apply(connection, plan, state.empty_state(plan), [one.delta])
        frames.show(connection, "_whole", whole)
        start = ms(60) * 1000
        part = frames.fetch(connection, f"SELECT * FROM _whole WHERE k = 'a' OR _start < {start}", plan.state)
        assert part.num_rows < whole.num_rows
        second = table([{"k": "a", "v": 5, "t": 71}], first=50)
        results = [
            fold(
                connection,
                plan,
                given,
                Arrival([partial(connection, plan, second)], lambda wanted: second),
                before=ms(0),
                after=ms(60),
            )
            for given in (whole, part)
        ]
        digests = {tuple(table_digest(t) for t in (r.delta, r.upserts, r.deletes, r.late)) for r in results}
        assert len(digests) == 1
        assert results[0].upserts.num_rows == 4


def test_a_fold_without_a_past_says_what_it_lacks() -> None:
    """Where rows of earlier folds are needed and cannot be read, nothing is made up."""
    with session(threads=1) as connection:
        plan = plan_of(connection, MINUTE, aggregates={"m": "median(v)"})
        rows = table([{"k": "a", "v": 1, "t": 1}])
        arrival = Arrival([partial(connection, plan, rows)], lambda wanted: rows)
        with pytest.raises(LookupError, match="no way to read them"):
            fold(connection, plan, state.empty_state(plan), arrival, before=None, after=ms(1))
