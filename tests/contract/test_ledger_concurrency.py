"""Planners at once: one ledger is created, and no offset is planned twice."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

import pytest

from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, subtract
from airflow_provider_eventlog.core.protocols import Ledger
from tests.contract.ledgers import IDENTITY, off_chain, plan_at_once, slice_record

PROCESSES, ROUNDS = 8, 12


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqlLedger, list[tuple[str, int, list[str]]]]]:
    """A ledger that eight processes have created and planned in at once, and what each of them saw."""
    path = tmp_path_factory.mktemp("race") / "deep" / "ledger.sqlite"
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        barrier = manager.Barrier(PROCESSES)
        futures = [pool.submit(plan_at_once, str(path), seed, ROUNDS, barrier) for seed in range(PROCESSES)]
        results = [future.result(timeout=120) for future in futures]
    ledger = open_ledger(path)
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
