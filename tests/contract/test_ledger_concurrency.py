"""Planners at once: one ledger is created, and no offset is planned twice."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, subtract
from airflow_provider_eventlog.core.protocols import Ledger
from tests.contract.ledgers import IDENTITY, off_chain, plan_at_once, plan_one, slice_record

PROCESSES, ROUNDS = 8, 12


@pytest.fixture(scope="module")
def raced(new_address: Callable[[], str]) -> Iterator[tuple[SqlLedger, list[tuple[str, int, list[str]]]]]:
    """A ledger that eight processes have created and planned in at once, and what each of them saw."""
    address = new_address()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        barrier = manager.Barrier(PROCESSES)
        futures = [pool.submit(plan_at_once, address, seed, ROUNDS, barrier) for seed in range(PROCESSES)]
        results = [future.result(timeout=120) for future in futures]
    ledger = open_ledger(address)
    yield ledger, results
    ledger.close()


def test_eight_processes_create_one_ledger(raced: tuple[SqlLedger, list[tuple[str, int, list[str]]]]) -> None:
    """Whoever comes first creates it, and all of them work in that one."""
    ledger, results = raced
    assert {ledger_id for ledger_id, _, _ in results} == {ledger.ledger_id}
    assert [e.epoch for e in ledger.epochs("s")] == [1]


def test_eight_processes_never_plan_an_offset_twice(
    raced: tuple[SqlLedger, list[tuple[str, int, list[str]]]],
) -> None:
    """All that was planned is there, disjoint, and every attempt at what others had planned was refused."""
    ledger, results = raced
    batches = [plan for plan, _ in ledger.batches("s")]
    assert {b.batch_id for b in batches} == {f"{seed}/{n}" for seed in range(PROCESSES) for n in range(ROUNDS)}
    planned = sorted(r for b in batches for r in b.ranges)
    assert planned == sorted(OffsetRange.parse(text) for _, _, texts in results for text in texts)
    for left, right in pairwise(planned):
        assert left.partition != right.partition or left.end <= right.start
    assert subtract(planned, ledger.coverage("s", 1)) == subtract(ledger.coverage("s", 1), planned) == ()
    assert sum(refused for _, refused, _ in results) > PROCESSES


def test_planners_of_one_stream_wait_for_each_other(open_handle: Callable[[], Ledger]) -> None:
    """The second planner's first read comes after the first one's commit."""
    one, two = open_handle(), open_handle()
    inside, seen = threading.Event(), []

    def second() -> None:
        inside.wait(30)
        with two.planning("s", "{}") as tx:
            seen.append(tx.coverage(1))

    thread = threading.Thread(target=second)
    thread.start()
    with one.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        inside.set()
        tx.add_batch(off_chain("b", "0:0-10"))
        assert seen == []
    thread.join(60)
    assert seen == [(OffsetRange(0, 0, 10),)]


def test_threads_share_a_handle(open_handle: Callable[[], Ledger]) -> None:
    """Slices landed by several threads through one handle are all recorded."""
    ledger = open_handle()
    texts = [f"{p}:0-10" for p in range(8)]
    with ledger.planning("s", "{}") as tx:
        tx.add_epoch(IDENTITY, "first plan")
        tx.add_batch(off_chain("b", *texts))
    threads = [threading.Thread(target=ledger.record_slice, args=("b", slice_record(text))) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ledger.slices("b") == tuple(slice_record(text) for text in texts)


def test_rivals_make_a_row_once(open_handle: Callable[[], Ledger]) -> None:
    """Staging root, streams and pipelines that two handles meet for the first time at once are recorded once."""
    handles = [open_handle() for _ in range(6)]
    failures: list[Exception] = []
    for n in range(5):
        barrier = threading.Barrier(len(handles))

        def meet(handle: Ledger, n: int = n, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(30)
            try:
                handle.check_staging("/root", "id")
                handle.register_pipeline(f"p{n}", f"s{n}", "r", "{}")
                with handle.planning(f"s{n}", "{}") as tx:
                    tx.add_epoch(IDENTITY, "first plan")
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=meet, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert [p[0] for p in handles[0].pipelines()] == [f"p{n}" for n in range(5)]
    assert [len(handles[0].epochs(f"s{n}")) for n in range(5)] == [1] * 5


def test_a_planner_that_is_killed_leaves_nothing_and_no_lock(address: str) -> None:
    """After SIGKILL in the middle of a planning transaction the next planner starts at once on a clean ledger."""
    code = (
        "import sys\n"
        "from airflow_provider_eventlog.core.ledger import open_ledger\n"
        "from tests.contract.ledgers import IDENTITY, off_chain\n"
        "with open_ledger(sys.argv[1]).planning('s', '{}') as tx:\n"
        "    tx.add_epoch(IDENTITY, 'first plan')\n"
        "    tx.add_batch(off_chain('b', '0:0-10'))\n"
        "    print('planned', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "planned\n"
        child.kill()
    hasty = open_ledger(address, timeout_s=5)
    assert (hasty.epochs("s"), hasty.coverage("s", 1)) == ((), ())
    plan_one(hasty)
    hasty.close()
