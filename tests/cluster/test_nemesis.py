"""Brokers die at random while producers write and batches are planned, landed and loaded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.cluster.brokers import Brokers
from tests.cluster.nemesis import Nemesis
from tests.cluster.world import World
from tests.cluster.writers import Plain, Transactional

PARTITIONS, SECONDS, KILLS = 3, 22.0, 4


def test_random_kills_lose_and_double_nothing(brokers: Brokers, world: Callable[..., World]) -> None:
    """Whatever brokers do, every failure is retriable, and after healing plain retries load each record once.

    Records of aborted transactions are nowhere; the checker compares every row with what the producers were told.
    """
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    made = world(PARTITIONS, max_slice_offsets=400)
    nemesis = Nemesis(brokers, seed)
    words = (brokers.settings, made.topic, PARTITIONS, made.history)
    writers = [Plain(*words, seed=f"{seed}-plain"), Transactional(*words, seed=f"{seed}-transactional")]
    for thread in (*writers, nemesis):
        thread.start()
    deadline, runs = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline or len(brokers.injected) < KILLS:
        runs += made.attempt(f"run-{runs}", deadline_s=6.0) is None
    nemesis.end()
    brokers.heal()
    for writer in writers:
        writer.end()
    made.retry(f"run-{runs}")
    made.drain()
    report = made.verify()
    print("\n".join(made.said))
    print(f"{runs} runs under fire; transactions {writers[1].ended}; {brokers.injected}")  # type: ignore[attr-defined]
    assert len(brokers.injected) >= KILLS
    assert min(report.figures["ok"], report.figures["fail"]) > 0
    assert report.figures["invisible"] > 0
