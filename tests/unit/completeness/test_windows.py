"""Windows and completeness: the watermark waits for what is not there yet, and what never comes is not `_complete`."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.errors import BatchHeldError
from airflow_provider_eventlog.declare import DuckDB, Sequence, Tumbling, Windows
from tests.unit.completeness.world import MINUTE, STREAM, T0, World, counts, interval, of, pipeline, up_to_transformed


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One partition without records."""
    return World(tmp_path, partitions=1)


def windowed(*rules: Any, **more: Any) -> Any:
    """Counts by five minutes."""
    output = Windows(Tumbling("5 minutes"), aggregates={"c": "count(*)"}, target=DuckDB("out.duckdb", table="w"))
    return pipeline(*rules, outputs=[output], **more)


def table(world: World) -> list[tuple[Any, ...]]:
    """(minutes after T0, count, final, complete) of each window."""
    with duckdb.connect(str(world.home / "out.duckdb"), read_only=True) as connection:
        return connection.execute(
            f"SELECT CAST((epoch_ms(window_start) - {T0}) // {MINUTE} AS INTEGER), c, _final, _complete FROM w "
            f"ORDER BY ALL"
        ).fetchall()


def marks(world: World, made: Any) -> list[int | None]:
    """The watermark behind each fold, in minutes after T0."""
    with world.engine() as engine:
        folds = engine.ledger.folds(made.name, "w", 1)
    return [None if fold.watermark is None else (fold.watermark - T0) // MINUTE for fold in folds]


@pytest.mark.parametrize("by", ["timestamp", "event"])
def test_windows_wait_for_the_rest_of_an_interval(world: World, by: str) -> None:
    """With on_fail="wait" no window of a short interval is final before the rest is there; then it goes on."""
    made = windowed(counts(on_fail="wait", on_missing="wait", deadline="30 minutes", time=by))
    world.send(*of("a", 1), at=1)
    world.send(*of("a", 2), at=9)
    world.publish("a", 0, 3)
    world.run(made, 0)
    world.send(*of("a", 3), at=19)
    world.publish("a", 10, 1)
    world.run(made, 1)
    assert marks(world, made) == [0, 0]
    assert table(world) == [(0, 1, False, True), (5, 1, False, True), (15, 1, False, True)]
    world.send(*of("a", 4), at=8)
    world.send(*of("a", 5), at=29)
    world.publish("a", 20, 1)
    world.run(made, 2)
    assert marks(world, made) == [0, 0, 29]
    assert table(world) == [(0, 1, True, True), (5, 2, True, True), (15, 1, True, True), (25, 1, False, True)]


def test_the_deadline_ends_the_wait(world: World) -> None:
    """Past the deadline the windows are final without what never came, and are not complete; others are."""
    made = windowed(counts(on_fail="wait", deadline="10 minutes"))
    world.send(*of("a", 1), at=1)
    world.publish("a", 0, 2)
    world.run(made, 0)
    assert marks(world, made) == [0]
    world.send(*of("a", 2), at=19)
    world.publish("a", 10, 1)
    report = world.run(made, 1)
    figures = report["validate"]["batches"][0]["accounting"]["completeness"]["counts"]["counts"]
    assert (figures["waits"], figures["short"]) == ([], [[T0, T0 + 10 * MINUTE]])
    assert marks(world, made) == [0, 19]
    assert table(world) == [(0, 1, True, False), (15, 1, False, True)]


def test_a_warning_moves_on_and_leaves_the_windows_incomplete(world: World) -> None:
    """With on_fail="warn" the watermark does not wait; windows of a short interval say that they are not complete."""
    made = windowed(counts(on_fail="warn"))
    world.send(*of("a", 1), at=1)
    world.send(*of("a", 2), at=9)
    world.publish("a", 0, 3)
    world.run(made, 0)
    assert marks(world, made) == [9]
    assert table(world) == [(0, 1, True, False), (5, 1, False, False)]


def test_a_held_batch_holds_the_windows(world: World) -> None:
    """A batch that the gate holds enters no window; released it does, and its windows are not complete."""
    made = windowed(counts())
    world.send(*of("a", 1), at=1)
    world.publish("a", 0, 2)
    with pytest.raises(BatchHeldError):
        world.run(made, 0)
    world.send(*of("a", 2), at=11)
    world.publish("a", 10, 1)
    waits = world.run(made, 1)["load"]["windows"]["w"]
    assert (waits["outcome"], "which the gate holds" in waits["waiting"]) == ("waiting", True)
    with world.engine() as engine:
        (held,) = [g for g in engine.ledger.generations("p") if g.state.value == "held"]
        gate.release(engine, "p", held.batch_id, who="me", why="known")
        stages.validate(engine, made, "r0")
        stages.load(engine, made, "r0")
    assert table(world) == [(0, 1, True, False), (10, 1, False, True)]


def test_what_is_published_later_changes_no_window(tmp_path: Path) -> None:
    """Folding goes by the accounting that a batch was committed with, whatever is published by the time of folding."""
    found = []
    for name, meddled in (("one", False), ("other", True)):
        world = World(tmp_path / name, partitions=1)
        (tmp_path / name).mkdir()
        made = windowed(counts(on_fail="wait", deadline="1 hour"))
        for number in range(3):
            world.send(*of("a", number), at=10 * number + 1)
            world.publish("a", 10 * number, 2 if number == 1 else 1)
            with world.engine() as engine:
                up_to_transformed(engine, made, interval(number), f"r{number}")
                stages.validate(engine, made, f"r{number}")
        if meddled:
            for number in range(3):
                world.publish("a", 10 * number, 9)
        with world.engine() as engine:
            for number in range(3):
                stages.validate(engine, made, f"r{number}")
                stages.load(engine, made, f"r{number}")
        found.append((marks(world, made), table(world)))
    assert found[0] == found[1]
    assert found[0][0] == [1, 10, 10]


def test_the_chain_that_begins_within_an_interval_proves_nothing_of_it(world: World) -> None:
    """An interval that began before the chain did is not judged short; the next one is judged."""
    stream = dataclasses.replace(STREAM, start="interval")
    made = pipeline(counts(every="20 minutes"), stream=stream)
    world.send(*of("a", 1), at=1)
    world.send(*of("a", 2), at=12)
    world.publish("a", 0, 2, minutes=20)
    found = world.validated(made, 1)["counts"]["counts"]
    assert (found["verdicts"], found["holds"]) == ({"unproved": 1}, 0)


@pytest.mark.parametrize("seed", range(2))
def test_figures_equal_an_independent_count(tmp_path: Path, seed: int) -> None:
    """Producers, drops and duplicates at random: figures are a plain count's, bytes those of any attempt."""
    chance = random.Random(seed)
    producers = [f"p{n}" for n in range(chance.randint(1, 4))]
    script: list[tuple[str, int, int, float]] = []
    for number in range(3):
        for producer in producers:
            for n in range(chance.randint(0, 6)):
                copies = chance.choice([0, 1, 1, 1, 2])
                script += [(producer, number, n, 10 * number + chance.random() * 9)] * copies
    script.sort(key=lambda one: one[3])
    sent = {(p, i): chance.randint(0, 6) for p in producers for i in range(3)}
    rule = counts(on_fail="warn", checksum="n")
    numbers = Sequence(by=["p"], column="n")
    seen = []
    for home in ("one", "again"):
        (tmp_path / home).mkdir()
        world = World(tmp_path / home, partitions=1)
        made = pipeline(rule, numbers)
        for number in range(3):
            for p, i, n, at in script:
                if i == number:
                    world.send({"p": p, "d": "x", "n": n}, at=at)
            for p in producers:
                world.publish(p, 10 * number, sent[p, number], checksum=0)
            found = world.validated(made, number)
            before = world.standing()
            with world.engine() as engine:
                (report,) = stages.validate(engine, made, f"r{number}")["batches"]
            assert report["accounting"]["completeness"] == found
            assert world.standing() == before
            mine = found["counts"]["counts"]
            assert mine["expected"] == sum(sent[p, number] for p in producers)
            assert mine["found"] == sum(i == number for _, i, _, _ in script)
            verdicts = dict.fromkeys(("complete", "surplus", "short", "differs"), 0)
            for p in producers:
                landed = [n for q, i, n, _ in script if (q, i) == (p, number)]
                wrong = "differs" if sum(landed) else "complete"
                wanted = sent[p, number]
                said = "short" if len(landed) < wanted else "surplus" if len(landed) > wanted else wrong
                verdicts[said] += 1
            assert mine["verdicts"] == {v: n for v, n in verdicts.items() if n}
        seen.append(world.standing())
    assert seen[0] == seen[1]
