"""Sessions: where they begin and end, how they join over batches, and what becomes of those that were published."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from airflow_provider_eventlog.core.windows import scanning, state
from airflow_provider_eventlog.declare.windows import Session
from tests.unit.windows.folding import Log, at, log

GAP = Session("10 s", "1 minute")
EVENTS = {"start": "kind = 'login'", "end": "kind = 'logout'"}


def spans(made: Log) -> list[tuple[float, float, int]]:
    """Start, end (seconds after the beginning) and rows of all published sessions of key a, by time."""
    return [
        ((start - at(0)).total_seconds(), (row["window_end"] - at(0)).total_seconds(), row["n"])
        for (key, start), row in sorted(made.target.items())
        if key == "a"
    ]


def test_one_gap_apart_belongs_together_and_a_millisecond_more_parts() -> None:
    """[first, last + gap), and a row just at its end extends it; in one batch and over two."""
    for cut in (1, 2, 3):
        rows = [{"k": "a", "t": 0}, {"k": "a", "t": 10}, {"k": "a", "t": 20.001}]
        with log(GAP) as made:
            made.add(rows[:cut])
            made.add(rows[cut:])
            assert spans(made) == [(0, 20, 2), (20.001, 30.001, 1)]


def test_a_row_whose_value_is_null_extends_its_session() -> None:
    """What counts is the row, not its value."""
    with log(GAP) as made:
        made.add([{"k": "a", "v": 1, "t": 0}, {"k": "a", "v": None, "t": 9}, {"k": "a", "v": 3, "t": 18}])
        assert spans(made) == [(0, 28, 3)]
        assert made.column("s") == [Decimal(4)]


def test_a_session_spans_batches() -> None:
    """Three hourly batches, one session: each batch publishes it anew under the same key."""
    with log(Session("2 hours", "1 day")) as made:
        for hour in range(3):
            made.add([{"k": "a", "v": hour, "t": 3600 * hour + 1800}], until=3600 * hour)
        assert spans(made) == [(1800, 1800 + 3 * 3600 + 3600, 3)]
        assert made.column("_revision") == [3]
        assert made.asked == []


def test_no_session_is_longer_than_it_may_be() -> None:
    """A key that never rests gets session after session, each cut where its longest duration is over."""
    rows = [{"k": "a", "t": 7 * n} for n in range(30)]
    for size in (30, 11, 4):
        with log(GAP) as made:
            for first in range(0, 30, size):
                made.add(rows[first : first + size])
            assert spans(made) == [(0, 60, 9), (63, 123, 9), (126, 186, 9), (189, 213, 3)]


def test_a_row_before_a_long_session_moves_its_cuts() -> None:
    """Cuts count from the first row: one that lies earlier moves them all, and retires what was there."""
    with log(GAP) as made:
        made.add([{"k": "a", "t": 7 * n} for n in range(12)])
        assert spans(made) == [(0, 60, 9), (63, 87, 3)]
        made.add([{"k": "a", "t": -5}])
        assert spans(made) == [(-5, 55, 9), (56, 87, 4)]
        assert made.state.num_rows == 2


def test_a_late_row_joins_two_open_sessions() -> None:
    """They become one; the later one's key leaves the target."""
    with log(GAP) as made:
        made.add([{"k": "a", "v": 1, "t": 0}, {"k": "a", "v": 2, "t": 15}], until=5)
        result = made.add([{"k": "a", "v": 4, "t": 7}])
        assert spans(made) == [(0, 25, 3)]
        assert result.deletes.to_pylist() == [{"k": "a", "window_start": at(15)}]
        assert made.column("s") == [Decimal(7)]
        assert made.column("_revision") == [2]


def test_a_late_row_between_final_sessions_goes_to_the_late_output() -> None:
    """What it would join is final: both sessions stay as they are, the row is told with the one that it missed."""
    with log(GAP) as made:
        made.add([{"k": "a", "v": 1, "t": 0}, {"k": "a", "v": 2, "t": 15}], until=26)
        assert made.column("_final") == [True, True]
        result = made.add([{"k": "a", "v": 4, "t": 7}, {"k": "a", "v": 8, "t": 20}])
        assert spans(made) == [(0, 10, 1), (15, 25, 1)]
        assert [(r["v"], r["_window_start"], r["_window_end"]) for r in result.late.to_pylist()] == [
            (4, at(7), at(17)),
            (8, at(15), at(25)),
        ]
        assert (made.counts["rows"], made.counts["placed"], made.counts["late"]) == (2, 0, 2)


