"""Rules of completeness as they are declared, and what looks after a home that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import gc, stages
from airflow_provider_eventlog.core.completeness import listing
from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.core.fsck import fsck
from airflow_provider_eventlog.declare import ControlTopic, CountsTable, ProducerCounts, Sequence
from tests.unit.completeness.world import World, counts, interval, of, pipeline, up_to_transformed

TOPIC = ControlTopic("c")
WRONG: Any = "wrong"
BAD = [
    (lambda: ControlTopic("a/b"), "not a name that Kafka allows"),
    (lambda: ControlTopic("c", count=""), "count='' must be the name"),
    (lambda: ControlTopic("c", max_records=0), "max_records=0"),
    (lambda: CountsTable("mysql://x/y", "t"), "must begin with one of duckdb://"),
    (lambda: CountsTable("postgresql://me:secret@host/db", "t"), "holds a password"),
    (lambda: CountsTable("postgresql://host/db?password=secret", "t"), "holds a password"),
    (lambda: CountsTable("duckdb:///x", ""), "needs the name of a table"),
    (lambda: ProducerCounts(WRONG), "must be ControlTopic or CountsTable"),
    (lambda: ProducerCounts(TOPIC, threshold=1.1), "threshold=1.1 must be a share from 0 to 1"),
    (lambda: ProducerCounts(TOPIC, threshold=True), "threshold=True"),
    (lambda: ProducerCounts(TOPIC, every=0), "every=0 must be"),
    (lambda: ProducerCounts(TOPIC, time="now"), "time='now' is not one of timestamp, event"),
    (lambda: ProducerCounts(TOPIC, on_fail="hold"), "on_fail='hold' is not one of fail, warn, wait"),
    (lambda: ProducerCounts(TOPIC, on_missing="x"), "on_missing='x' is not one of fail, warn, wait, hold"),
    (lambda: ProducerCounts(TOPIC, producers=["a"]), "producers= needs producer="),
    (lambda: ProducerCounts(TOPIC, "p", producers=["a", "a"]), "a list of different names"),
    (lambda: ProducerCounts(TOPIC, deadline="soon"), "deadline='soon'"),
    (lambda: Sequence(by="d", column="n"), "by='d' must be a list"),
    (lambda: Sequence(by=["d"]), "column name ''"),
    (lambda: Sequence(by=["n"], column="n"), "not part of the key"),
    (lambda: Sequence(by=["d"], column="n", threshold=-1), "threshold=-1"),
    (lambda: Sequence(by=["d"], column="n", on_fail="wait"), "on_fail='wait' is not one of fail, warn"),
    (lambda: Sequence(by=["d"], column="n", start=WRONG), "start='wrong'"),
    (lambda: pipeline(TOPIC), "completeness must be a list of ProducerCounts"),
    (lambda: pipeline(counts(), counts()), "completeness hold the name 'counts' twice"),
]


@pytest.mark.parametrize(("make", "said"), BAD)
def test_wrong_usage_is_a_clear_error(make: Any, said: str) -> None:
    """Each wrong argument is refused when it is declared, and named; no password is repeated."""
    with pytest.raises(DeclarationError) as caught:
        make()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_rules_are_no_part_of_the_recipe() -> None:
    """Rules stand in the declaration, change no recipe, and leave the text of a pipeline without any as it was."""
    plain, ruled = pipeline(), pipeline(counts(), Sequence(by=["d"], column="n"))
    assert "completeness" not in json.loads(plain.serialize())
    assert [next(iter(one)) for one in json.loads(ruled.serialize())["completeness"]] == ["counts", "sequence"]
    assert ruled.recipe == plain.recipe
    assert ruled.serialize() == pipeline(counts(), Sequence(by=["d"], column="n")).serialize()


def test_upkeep_finds_nothing_wrong(tmp_path: Path) -> None:
    """An audit is content with a home that has verdicts, and gc leaves their files alone, however old."""
    world = World(tmp_path)
    world.send(*of("a", 1, 2), at=1)
    world.publish("a", 0, 2)
    world.run(pipeline(counts(), Sequence(by=["d"], column="n")), 0)
    before = world.standing()
    assert len(before) == 3
    with world.engine() as engine:
        assert fsck(engine, "s")["findings"] == []
        engine.clock = lambda: 2**42
        gc.collect(engine, grace_ms=1)
    assert world.standing() == before


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_standing_does_not_depend_on_who_was_first(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Batches that are landed and judged in any order end with the same standing; a later verdict says since when."""
    world = World(tmp_path)
    rule = Sequence(by=["d"], column="n")
    made = pipeline(rule)
    for number, sent in enumerate([(1, 2), (4, 6), (5, 5), (9,)]):
        world.send(*of("a", *sent), at=10 * number + 1)
    # All are planned first, as runs that go on side by side do.
    with world.engine() as engine:
        for number in range(4):
            stages.plan(engine, made, interval(number), f"r{number}")
        for number in order:
            up_to_transformed(engine, made, interval(number), f"r{number}")
            stages.validate(engine, made, f"r{number}")
        declaration = json.loads(made.serialize())
        (found,) = listing.standing(engine, "p", declaration, listing.batches(engine, "p", "s"))
    assert found == {
        "sequence": "n", "keys": 1, "records": 7, "numbers": 6, "missing": 3, "duplicates": 1, "regressions": 1,
        "first": [{"key": '["x"]', "low": 3, "high": 3}, {"key": '["x"]', "low": 7, "high": 8}],
    }  # fmt: skip
