"""An attempt is killed at every effect, and a plain retry makes of it what an undisturbed run makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_eventlog.core.offsets import OffsetRange
from tests.crash import world
from tests.crash.compare import difference
from tests.crash.conftest import Bench, Case
from tests.support.seededlog import SeededLog

DURABLE = ("mkdir", "write", "fsync", "link", "unlink")


def numbers(calm: dict[str, Any]) -> Sequence[int]:
    return range(1, len(calm["effects"]["names"]) + 1)


def retried(bench: Bench, calm: dict[str, Any], asked: Sequence[int], mode: str, **retry: Any) -> None:
    """Kill at each of the effects; retry; compare. A kill that did not happen is a failure too."""

    def one(case: Case, at: int) -> str | None:
        if not case.killed(at=at, mode=mode):
            return f"was not killed at {calm['effects']['names'][at - 1]}"
        found = difference(case.attempt(**retry), calm)
        return found and f"killed {mode} {calm['effects']['names'][at - 1]}: {found}"

    assert asked
    assert bench.each(one, asked) == []


def test_no_loss_no_duplicate_and_conserved_without_faults(calm: dict[str, Any]) -> None:
    """What the undisturbed run loads is exactly what the log holds: the suite compares with something right."""
    log = SeededLog(7, world.LENGTHS, first=world.START)
    expected, records = [], 0
    for partition, end in ((0, 12), (1, 4)):
        entries = log.visible(OffsetRange(partition, 0, end))
        records += len(entries)
        expected += [
            [entry.value.decode(), partition, entry.offset]
            for entry in entries
            if entry.value is not None and entry.offset % 5
        ]
    rows = [[value, partition, offset] for value, _, partition, offset, _ in calm["world"]["rows"]]
    assert sorted(rows) == sorted(expected)
    assert sum(load[3] for load in calm["world"]["loads"]) == len(rows) < records < 16
    assert len(calm["world"]["loads"]) == 2
    assert calm["world"]["left"] == []


def test_every_kind_of_effect_is_counted(calm: dict[str, Any]) -> None:
    """The four protocols and what lies below them are all among the effects that the suite kills at."""
    names = calm["effects"]["names"]
    assert {
        "LocalStaging.root_id", "LocalStaging.publish", "LocalStaging.publish_json", "read", "DuckDBTarget.apply_rows",
        "SqlLedger.check_staging", "SqlLedger.register_pipeline", "SqlLedger.record_slice", "SqlLedger.seal_batch",
        "SqlLedger.record_part", "SqlLedger.advance_generation", "SqlPlanning.commit", "ledger commit",
        "target INSERT", "target commit", "target checkpoint", *DURABLE,
    } <= set(names)  # fmt: skip
    assert names.count("SqlLedger.record_slice") == names.count("SqlLedger.record_part") == names.count("read") == 4
    assert names.count("target commit") == 2


def test_deterministic_after_a_kill_before_any_effect(bench: Bench, calm: dict[str, Any]) -> None:
    """Killed in front of any effect, and tried again: every byte, row and record as if nothing had been.

    The power fails when the retry is through: it relied on nothing that the killed attempt had left unsynced.
    """
    retried(bench, calm, numbers(calm), "before", lose_at_end=True)


def test_deterministic_after_a_kill_behind_any_call(bench: Bench, calm: dict[str, Any]) -> None:
    """Killed when a protocol's call was done but its caller did not know yet: a retry finds it done."""
    retried(bench, calm, calm["effects"]["coarse"], "after")


def test_atomic_after_a_kill_in_the_middle(bench: Bench, calm: dict[str, Any]) -> None:
    """Half a file, half a read, half a commit's log: none of it is ever taken for the whole."""
    asked = calm["effects"]["torn"]
    torn = {calm["effects"]["names"][number - 1] for number in asked}
    assert {"write", "read", "target commit", "SqlPlanning.commit", "SqlLedger.record_part"} <= torn
    retried(bench, calm, asked, "torn")


def test_no_loss_when_the_power_fails(bench: Bench, calm: dict[str, Any]) -> None:
    """Everything that was not synced yet is gone: what the ledger knows was synced before it knew.

    The most is at stake in front of what makes it safe: of a sync, and of a commit.
    """
    names = calm["effects"]["names"]
    asked = [n for n in numbers(calm) if names[n - 1] in ("fsync", "ledger commit", "target commit")]
    asked += [n for n in numbers(calm) if names[n - 1] == "target checkpoint"]
    retried(bench, calm, asked, "lose")


def test_one_effect_of_running_everything_again(bench: Bench, calm: dict[str, Any]) -> None:
    """A finished run that is asked for again, from plan to load, finds everything done."""

    def again(case: Case) -> list[str | None]:
        return [difference(case.attempt(done=f"done-{number}"), calm) for number in range(3)]

    assert bench.case(again) == [None] * 3
