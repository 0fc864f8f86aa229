"""Numbers without gaps: within a batch and across batches, whatever the split."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.completeness import sequences, tally
from airflow_provider_eventlog.core.completeness.plan import plan_of
from airflow_provider_eventlog.core.errors import IncompleteError
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.declare import Sequence
from tests.unit.completeness.world import World, of, pipeline

DEVICES = Sequence(by=["d"], column="n")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two partitions without records."""
    return World(tmp_path)


def figures(found: dict[str, Any], name: str = "n") -> dict[str, Any]:
    one: dict[str, Any] = found["sequences"][name]
    return {k: one[k] for k in ("records", "new", "filled", "missing", "duplicates", "regressions", "verdict")}


def test_a_gap_is_found_within_and_across_batches_and_told_as_filled(world: World) -> None:
    """A gap is missing in the batch that opens it, across batches too, and filled in the one that brings it."""
    rule = pipeline(DEVICES)
    world.send(*of("a", 5, 6, 8), at=1)
    first = world.validated(rule, 0)
    assert figures(first) == {
        "records": 3, "new": 3, "filled": 0, "missing": 1, "duplicates": 0, "regressions": 0, "verdict": "gaps",
    }  # fmt: skip
    assert first["sequences"]["n"]["first"] == [{"key": '["x"]', "low": 7, "high": 7}]
    world.send(*of("a", 12), at=11)
    found = world.validated(rule, 1)
    assert (figures(found)["missing"], found["sequences"]["n"]["first"][0]["low"]) == (3, 9)
    world.send(*of("a", 7, 10, 12, 13), at=21, partition=1)
    assert figures(world.validated(rule, 2)) == {
        "records": 4, "new": 1, "filled": 2, "missing": 0, "duplicates": 1, "regressions": 0, "verdict": "complete",
    }  # fmt: skip


def test_regressions_are_told_across_slices_and_batches(world: World) -> None:
    """A number smaller than the one before it in its partition is a regression, also across a batch's end."""
    rule = pipeline(DEVICES)
    world.send(*of("a", 1, 3, 2, 4, 5, 6, 7, 8, 9), at=1)
    assert figures(world.validated(rule, 0))["regressions"] == 1
    world.send(*of("a", 9, 8, 10), at=11)
    found = figures(world.validated(rule, 1))
    assert (found["regressions"], found["duplicates"], found["missing"]) == (1, 2, 0)


def test_a_threshold_holds_or_lets_pass(world: World) -> None:
    """With on_fail="fail" a batch with a smaller share of its numbers is held, and says which are missing."""
    world.send(*of("a", 1, 2, 3, 5), at=1)
    strict = Sequence(by=["d"], column="n", on_fail="fail", threshold=0.9)
    with pytest.raises(IncompleteError, match=r"sequence 'n': 1 numbers are missing \(\[\"x\"\] 4 to 4\), 4 are new"):
        world.validated(pipeline(strict), 0)
    lenient = Sequence(by=["d"], column="n", on_fail="fail", threshold=0.8)
    assert figures(world.validated(pipeline(lenient), 0))["verdict"] == "complete"


def test_a_declared_first_number_is_missed(world: World) -> None:
    """What lies between the declared first number and the lowest one seen is missing, and only once."""
    rule = pipeline(Sequence(by=[], column="n", start=1))
    world.send(*of("a", 3, 4), at=1)
    assert figures(world.validated(rule, 0))["missing"] == 2
    world.send(*of("a", 2, 5), at=11)
    found = figures(world.validated(rule, 1))
    assert (found["new"], found["filled"], found["missing"]) == (1, 1, 0)


def test_numbers_at_the_ends_of_their_type(world: World) -> None:
    """The least and the greatest numbers of 64 bits are numbers like others."""
    low, high = -(2**63), 2**63 - 1
    world.send(*of("a", low, low + 1), at=1)
    rule = pipeline(DEVICES)
    assert figures(world.validated(rule, 0))["missing"] == 0
    world.send(*of("a", high), at=11)
    assert figures(world.validated(rule, 1))["missing"] == 2**64 - 3


