"""Lines that are slow, cut, silent or refused: never a success with wrong rows, never a hang, retriable when it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_eventlog.core.errors import EventLogError, ReadTimeoutError, SourceUnavailableError
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange
from tests.cluster.brokers import NODES, Brokers
from tests.cluster.world import World
from tests.support.toxics import UP, Bandwidth, Latency, Reset, Slicer, Timeout, Toxic, deaf_port

DEADLINE_S = 3.0
# Over its deadline an error may be late by as much as this: ends of threads and of clients on a busy machine.
LATE_S = 6.0
ROOT = Path(__file__).parents[2]


def failed(attempt: Callable[[], EventLogError | None], *kinds: type[EventLogError], waits: int = 1) -> None:
    """The attempt fails in one of these ways, which are retriable, after at most so many deadlines."""
    began = time.monotonic()
    error = attempt()
    took = time.monotonic() - began
    print(f"{took:.1f} s: {type(error).__name__}: {error}")
    assert isinstance(error, kinds), repr(error)
    assert error.retriable
    assert took < waits * DEADLINE_S + LATE_S


@pytest.mark.parametrize(
    ("toxic", "records"),
    [
        (Latency(seconds=0.5, jitter=0.1), 2000),
        (Bandwidth(rate=100_000), 300),
        (Slicer(size=400), 2000),
        (Reset(after=150_000, times=6), 2000),
    ],
    ids=["latency", "bandwidth", "slicer", "reset-amid-fetches"],
)
def test_a_bad_line_changes_no_row(brokers: Brokers, world: Callable[..., World], toxic: Toxic, records: int) -> None:
    """Behind a line that is slow, cuts answers to pieces or is reset amid fetches every record is loaded once."""
    made = world()
    made.fill(records, 1000)
    brokers.spoil(toxic)
    made.retry(tries=2)
    assert toxic.hits >= (toxic.times if isinstance(toxic, Reset) else 5)
    brokers.heal()
    assert made.verify().figures["rows"] == records


@pytest.mark.parametrize(
    "toxic",
    [Timeout(after=1 << 20), Timeout(direction=UP), Reset(after=20_000)],
    ids=["black-hole-amid-fetches", "black-hole", "reset-amid-every-fetch"],
)
def test_a_broken_line_is_a_retriable_failure(brokers: Brokers, world: Callable[..., World], toxic: Toxic) -> None:
    """Behind a line on which nothing can be finished a read ends within its deadline, without rows; a retry goes on."""
    made = world()
    made.fill(6000, 1000)
    brokers.spoil(toxic)
    failed(lambda: made.attempt(deadline_s=DEADLINE_S), ReadTimeoutError, SourceUnavailableError, waits=2)
    assert toxic.hits > 0
    assert not (made.home / "out.duckdb").exists()
    brokers.heal()
    made.retry()
    assert made.verify().figures["rows"] == 6000


def test_refused_connections(brokers: Brokers, world: Callable[..., World]) -> None:
    """Where nobody listens the source is unavailable, within the deadline; when it is back a retry succeeds."""
    made = world()
    made.fill(100)
    for proxy in brokers.proxies.values():
        proxy.refuse()
    brokers.injected.append("refuse")
    failed(lambda: made.attempt(deadline_s=DEADLINE_S), SourceUnavailableError)
    brokers.heal()
    made.retry()
    assert made.verify().figures["rows"] == 100


def test_a_leader_that_nobody_reaches(brokers: Brokers, world: Callable[..., World]) -> None:
    """The cluster answers, but the leader refuses clients, and stays leader: no hang, no row; then a retry succeeds."""
    made = world()
    made.fill(100)
    leader = brokers.leader(made.topic)

    def refuse(step: str) -> None:
        if step == "read" and not brokers.injected:
            brokers.proxies[leader].refuse()
            brokers.injected.append(f"refuse at {leader}")

    failed(lambda: made.attempt(hook=refuse, deadline_s=DEADLINE_S), ReadTimeoutError, SourceUnavailableError, waits=2)
    assert brokers.injected
    assert brokers.leader(made.topic) == leader
    brokers.heal()
    made.retry()
    assert made.verify().figures["rows"] == 100


@pytest.mark.parametrize("request_of", ["describe", "read"])
def test_a_port_that_never_answers_a_connect(world: Callable[..., World], request_of: str) -> None:
    """A bootstrap address whose packets are dropped is an unavailable source, within the deadline."""
    with deaf_port() as port:
        source = KafkaSource("t", {"bootstrap.servers": f"127.0.0.1:{port}"}, deadline_s=DEADLINE_S)
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError) as caught:
            source.describe() if request_of == "describe" else list(source.read(OffsetRange(0, 0, 1)))
        assert caught.value.retriable
        assert time.monotonic() - began < DEADLINE_S + LATE_S


def test_all_brokers_are_down(brokers: Brokers, world: Callable[..., World]) -> None:
    """Without any broker a run that has landed a part fails retriably in time, and again; later a retry ends it."""
    made = world(max_slice_offsets=500)
    made.fill(1000)

    def kill(step: str) -> None:
        if step.startswith("got") and "0:500" in step and len(brokers.injected) < len(NODES):
            brokers.kill(*NODES)

    failed(lambda: made.attempt(hook=kill, deadline_s=DEADLINE_S), SourceUnavailableError, waits=2)
    assert len(brokers.injected) == len(NODES)
    failed(lambda: made.attempt(deadline_s=DEADLINE_S), SourceUnavailableError)
    brokers.heal()
    made.retry()
    made.drain()
    assert made.verify().figures["rows"] == 1000


MEASURE = """
import json, sys
from airflow_provider_eventlog.core.kafka.source import KafkaSource
from airflow_provider_eventlog.core.offsets import OffsetRange

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024

topic, servers, end = sys.argv[1], sys.argv[2], int(sys.argv[3])
source = KafkaSource(topic, {"bootstrap.servers": servers}, memory_mb=4)
for batch in source.read(OffsetRange(0, 0, 1000)):
    pass
before, rows = peak(), 0
for batch in source.read(OffsetRange(0, 0, end)):
    rows += batch.num_rows
print(json.dumps({"before": before, "after": peak(), "rows": rows}))
"""


def test_memory_stays_flat_on_a_bad_line(brokers: Brokers, world: Callable[..., World]) -> None:
    """Bytes that pile up behind latency and slices stay within what the reader may hold, whatever the range's size."""
    made, records = world(), 20_000
    made.fill(records, 1500)
    toxics = (Latency(seconds=0.05, jitter=0.05), Slicer(size=60_000))
    brokers.spoil(*toxics)
    command = [sys.executable, "-c", MEASURE, made.topic, brokers.settings["bootstrap.servers"], str(records)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=os.environ)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    print(f"MiB at most: {found}")
    assert found["rows"] == records
    assert all(toxic.hits > 0 for toxic in toxics)
    # 30 MB were read; the queue may hold 4, a fetch 1, a chunk of records 8.
    assert found["after"] - found["before"] < 20
