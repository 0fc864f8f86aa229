"""Corrected generations and changed recipes: nothing counts twice, final windows stay, nobody mixes recipes unasked."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import CheckFailedError, RecipeChangedError, RequestError
from airflow_provider_eventlog.core.folding import listing, recipes
from airflow_provider_eventlog.core.folding.upgrading import upgrade
from airflow_provider_eventlog.declare import Check, DuckDB, Hopping, Pipeline, Rows, Session, Tumbling
from tests.support.listlog import ListLog
from tests.unit.folding.world import (
    NOT_NEGATIVE,
    SHOWN,
    STREAM,
    T0,
    interval,
    pipeline,
    rows,
    send,
    windows,
)

TIMED = dataclasses.replace(STREAM, start=datetime.fromtimestamp(T0 / 1000, UTC))
ACT = {"who": "me", "why": "a test"}
SUMS = "CAST((epoch_ms(window_start) - 1704067200000) / 60000 AS INTEGER), n, s, _final, _revision"


def doubled(**more: Any) -> Pipeline:
    """The values count twice."""
    return pipeline(stream=TIMED, transform="select k, 2 * v as v, ts from batch", **more)


def plain(*outputs: Any, **more: Any) -> Pipeline:
    """The values as they are, by a transform like that of `doubled`."""
    return pipeline(*outputs, stream=TIMED, transform="select k, v as v, ts from batch", **more)


def run(engine: Engine, made: Pipeline, number: int) -> dict[str, Any]:
    """All stages of an interval of ten minutes; what became of the windows."""
    report: dict[str, Any] = stages.run(engine, made, interval(number), f"r{number}")["load"]["windows"]
    return report


def send_two(log: ListLog) -> None:
    """Two intervals: minutes 2, 9 and 9, 12; the last minute of the first one stays open."""
    send(log, ("a", 1, 2.1), ("a", 2, 9.5))
    send(log, ("a", 4, 10.5), ("a", 8, 12.5))


@pytest.mark.parametrize("on_late", ["late", "amend"])
def test_a_recomputed_batch_takes_its_own_place(engine: Engine, log: ListLog, tmp_path: Path, on_late: str) -> None:
    """Computed again under an equal recipe, a batch replaces its partial results: windows are what they were."""
    send_two(log)
    made = plain(windows(on_late=on_late, allowed_lateness="1 minute"))
    run(engine, made, 0)
    run(engine, made, 1)
    before = rows(tmp_path, SHOWN)
    again = dataclasses.replace(interval(1), recompute=True)
    folded = stages.run(engine, made, again, "again")["load"]["windows"]["w"]["folded"]
    assert [fold["cause"] for fold in folded] == ["correction"]
    after = rows(tmp_path, SHOWN)
    assert [row[:5] for row in after] == [row[:5] for row in before]
    assert [row for row in after if row[4]] == [row for row in before if row[4]] or on_late == "amend"


def test_a_changed_recipe_is_refused_with_the_difference(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Windows never take a changed recipe on their own: the plan says what changed and what can be decided."""
    send_two(log)
    run(engine, plain(), 0)
    changed = doubled()
    with pytest.raises(RecipeChangedError, match=r"transform was .*select k, v as v.* and is .*2 \* v.*--rebuild"):
        stages.plan(engine, changed, interval(1), "r1")
    with pytest.raises(RecipeChangedError, match="upgrade"):
        stages.preview(engine, changed, interval(1))
    assert engine.ledger.run("r1", "p") is None
    # How much may be quarantined and how long files stay is no part of the recipe.
    run(engine, plain(max_quarantine_ratio=0.5, derived_retention="9 days"), 1)
    assert [row[0] for row in rows(tmp_path, SUMS)] == [2, 9, 10, 12]