def test_null_keys_and_numbers(world: World) -> None:
    """A NULL key is a key of its own; a record without a number is told and counts nowhere."""
    world.send({"d": None, "n": 1}, {"d": "null", "n": 7}, {"d": None, "n": 2}, {"d": "x"}, at=1)
    found = world.validated(pipeline(DEVICES), 0)
    assert (figures(found)["missing"], found["sequences"]["n"]["unread"]) == (0, 1)


def raw(rows: list[tuple[int, int, str | None, int | None]]) -> pa.Table:
    """A raw table of (partition, offset, key, number)."""
    return pa.Table.from_pylist(
        [
            {
                "topic": "t", "partition": p, "offset": o, "timestamp": 0, "timestamp_type": 0, "key": None,
                "value": (b'{"d": %s, "n": %s}' % (f'"{d}"'.encode() if d else b"null", str(n or 0).encode())),
                "headers": [],
            }
            for p, o, d, n in rows
        ],
        schema=rawfile.RAW_SCHEMA,
    )  # fmt: skip


def pieces(rows: list[Any], chance: random.Random) -> Iterator[list[Any]]:
    """The rows of each partition cut at random."""
    for partition in (0, 1):
        mine = [row for row in rows if row[0] == partition]
        while mine:
            size = chance.randint(1, len(mine))
            yield mine[:size]
            mine = mine[size:]


@pytest.mark.parametrize("seed", range(6))
def test_any_split_gives_the_same_standing(seed: int) -> None:
    """Drops, duplicates, disorder at random: the standing of any split is that of one slice, and of a plain count."""
    chance = random.Random(seed)
    numbers = {d: [n for n in range(30) if chance.random() < 0.8] for d in ("a", "b", None)}
    sent = [(d, n) for d, known in numbers.items() for n in known for _ in range(1 + (chance.random() < 0.1))]
    if chance.random() < 0.5:
        chance.shuffle(sent)
    at = [0, 0]
    rows = []
    for d, n in sent:
        p = chance.randrange(2)
        rows.append((p, at[p], d, n))
        at[p] += 1
    plan = plan_of(pipeline(DEVICES))
    counted = [tally.count_slice(plan, raw(piece), piece[0][0]) for piece in pieces(sorted(rows), chance)]
    chance.shuffle(counted)
    half = chance.randint(0, len(counted))
    several = [sequences.compose(*part) for part in (counted[:half], counted[half:]) if part]
    # Partial states may only be of whole stretches of a partition for regressions; all tallies at once always are.
    made = sequences.compose(*counted)
    ranges = [made.filter(pa.compute.equal(made["kind"], "range")) for made in (made, sequences.compose(*several))]
    assert ranges[0].equals(ranges[1])
    one = sequences.compose(*(tally.count_slice(plan, raw([r for r in sorted(rows) if r[0] == p]), p) for p in (0, 1)))
    assert one.equals(made)
    with session(threads=1) as connection:
        found = sequences.standing(connection, DEVICES, made)
    by_key = {d: [n for key, n in sent if key == d] for d in numbers}
    last: dict[Any, int] = {}
    regressions = 0
    for p, _, d, n in sorted(rows):
        regressions += n < last.get((p, d), n)
        last[p, d] = n
    missing = sum(max(ns) - min(ns) + 1 - len(set(ns)) for ns in by_key.values() if ns)
    assert {k: found[k] for k in ("records", "numbers", "missing", "duplicates", "regressions")} == {
        "records": len(sent),
        "numbers": sum(len(set(ns)) for ns in by_key.values()),
        "missing": missing,
        "duplicates": len(sent) - sum(len(set(ns)) for ns in by_key.values()),
        "regressions": regressions,
    }
