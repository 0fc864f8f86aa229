"""Fold state: a base, deltas of touched keys, and compaction."""

from __future__ import annotations

from decimal import Decimal

from airflow_provider_eventlog.core.digest import table_digest
from airflow_provider_eventlog.core.windows import state
from airflow_provider_eventlog.core.windows.partials import partial
from airflow_provider_eventlog.declare.windows import Session, Tumbling
from tests.unit.windows.folding import log, plan_of


def test_deltas_come_to_the_same_whenever_they_are_compacted() -> None:
    """Base and deltas, all deltas at once, or each in turn: one state, in one order."""
    with log(Session("10 s", "1 minute")) as made:
        results = [
            made.add([{"k": k, "v": n, "t": 6 * n} for k in ("a", None, "")][: 1 + n % 3], until=5 * n)
            for n in range(9)
        ]
        deltas = [result.delta for result in results]
        connection, plan = made.connection, made.plan
        once = state.apply(connection, plan, state.empty_state(plan), deltas)
        middle = state.apply(connection, plan, state.empty_state(plan), deltas[:4])
        later = state.apply(connection, plan, middle, deltas[4:])
        assert table_digest(once) == table_digest(later) == table_digest(made.state)
        assert once.num_rows > 2
        assert state.apply(connection, plan, once, []) is once


def test_a_delta_holds_what_was_touched_and_nothing_else() -> None:
    """A fold's delta grows with its own keys, not with the state."""
    with log(Tumbling("1 year")) as made:
        made.add([{"k": f"key {n}", "v": 1, "t": n} for n in range(500)])
        result = made.add([{"k": "key 7", "v": 1, "t": 1}])
        assert result.delta.column("k").to_pylist() == ["key 7"]
        assert made.state.num_rows == 500


def test_final_windows_leave_the_state() -> None:
    """What is final takes no room: a delta row says that it has gone, without its contents."""
    with log(Tumbling("1 minute")) as made:
        made.add([{"k": "a", "v": 1, "t": 1}], until=1)
        result = made.add([{"k": "a", "v": 1, "t": 61}], until=60)
        (gone,) = [row for row in result.delta.to_pylist() if row["_gone"]]
        assert {value for name, value in gone.items() if name not in ("k", "_kind", "_start", "_gone")} == {None}
        assert made.state.num_rows == 1
        straight = made.add([{"k": "b", "v": 1, "t": 61}], until=120)
        assert [row["_gone"] for row in straight.delta.to_pylist()] == [True]


def test_a_changed_recipe_starts_from_the_open_windows() -> None:
    """An older recipe's state, restated, keeps windows and revisions; a correction gives them contents."""
    with log(Tumbling("1 minute")) as made:
        made.add([{"k": "a", "v": 5, "t": 1}], until=1)
        made.add([{"k": "a", "v": 6, "t": 2}])
        made.plan = plan_of(made.connection, Tumbling("1 minute"), aggregates={"top": "max(v)"})
        made.state = state.restate(made.plan, made.state)
        assert made.state.schema.equals(made.plan.state)
        made.partials = [partial(made.connection, made.plan, rows) for rows in made.batches]
        made.correct(0, [{"k": "a", "v": 5, "t": 1}])
        (row,) = made.target.values()
        assert (row["top"], row["_revision"]) == (6, 3)
        assert Decimal(row["_rows"]) == 2