def test_a_row_in_time_is_never_late() -> None:
    """A late row that touches a final session does not pull one that is in time along."""
    with log(GAP) as made:
        made.add([{"k": "a", "t": 0}], until=12)
        made.add([{"k": "a", "v": 1, "t": 10}, {"k": "a", "v": 2, "t": 19}])
        assert [row["v"] for row in made.late] == [1]
        assert spans(made) == [(0, 10, 1), (19, 29, 1)]


def test_a_session_stays_open_while_a_row_in_time_could_extend_it() -> None:
    """At watermark last + gap a row of that very instant may still come, and belongs to it."""
    with log(GAP) as made:
        made.add([{"k": "a", "t": 0}], until=10)
        assert made.column("_final") == [False]
        made.add([{"k": "a", "t": 10}], until=20.001)
        assert spans(made) == [(0, 20, 2)]
        assert made.column("_final") == [True]


def test_amending_joins_published_sessions_and_retires_their_keys() -> None:
    """With on_late="amend" a row between two final sessions makes one of them, in a new revision."""
    with log(GAP, on_late="amend") as made:
        made.add([{"k": "a", "v": 1, "t": 0}, {"k": "a", "v": 2, "t": 15}, {"k": "a", "v": 9, "t": 200}], until=150)
        result = made.add([{"k": "a", "v": 4, "t": 7}])
        assert spans(made) == [(0, 25, 3), (200, 210, 1)]
        assert result.deletes.to_pylist() == [{"k": "a", "window_start": at(15)}]
        assert [(row["_revision"], row["_final"]) for row in made.target.values()] == [(2, True), (1, False)]
        made.add([{"k": "a", "v": 100, "t": 30}])
        assert spans(made) == [(0, 25, 3), (30, 40, 1), (200, 210, 1)]
        made.add([{"k": "a", "v": 100, "t": 24}])
        assert spans(made) == [(0, 40, 5), (200, 210, 1)]
        assert made.late == []


def test_amending_cuts_long_sessions_anew() -> None:
    """A row before final sessions that were cut moves the cuts of all of them."""
    with log(GAP, on_late="amend") as made:
        made.add([{"k": "a", "t": 7 * n} for n in range(12)], until=500)
        assert made.column("_final") == [True, True]
        made.add([{"k": "a", "t": -5}])
        assert spans(made) == [(-5, 55, 9), (56, 87, 4)]
        assert made.column("_final") == [True, True]
        assert made.state.num_rows == 0


def test_a_final_session_is_forgotten_once_every_row_that_could_touch_it_is_late() -> None:
    """State keeps one trace of a key's last final session, and no longer than it is of use."""
    with log(GAP) as made:
        made.add([{"k": "a", "t": 0}], until=15)
        assert made.state.column("_kind").to_pylist() == [state.CLOSED]
        made.add([], until=20)
        assert made.state.num_rows == 1
        made.add([], until=20.001)
        assert made.state.num_rows == 0
        made.add([{"k": "a", "t": 9}])
        assert made.counts["late"] == 1


def test_corrected_sessions_are_told_from_all_rows() -> None:
    """A corrected batch may split a session, join two, or take one away."""
    with log(GAP) as made:
        made.add([{"k": "a", "v": 1, "t": 8}, {"k": "b", "v": 1, "t": 0}])
        made.add([{"k": "a", "v": 2, "t": 0}, {"k": "a", "v": 4, "t": 16}])
        assert spans(made) == [(0, 26, 3)]
        made.correct(0, [{"k": "c", "v": 8, "t": 5}])
        assert spans(made) == [(0, 10, 1), (16, 26, 1)]
        assert sorted(key for key, _ in made.target) == ["a", "a", "c"]
        made.correct(0, [{"k": "a", "v": 8, "t": 10}])
        assert spans(made) == [(0, 26, 3)]
        made.add([{"k": "a", "v": 16, "t": 20}])
        assert made.target["a", at(0)]["s"] == Decimal(30)


def test_aggregates_computed_again_see_the_joined_session() -> None:
    """Distinct counts and medians of a session are those of all its rows, over batches and joins."""
    with log(GAP, aggregates={"n": "count(*)", "u": "count(DISTINCT v)", "m": "median(v)"}) as made:
        made.add([{"k": "a", "v": 1, "t": 0}, {"k": "a", "v": 2, "t": 15}])
        made.add([{"k": "a", "v": 1, "t": 8}])
        assert spans(made) == [(0, 25, 3)]
        assert (made.column("u"), made.column("m")) == ([2], [1.0])


