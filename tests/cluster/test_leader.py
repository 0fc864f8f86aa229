"""The leader is killed in the middle of a read and of a plan."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from airflow_provider_eventlog.core.errors import SourceUnavailableError
from airflow_provider_eventlog.core.requests import RunRequest
from tests.cluster.brokers import Brokers
from tests.cluster.world import World

RECORDS, PADDING = 30_000, 1000


def test_the_leader_is_killed_in_the_middle_of_a_read(brokers: Brokers, world: Callable[..., World]) -> None:
    """A read whose leader dies goes on at the next one, or fails retriably and a plain retry ends it: nothing is lost.

    The client may hold 1 MB ahead and the range has 30: at the kill most of it is still with the brokers.
    """
    made = world()
    made.fill(RECORDS, PADDING)
    leader, killed_at = brokers.leader(made.topic), list[int]()

    def kill(step: str) -> None:
        if (found := re.match(r"got (\d+) of", step)) and int(found[1]) >= 3000 and not killed_at:
            killed_at.append(int(found[1]))
            brokers.kill(leader)

    error = made.attempt(hook=kill, memory_mb=1)
    assert 3000 <= killed_at[0] < RECORDS // 2
    print(f"killed at {killed_at[0]} of {RECORDS}, the first attempt ended with {error!r}")
    assert brokers.wait_leader(made.topic, but=leader)
    made.retry()
    brokers.restart(leader)
    assert made.verify().figures["rows"] == RECORDS


@pytest.mark.parametrize("step", ["log_ends", "offsets_at"])
def test_the_leader_is_killed_in_the_middle_of_a_plan(brokers: Brokers, world: Callable[..., World], step: str) -> None:
    """A plan that loses its leader between two requests is made, or made by a plain retry; its batch is whole."""
    made = world(start="interval")
    made.fill(1000)
    leader = brokers.leader(made.topic)

    def kill(now: str) -> None:
        if now == step and not brokers.injected:
            brokers.kill(leader)

    interval = RunRequest("interval", interval=(1, 2_000_000), first=True)
    error = made.attempt("run", interval, hook=kill)
    assert brokers.injected == [f"kill {leader}"]
    print(f"killed before {step}, the first attempt ended with {error!r}")
    made.retry("run", interval)
    brokers.restart(leader)
    made.drain()
    assert made.verify().figures["rows"] == 1000


def _in_the_end(lookup: Callable[[], object]) -> object:
    """What a look-up answers as soon as it answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return lookup()
        except SourceUnavailableError:
            assert time.monotonic() < deadline


def test_a_dead_leader_is_never_taken_for_an_answer(brokers: Brokers, world: Callable[..., World]) -> None:
    """Looking offsets up at a leader that is dead and not replaced yet is an error; afterwards the answers are right.

    The client leaves such partitions out of its answer without an error: an end that is no number, and for a time "no
    record at or after it", which would be a cut at the wrong place.
    """
    made = world(partitions=3)
    made.fill(300, partitions=3)
    source = made.source(deadline_s=0.9)
    source.describe()
    lookups: list[Callable[[], object]] = [source.log_starts, source.log_ends, lambda: source.offsets_at(0)]
    right = [lookup() for lookup in lookups]
    brokers.kill(brokers.leader(made.topic))
    with pytest.raises(SourceUnavailableError) as caught:
        source.log_ends()
    assert caught.value.retriable
    for lookup, answer in zip(lookups, right, strict=True):
        assert _in_the_end(lookup) == answer
    assert right[:2] == [dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 100)]