def test_an_older_recipe_that_comes_back_changes_nothing(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A run cleared with its old declaration finds its old generation, after the windows have gone on."""
    send_two(log)
    run(engine, plain(), 0)
    upgrade(engine, doubled(), recipes.NEXT, **ACT)
    run(engine, doubled(), 1)
    before = rows(tmp_path)
    assert run(engine, plain(), 0)["w"]["outcome"] == "nothing"
    assert rows(tmp_path) == before
    with pytest.raises(RecipeChangedError):
        stages.plan(engine, plain(), interval(2), "r2")


def test_from_the_next_batch_on(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """What has entered stays, what comes goes by the new recipe; a window may hold both."""
    send_two(log)
    send(log, ("a", 16, 9.9), recorded=11)
    run(engine, plain(windows(disorder="2 minutes")), 0)
    made = dataclasses.replace(doubled(), outputs=[windows(disorder="2 minutes")])
    dry = upgrade(engine, made, recipes.NEXT, **ACT, keep=False)
    assert (dry["kept"], dry["batches"]) == (False, 0)
    assert engine.ledger.decisions("s", recipes.UPGRADE) == ()
    upgrade(engine, made, recipes.NEXT, **ACT)
    run(engine, made, 1)
    assert [row[:3] for row in rows(tmp_path, SUMS)] == [(2, 1, 1), (9, 2, 2 + 32), (10, 1, 8), (12, 1, 16)]


def test_open_windows_are_made_again_and_final_ones_stay(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """--reopen-open-windows derives what reaches into open windows again: they follow, final windows do not."""
    send_two(log)
    run(engine, plain(), 0)
    run(engine, plain(), 1)
    assert [row[:4] for row in rows(tmp_path, SUMS)] == [
        (2, 1, 1, True), (9, 1, 2, True), (10, 1, 4, True), (12, 1, 8, False)
    ]  # fmt: skip
    report = upgrade(engine, doubled(), recipes.REOPEN, **ACT)
    assert (report["batches"], report["offsets"]) == (1, 2)
    assert [row[:4] for row in rows(tmp_path, SUMS)] == [
        (2, 1, 1, True), (9, 1, 2, True), (10, 1, 4, True), (12, 1, 16, False)
    ]  # fmt: skip
    # The same call again has nothing left to do.
    assert upgrade(engine, doubled(), recipes.REOPEN, **ACT)["batches"] == 1
    assert len(engine.ledger.folds("p", "w", 1)) == 3


def test_a_rebuild_folds_everything_anew(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """--rebuild opens another log: all batches, empty and off-chain ones too, derived again from staged raw."""
    send_two(log)
    send(log, ("a", 32, 31))
    made = plain(Rows(DuckDB("w.duckdb", table="r")), windows())
    for number in range(4):
        run(engine, made, number)
    changed = doubled()
    changed = dataclasses.replace(
        changed, outputs=[made.outputs[0], windows(aggregates={"n": "count(*)", "s": "sum(v)", "top": "max(v)"})]
    )
    with pytest.raises(RequestError, match="--rebuild"):
        upgrade(engine, changed, recipes.NEXT, **ACT)
    assert engine.ledger.decisions("s", recipes.UPGRADE) == ()
    # Another table, since the columns are others.
    changed = dataclasses.replace(
        changed,
        outputs=[
            changed.outputs[0],
            dataclasses.replace(changed.outputs[1], target=DuckDB("w.duckdb", table="w2"), name="w"),
        ],
    )
    log.reads.clear()
    report = upgrade(engine, changed, recipes.REBUILD, **ACT)
    assert (report["logs"], report["batches"], log.reads) == ({"w": 2}, 4, [])
    found = rows(
        tmp_path, "CAST((epoch_ms(window_start) - 1704067200000) / 60000 AS INTEGER), n, s, top, _revision", "w2"
    )
    assert found == [(2, 1, 2, 2, 1), (9, 1, 4, 4, 1), (10, 1, 8, 8, 1), (12, 1, 16, 16, 1), (31, 1, 64, 64, 1)]
    assert rows(tmp_path, "sum(v)", "r") == [(94,)]
    assert [one.recipe for one in engine.ledger.fold_logs("p", "w")] == [made.recipe, changed.recipe]


def test_an_upgrade_that_was_stopped_goes_on(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Stopped amid its batches, the same call finishes: one decision, each batch once."""
    send_two(log)
    run(engine, plain(), 0)
    run(engine, plain(), 1)
    done = []

    def stop(what: str, number: int, total: int) -> None:
        if what == "batches derived again":
            done.append(number)
            raise KeyboardInterrupt

    engine.progress = stop
    with pytest.raises(KeyboardInterrupt):
        upgrade(engine, doubled(), recipes.REBUILD, **ACT)
    assert done == [1]
    assert listing.overview(engine, "p", doubled().canonical())[0]["folds"] == 1
    engine.progress = lambda *_: None
    upgrade(engine, doubled(), recipes.REBUILD, **ACT)
    assert len(engine.ledger.decisions("s", recipes.UPGRADE)) == 1
    assert [record.n for record in engine.ledger.folds("p", "w", 2)] == [1, 2]
    assert [row[:3] for row in rows(tmp_path, SUMS)] == [(2, 1, 2), (9, 1, 4), (10, 1, 8), (12, 1, 16)]


def test_an_output_that_is_new_begins_where_the_others_stand(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Windows that are added to a pipeline take what comes next; batches before have no results for them."""
    send_two(log)
    run(engine, plain(), 0)
    made = plain(windows(), windows(window=Hopping("4 minutes", "2 minutes"), target=DuckDB("w.duckdb", table="h")))
    upgrade(engine, made, recipes.NEXT, **ACT)
    run(engine, made, 1)
    assert sum(row[1] for row in rows(tmp_path, SUMS)) == 4
    assert rows(tmp_path, "min(epoch_ms(window_end) - 1704067200000) / 60000, sum(n)", "h") == [(12, 4)]


def test_nothing_to_upgrade_is_said(engine: Engine, log: ListLog) -> None:
    """Without folds, and under an unchanged recipe, nothing is decided."""
    with pytest.raises(RequestError, match="no windows that are folded"):
        upgrade(engine, plain(), recipes.NEXT, **ACT)
    send_two(log)
    run(engine, plain(), 0)
    with pytest.raises(RequestError, match="already"):
        upgrade(engine, plain(), recipes.NEXT, **ACT)
    assert engine.ledger.decisions("s") == ()


def test_a_held_batch_is_corrected_under_a_new_recipe(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A recipe that has held the first batch may change: nothing is folded yet, nobody has to decide."""
    send(log, ("a", -1, 2), ("a", 2, 3), ("a", 4, 12))
    strict = plain(checks=[NOT_NEGATIVE])
    with pytest.raises(CheckFailedError):
        run(engine, strict, 0)
    assert run(engine, strict, 1)["w"]["waiting"]
    lax = plain(checks=[Check("not_negative", "v >= -1")])
    # Nothing was folded yet, so that there is nothing to decide on.
    assert [fold["n"] for fold in run(engine, lax, 0)["w"]["folded"]] == [1]
    assert (
        engine.ledger.generations("p", engine.ledger.run_plan("r0", "p").batches[0].batch.batch_id)[-1].generation == 2
    )


def test_a_session_over_three_batches_is_one(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A session goes on over batches; a late row that joins two published ones merges them, and the old key goes."""
    made = plain(windows(window=Session(gap="9 minutes", max_duration="1 hour"), on_late="amend"))
    send(log, ("a", 1, 5), ("a", 2, 12), ("a", 4, 20), ("b", 1, 29))
    for number in range(3):
        run(engine, made, number)
    assert [(row[0], row[2]) for row in rows(tmp_path, SHOWN)] == [("a", 3), ("b", 1)]
    send(log, ("a", 8, 36), ("b", 1, 55))
    send(log, ("a", 16, 28), recorded=55)
    for number in range(3, 6):
        run(engine, made, number)
    assert [(row[0], row[1], row[2], row[3]) for row in rows(tmp_path, SHOWN) if row[0] == "a"] == [("a", 5.0, 5, 31)]


def test_rows_of_an_older_recipe_that_lack_a_column_are_named(engine: Engine, log: ListLog) -> None:
    """Medians need all rows of a window: where earlier ones lack a column that is new, it is said."""
    medians = windows(window=Tumbling("1 hour"), aggregates={"m": "median(v)"})
    send_two(log)
    run(engine, plain(medians), 0)
    wider = pipeline(medians, stream=TIMED, transform="select k, v, v + 1 as more, ts from batch")
    upgrade(engine, wider, recipes.NEXT, **ACT)
    with pytest.raises(RecipeChangedError, match="without the column 'more'"):
        run(engine, wider, 1)
    assert len(engine.ledger.folds("p", "w", 1)) == 1