def test_sessions_between_events() -> None:
    """From login to logout; a second login begins another one; rows outside are in none, and counted."""
    with log(Session(**EVENTS, max_duration="1 hour")) as made:
        kinds = ["x", "login", "x", "logout", "x", "login", "x", "login", "x"]
        made.add([{"k": "a", "t": 10 * n, "kind": kind} for n, kind in enumerate(kinds)])
        assert spans(made) == [(10, 30, 3), (50, 70, 2), (70, 3670, 2)]
        assert (made.counts["rows"], made.counts["placed"], made.counts["outside"]) == (9, 7, 2)
        made.add([{"k": "a", "t": 90, "kind": "logout"}, {"k": "a", "t": 95, "kind": "x"}])
        assert spans(made)[-1] == (70, 90, 3)
        assert made.counts["outside"] == 1


def test_a_late_event_changes_sessions_that_are_open() -> None:
    """A login that comes later but lies earlier takes in the rows after it; a logout sets those after it free."""
    with log(Session(**EVENTS)) as made:
        made.add([{"k": "a", "t": 10, "kind": "x"}, {"k": "a", "t": 20, "kind": "x"}])
        assert (spans(made), made.counts["outside"]) == ([], 2)
        made.add([{"k": "a", "t": 5, "kind": "login"}])
        assert spans(made) == [(5, 20, 3)]
        made.add([{"k": "a", "t": 15, "kind": "logout"}])
        assert spans(made) == [(5, 15, 3)]


def test_a_session_between_events_ends_at_its_longest() -> None:
    """Without a logout it ends max_duration after the login, and is final then; without a bound it stays open."""
    with log(Session(**EVENTS, max_duration="1 minute")) as made:
        made.add(
            [{"k": "a", "t": 0, "kind": "login"}, {"k": "a", "t": 59, "kind": "x"}, {"k": "a", "t": 60, "kind": "x"}]
        )
        assert (spans(made), made.counts["outside"]) == ([(0, 60, 2)], 1)
        made.add([], until=60)
        assert made.column("_final") == [True]
        made.add([{"k": "a", "t": 30, "kind": "x"}])
        assert made.counts["late"] == 1
    with log(Session(**EVENTS)) as made:
        made.add([{"k": "a", "t": 0, "kind": "login"}], until=10_000_000)
        assert (spans(made), made.column("_final")) == ([(0, 0, 1)], [False])
        made.add([{"k": "a", "t": 9_999_999, "kind": "x"}])
        assert spans(made) == [(0, 9_999_999, 2)]


def test_several_starts_at_one_instant_are_one_session() -> None:
    """A session is known by its key and start, so the first of them counts."""
    with log(Session(**EVENTS)) as made:
        made.add([{"k": "a", "t": 0, "kind": "login"}] * 3)
        assert spans(made) == [(0, 0, 3)]


def test_keys_do_not_touch() -> None:
    """NULL, empty and other keys have sessions of their own; without keys all rows share them."""
    rows = [{"k": k, "t": 3 * n} for n, k in enumerate([None, "", "a", None, "", "a"])]
    with log(GAP) as made:
        made.add(rows[:2])
        made.add(rows[2:])
        assert made.column("n") == [2, 2, 2]
    with log(GAP, by=[]) as made:
        made.add(rows[:2])
        made.add(rows[2:], until=100)
        assert (made.column("n"), made.column("_final")) == ([6], [True])
        assert made.state.num_rows == 0


@pytest.mark.parametrize("gap", [3, 10])
def test_cutting_is_the_same_as_walking(gap: int) -> None:
    """Sessions of many groups at once are those that a walk from row to row finds."""
    made = np.random.default_rng(gap)
    group = np.sort(made.integers(0, 40, 5_000))
    time = np.empty(5_000, np.int64)
    for number in range(40):
        mine = group == number
        time[mine] = np.sort(made.integers(0, 2_000, int(mine.sum())))
    far = np.full(5_000, -(2**62))
    rows = scanning.Rows(group, time, np.ones(5_000, np.bool_), far, far, far)
    found = scanning.by_gap(rows, gap, 25, 0, -(2**62), amend=False)
    walked, first, last, number = [], 0, 0, -1
    for index in range(5_000):
        new = index == 0 or group[index] != group[index - 1] or time[index] - last > gap or time[index] >= first + 25
        if new:
            first, number = int(time[index]), number + 1
        last = int(time[index])
        walked.append(number)
    assert found.of.tolist() == walked
    assert number > 400
