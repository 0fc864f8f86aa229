"""Counts of producers: held against what was landed, by policy, with one verdict for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.errors import (
    CompletenessDefinitionError,
    CountsPendingError,
    IncompleteError,
    TopicNotFoundError,
)
from tests.unit.completeness.world import T0, World, counts, of, pipeline


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two producers: `a` sends four records in the first ten minutes, `b` two."""
    made = World(tmp_path)
    made.send(*of("a", 1, 2), at=1)
    made.send(*of("b", 1, 2), at=2, partition=1)
    made.send(*of("a", 3, 4), at=9, partition=1)
    return made


def figures(found: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = found["counts"]["counts"]
    return one


def test_whole_intervals_are_complete(world: World) -> None:
    """Where every producer's count is what was landed, nothing is held and the share is one."""
    world.publish("a", 0, 4)
    world.publish("b", 0, 2)
    found = figures(world.validated(pipeline(counts()), 0))
    assert (found["expected"], found["found"], found["share"], found["verdicts"]) == (6, 6, 1.0, {"complete": 2})
    assert (found["holds"], found["published"]["ranges"], found["published"]["records"]) == (0, ["0:0-2"], 2)


def test_a_short_interval_holds_the_batch(world: World) -> None:
    """Less than the threshold holds the batch and says whose; a lower threshold lets the same batch pass."""
    world.publish("a", 0, 5)
    world.publish("b", 0, 2)
    with pytest.raises(IncompleteError, match=r"'a' 2024-01-01T00:00:00.000Z to .*: short, 4 of 5"):
        world.validated(pipeline(counts()), 0)
    with world.engine() as engine:
        (made,) = engine.ledger.generations("p")
    assert made.state.value == "held"
    assert figures(dict(made.accounting or {})["completeness"])["first"][0]["share"] == 0.8
    found = figures(world.validated(pipeline(counts(threshold=0.8)), 0))
    assert (found["holds"], found["verdicts"], found["found"], found["expected"]) == (0, {"complete": 2}, 6, 7)


def test_warnings_and_releases_pass(world: World) -> None:
    """With on_fail="warn" a short interval is told of; a held batch passes once it is released."""
    world.publish("a", 0, 5)
    found = figures(world.validated(pipeline(counts(on_fail="warn", threshold=0.999)), 0))
    assert found["verdicts"] == {"short": 1, "missing": 1}
    assert (found["holds"], found["short"]) == (0, [[T0, T0 + 600_000]])
    strict = pipeline(counts()).replace(name="q")
    with pytest.raises(IncompleteError):
        world.validated(strict, 0, key="q0")
    with world.engine() as engine:
        (held,) = engine.ledger.generations("q")
        gate.release(engine, "q", held.batch_id, who="me", why="known")
        (report,) = stages.validate(engine, strict, "q0")["batches"]
    assert figures(report["accounting"]["completeness"])["holds"] == 1


def test_a_verdict_stands_for_its_generation(world: World) -> None:
    """What is published later changes no verdict, held or passed, and no file; a new generation compares anew."""
    world.publish("a", 0, 5)
    strict = pipeline(counts())
    with pytest.raises(IncompleteError):
        world.validated(strict, 0)
    before = world.standing()
    assert len(before) == 3
    world.publish("a", 0, 4)
    reads = list(world.control.reads)
    with world.engine() as engine, pytest.raises(IncompleteError, match="4 of 5"):
        stages.validate(engine, strict, "r0")
    assert (world.standing(), world.control.reads) == (before, reads)
    # A correction of the count: the last record about an interval stands.
    found = figures(world.validated(strict.replace(version="2"), 0))
    assert (found["verdicts"], found["published"]["corrected"]) == ({"complete": 1, "missing": 1}, 1)
    passed = world.standing()
    with world.engine() as engine:
        world.publish("a", 0, 9)
        (report,) = stages.validate(engine, strict.replace(version="2"), "r0")["batches"]
    assert figures(report["accounting"]["completeness"]) == found
    assert world.standing() == passed


def test_missing_counts_by_policy(world: World) -> None:
    """An interval without a count: told, held for good, or held until the count is there, and then judged."""
    world.publish("b", 0, 2)
    with pytest.raises(IncompleteError, match=r"'a' .*: missing, 4 of unknown"):
        world.validated(pipeline(counts(on_missing="fail")), 0)
    waiting = pipeline(counts(on_missing="hold"))
    with pytest.raises(CountsPendingError, match="waits for the counts of 1 intervals") as pending:
        world.validated(waiting, 0)
    assert pending.value.retriable
    world.publish("a", 0, 4)
    found = figures(world.validated(waiting, 0))
    assert found["verdicts"] == {"complete": 2}


def test_a_release_ends_the_wait_for_a_count(world: World) -> None:
    """A batch that waits for counts passes once it is released; what is known then is its verdict."""
    waiting = pipeline(counts(on_missing="hold"))
    with pytest.raises(CountsPendingError):
        world.validated(waiting, 0)
    with world.engine() as engine:
        (held,) = engine.ledger.generations("p")
        gate.release(engine, "p", held.batch_id, who="me", why="the producer is gone")
        for _ in range(2):
            (report,) = stages.validate(engine, waiting, "r0")["batches"]
            assert figures(report["accounting"]["completeness"])["verdicts"] == {"missing": 2}
            world.publish("a", 0, 4)
        (passed,) = engine.ledger.generations("p")
    assert passed.state.value == "validated"


def test_a_declared_producer_must_publish(world: World) -> None:
    """A producer that neither sends nor publishes is missed where it is declared."""
    world.publish("a", 0, 4)
    world.publish("b", 0, 2)
    with pytest.raises(IncompleteError, match=r"'c' .*: missing, 0 of unknown"):
        world.validated(pipeline(counts(producers=["a", "c"], on_missing="fail")), 0)
    world.publish("c", 0, 0)
    found = figures(world.validated(pipeline(counts(producers=["c"], on_missing="fail")), 0))
    assert found["verdicts"] == {"complete": 3}


def test_what_does_not_decode_is_told(world: World) -> None:
    """A record whose producer cannot be read counts for nobody and is told; where none is asked for it counts."""
    world.send(b"{", None, b'{"p": null, "n": 1}', b'{"p": "a", "n": "x"}', at=3)
    world.publish("a", 0, 5)
    world.publish("b", 0, 2)
    found = figures(world.validated(pipeline(counts(), max_quarantine_ratio=1.0), 0))
    # Of the four, the last one names its producer: that another field does not fit is not the producer's loss.
    assert (found["found"], found["unread"], found["verdicts"]) == (7, 3, {"complete": 2})
    world.publish("c", 0, 3)
    whole = pipeline(counts(producer=None), max_quarantine_ratio=1.0).replace(name="q")
    found = figures(world.validated(whole, 0, key="q0"))
    assert (found["found"], found["expected"], found["unread"]) == (10, 10, 0)


def test_checksums_tell_duplicates_from_drops(world: World) -> None:
    """A drop that a duplicate makes up for leaves the count, not the sum; more than was sent is told, never held."""
    world.publish("a", 0, 4, checksum=10)
    world.publish("b", 0, 2, checksum=4)
    with pytest.raises(IncompleteError, match=r"'b' .*: differs, 2 of 2"):
        world.validated(pipeline(counts(checksum="n")), 0)
    world.publish("b", 0, 1, checksum=3 - 2**64)
    found = figures(world.validated(pipeline(counts(checksum="n")).replace(name="q"), 0, key="q0"))
    assert found["verdicts"] == {"complete": 1, "surplus": 1}


def test_records_that_come_later_complete_an_interval(world: World) -> None:
    """Within the deadline an interval is judged again with each later batch, over all batches of the chain."""
    world.publish("a", 0, 5)
    world.publish("b", 0, 2)
    rule = pipeline(counts(on_fail="warn"))
    assert figures(world.validated(rule, 0))["verdicts"] == {"complete": 1, "short": 1}
    world.send(*of("b", 9), at=12)
    world.send(*of("a", 5), at=9)
    world.publish("b", 10, 1)
    found = figures(world.validated(rule, 1))
    assert (found["verdicts"], found["again"], found["first"]) == ({"complete": 1}, 2, [])


HOSTILE = [
    (b"", "empty"),
    (None, "empty"),
    (b"\xff", "not_json"),
    (b"[" * 100_000, "too_large"),
    (b"[" * 60_000, "not_json"),
    (b"[]", "not_object"),
    (b'{"producer": "\\ud800", "start": 0, "end": 600000, "count": 1}', "no_producer"),
    (b'{"producer": "", "start": 0, "end": 600000, "count": 1}', "no_producer"),
    (b'{"producer": "a", "start": NaN, "end": 600000, "count": 1}', "no_time"),
    (b'{"producer": "a", "start": "2024-01-01T00:00:00", "end": 0, "count": 1}', "no_time_zone"),
    (b'{"producer": "a", "start": 1, "end": 600001, "count": 1}', "not_an_interval"),
    (b'{"producer": "a", "start": 0, "end": 60000, "count": 1}', "not_an_interval"),
    (b'{"producer": "a", "start": 0, "end": 600000, "count": -1}', "no_count"),
    (b'{"producer": "a", "start": 0, "end": 600000, "count": true}', "no_count"),
    (b'{"producer": "a", "start": 0, "end": 600000, "count": 1' + b"0" * 5000 + b"}", "not_json"),
    (b'{"producer": "a", "start": 0, "end": 600000, "count": 1, "checksum": "x"}', "no_checksum"),
]


def test_malformed_counts_are_counted_and_told(world: World) -> None:
    """Whatever stands in the control topic: records that say nothing are counted by reason, and none stops a run."""
    for value, _ in HOSTILE:
        world.say(value, 10)
    world.publish("<script>\x00\u202e", 0, 0)
    world.publish("a", 0, 4)
    world.publish("b", 0, 2)
    found = figures(world.validated(pipeline(counts()), 0))
    published = found["published"]
    wanted: dict[str, int] = {}
    for _, reason in HOSTILE:
        wanted[reason] = wanted.get(reason, 0) + 1
    assert published["malformed"] == dict(sorted(wanted.items()))
    assert (published["records"], published["first_malformed"][0]) == (len(HOSTILE) + 3, "0:0 empty")
    assert found["verdicts"] == {"complete": 3}


def test_a_missing_control_topic_is_named(world: World) -> None:
    """Without its control topic a batch is not judged; the error names rule and topic, and nothing is written down."""
    world.missing = True
    with pytest.raises(TopicNotFoundError, match="'counts': the control topic 'orders_counts' does not exist"):
        world.validated(pipeline(counts()), 0)
    assert [name for name in world.standing() if name.endswith(".json")] == []
    world.missing = False
    world.publish("a", 0, 4)
    world.publish("b", 0, 2)
    assert figures(world.validated(pipeline(counts()), 0))["share"] == 1.0


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (counts(producer="q"), "producer='q' is not a column .* 'p', 'd', 'n', 'ts'"),
        (counts(checksum="p"), "checksum='p' is declared as VARCHAR"),
    ],
)
def test_unknown_columns_are_refused_by_check(world: World, rule: Any, said: str) -> None:
    """What a rule names must be declared, and of a type that it can use; a plan refuses it before anything is read."""
    with pytest.raises(CompletenessDefinitionError, match=said):
        stages.check(pipeline(rule))
    with pytest.raises(CompletenessDefinitionError, match=said):
        world.run(pipeline(rule), 0)
    assert world.log.asked == []
