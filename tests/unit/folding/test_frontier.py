"""The frontier: batches enter in chain order, whoever comes by; it waits at holes and held batches until told."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.adopting import adopt
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import AccountingError, CheckFailedError, RequestError
from airflow_provider_eventlog.core.folding import listing
from airflow_provider_eventlog.core.folding.skipping import skip
from airflow_provider_eventlog.core.offsets import parse_ranges
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Hopping, Rows, Session
from tests.support.listlog import ListLog, engine_over
from tests.unit.folding.world import (
    CATCHING_UP,
    MINUTE,
    NOT_NEGATIVE,
    SHOWN,
    SINCE_LAST,
    T0,
    interval,
    pipeline,
    rows,
    send,
    up_to_validated,
    windows,
)

SINCE_10 = dataclasses.replace(CATCHING_UP, start=datetime.fromtimestamp(T0 / 1000 + 600, UTC))
# Before what the chain of that stream begins with.
EARLY = RunRequest("offsets", ranges=parse_ranges("0:0-20"))


def fill(log: ListLog, minutes: int, bad: int | None = None) -> None:
    """Three events a minute on two partitions; that of minute `bad` is negative."""
    for i in range(minutes):
        send(log, ("a", -1 if i == bad else i, i + 0.1), (None, i, i + 0.2))
        send(log, ("a", 10 * i, i + 0.3), partition=1)


def loaded(engine: Engine, made: Any, number: int, **more: Any) -> dict[str, Any]:
    """All stages of one interval; what became of the windows."""
    report: dict[str, Any] = stages.run(engine, made, interval(number, gap="hole", **more), f"r{number}")
    return report["load"]["windows"]["w"]


def waiting(engine: Engine, made: Any) -> str | None:
    """What the frontier waits for, as people see it."""
    found: str | None = listing.overview(engine, made.name, made.canonical())[0]["waiting"]
    return found


ORDERS = [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)]
KINDS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "sliding": {"window": Hopping("10 minutes", "3 minutes"), "aggregates": {"n": "count(*)", "s": "median(v)"}},
    "session": {"window": Session(gap="50 seconds", max_duration="7 minutes")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_in_which_intervals_run_changes_nothing(tmp_path: Path, kind: str) -> None:
    """Whichever of a catch-up's intervals is loaded first, folds and table are those of one after another."""
    made = pipeline(windows(**KINDS[kind]), stream=CATCHING_UP)
    tables, folds = [], []
    for number, order in enumerate(ORDERS):
        home, log = tmp_path / str(number), ListLog([], [])
        fill(log, 40)
        with engine_over(log, home, lambda: T0 + 600 * MINUTE) as engine:
            for step in order:
                loaded(engine, made, step)
            records = engine.ledger.folds("p", "w", 1)
            assert [record.n for record in records] == [1, 2, 3, 4]
            folds.append([(r.inputs, r.watermark, {k: d for k, (_, d) in r.files.items()}) for r in records])
        tables.append(rows(home))
    assert tables[0]
    assert all(table == tables[0] for table in tables)
    assert all(one == folds[0] for one in folds)


def test_a_later_run_folds_what_earlier_ones_have_left(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Loads that were never made hold nothing back: the first that comes by folds every validated batch, in order."""
    fill(log, 30)
    made = pipeline(stream=CATCHING_UP)
    for number in range(3):
        up_to_validated(engine, made, interval(number, gap="hole"), f"r{number}")
    report = stages.load(engine, made, "r1")["windows"]["w"]
    assert [fold["n"] for fold in report["folded"]] == [1, 2, 3]
    assert (report["applied"], report["waiting"]) == (3, None)
    assert stages.load(engine, made, "r0")["windows"]["w"]["outcome"] == "nothing"
    assert sum(row[2] for row in rows(tmp_path, SHOWN)) == 90


def test_windows_of_a_schedule_that_catches_up_begin_with_its_first_interval(engine: Engine, log: ListLog) -> None:
    """Where the chain may still grow to the left nothing is folded; the first interval then takes all along."""
    fill(log, 20)
    made = pipeline(stream=CATCHING_UP)
    report = loaded(engine, made, 1)
    assert (report["outcome"], report["folded"]) == ("waiting", [])
    assert "first interval" in report["waiting"]
    assert [fold["n"] for fold in loaded(engine, made, 0)["folded"]] == [1, 2]


def held(engine: Engine, log: ListLog) -> tuple[Any, str]:
    """Five intervals, the second one held by a check; the pipeline, and the held batch."""
    fill(log, 50, bad=15)
    made = pipeline(windows(), Rows(DuckDB("w.duckdb", table="r")), stream=CATCHING_UP, checks=[NOT_NEGATIVE])
    loaded(engine, made, 0)
    with pytest.raises(CheckFailedError):
        loaded(engine, made, 1)
    for number in (2, 3, 4):
        assert loaded(engine, made, number)["waiting"]
    batch = engine.ledger.run_plan("r1", "p").batches[0].batch
    return made, batch.batch_id


def test_a_held_batch_stops_windows_but_no_rows_and_one_release_folds_all(
    engine: Engine, log: ListLog, tmp_path: Path
) -> None:
    """Behind a held batch rows load and windows wait, saying so; after its release one load folds everything."""
    made, batch_id = held(engine, log)
    assert rows(tmp_path, "count(*)", "r") == [(120,)]
    told = waiting(engine, made)
    assert told is not None
    assert batch_id in told
    assert "eventlog release" in told
    gate.release(engine, "p", batch_id, who="me", why="known")
    stages.validate(engine, made, "r1")
    report = stages.load(engine, made, "r1")["windows"]["w"]
    assert [fold["n"] for fold in report["folded"]] == [2, 3, 4, 5]
    assert waiting(engine, made) is None
    assert sum(row[2] for row in rows(tmp_path, SHOWN)) == 150


def test_a_skipped_batch_enters_late_if_it_ever_does(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Skipped, a held batch lets the frontier pass; windows it may touch are not complete; released it comes late."""
    made, batch_id = held(engine, log)
    report = skip(engine, "p", "s", ["w"], batch_id=batch_id, who="me", why="broken for good")
    assert report["kept"]
    folded = stages.fold(engine, made)["w"]["folded"]
    assert [(fold["n"], fold["cause"]) for fold in folded] == [(2, "skip"), (3, "batch"), (4, "batch"), (5, "batch")]
    gate.release(engine, "p", batch_id, who="me", why="after all")
    stages.validate(engine, made, "r1")
    late = stages.load(engine, made, "r1")["windows"]["w"]["folded"]
    assert [(fold["cause"], fold["rows"], fold["late"]) for fold in late] == [("outside", 30, 30)]
    assert sum(row[2] for row in rows(tmp_path, SHOWN)) == 120


def test_a_skipped_hole_leaves_windows_incomplete(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """A hole holds the windows; passed, those that it may touch say that they are not complete, and no others."""
    fill(log, 40)
    made = pipeline(windows(window=Hopping("20 minutes", "5 minutes"), by=()), stream=CATCHING_UP)
    loaded(engine, made, 0)
    loaded(engine, made, 2)
    told = waiting(engine, made)
    hole = T0 + 10 * MINUTE
    assert told is not None
    assert f"eventlog skip --hole {when(hole)}" in told
    with pytest.raises(RequestError, match="begins at"):
        skip(engine, "p", "s", ["w"], hole=hole + 1, who="me", why="no")
    assert not skip(engine, "p", "s", ["w"], hole=hole, who="me", why="no", keep=False)["kept"]
    assert waiting(engine, made) == told
    skip(engine, "p", "s", ["w"], hole=hole, who="me", why="gone for good")
    assert [fold["cause"] for fold in stages.fold(engine, made)["w"]["folded"]] == ["skip", "batch"]
    loaded(engine, made, 3)
    minutes = "CAST((epoch_ms(window_start) - 1704067200000) / 60000 AS INTEGER), _complete"
    complete = dict(rows(tmp_path, minutes))
    # The chain begins at T0, and [10, 20) is missing.
    assert complete == {m: m >= 20 for m in complete}
    assert {-15, 15, 20, 35} <= complete.keys()
    # The hole's run comes after all: what it brings is late for what is final.
    report = loaded(engine, made, 1)
    assert [(fold["cause"], fold["rows"]) for fold in report["folded"]] == [("outside", 30)]


def test_what_cannot_be_skipped_is_refused(engine: Engine, log: ListLog) -> None:
    """A validated batch, an unknown one, and an instant without a hole: a clear error, nothing decided."""
    fill(log, 10)
    made = pipeline(stream=CATCHING_UP)
    loaded(engine, made, 0)
    batch_id = engine.ledger.run_plan("r0", "p").batches[0].batch.batch_id
    for what in ({"batch_id": batch_id}, {"batch_id": "nothing"}, {"hole": T0}):
        with pytest.raises(RequestError, match="skip"):
            skip(engine, "p", "s", ["w"], who="me", why="no", **what)  # type: ignore[arg-type]
    assert engine.ledger.decisions("s") == ()


@pytest.mark.parametrize(("lateness", "late"), [("100 minutes", 0), ("0 s", 20)])
def test_offsets_outside_of_the_chain_never_move_the_watermark(
    engine: Engine, log: ListLog, tmp_path: Path, lateness: str, late: int
) -> None:
    """Rows of a batch outside of the chain count where they are in time and are late where not; the watermark stays."""
    fill(log, 30)
    made = pipeline(windows(allowed_lateness=lateness), stream=SINCE_10)
    stages.run(engine, made, SINCE_LAST, "r")
    before = listing.overview(engine, "p", made.canonical())[0]
    for _ in range(2):
        report = stages.run(engine, made, EARLY, "off")["load"]["windows"]["w"]
    assert report["outcome"] == "nothing"
    after = listing.overview(engine, "p", made.canonical())[0]
    assert (after["watermark"], after["frontier"]) == (before["watermark"], before["frontier"])
    assert (after["folds"], after["late"] - before["late"], after["rows"]) == (2, late, before["rows"] + 20)
    assert sum(row[2] for row in rows(tmp_path, SHOWN)) == 60 + 20 - late


def test_what_was_loaded_before_the_chain_began_is_not_late(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """Offsets that were back-filled before the first chain batch enter before it, and so does no row late."""
    fill(log, 30)
    made = pipeline(windows(), stream=SINCE_10)
    assert stages.run(engine, made, EARLY, "off")["load"]["windows"]["w"]["outcome"] == "waiting"
    report = stages.run(engine, made, SINCE_LAST, "r")["load"]["windows"]["w"]
    assert [(fold["cause"], fold["late"]) for fold in report["folded"]] == [("outside", 0), ("batch", 0)]
    assert sum(row[2] for row in rows(tmp_path, SHOWN)) == 80


def test_windows_go_on_over_an_adopted_topic(engine: Engine, log: ListLog, tmp_path: Path) -> None:
    """The topic was made again and adopted: the frontier goes on in the new epoch, open windows keep what they have."""
    made = pipeline(windows(disorder="1 hour"))
    send(log, ("a", 1, 1.5))
    stages.run(engine, made, SINCE_LAST, "r1")
    log.identity = dataclasses.replace(log.identity, topic_id="another")
    log.values[:] = [[], []]
    send(log, ("a", 2, 1.6), ("a", 4, 2))
    adopt(engine, made.stream, "earliest", who="me", why="made again")
    report = stages.run(engine, made, SINCE_LAST, "r2")["load"]["windows"]["w"]
    assert [(fold["n"], fold["cause"], fold["rows"]) for fold in report["folded"]] == [(2, "batch", 2)]
    assert [row[1:4] for row in rows(tmp_path, SHOWN)] == [(1.0, 2, 3), (2.0, 1, 4)]
    assert listing.overview(engine, "p", made.canonical())[0]["frontier"]["epoch"] == 2


def test_a_fold_log_that_was_edited_ends_with_an_error(engine: Engine, log: ListLog) -> None:
    """Where the ledger takes no fold and shows none that was quicker, it is said, and nothing goes round for ever."""
    fill(log, 20)
    made = pipeline(stream=CATCHING_UP)
    loaded(engine, made, 0)
    record = engine.ledger.record_fold
    engine.ledger.record_fold = lambda one: dataclasses.replace(record(one), n=0)  # type: ignore[method-assign]
    real = engine.ledger.last_fold
    engine.ledger.last_fold = lambda *of: next(iter(engine.ledger.folds(*of)), None)  # type: ignore[method-assign]
    with pytest.raises(AccountingError, match="takes no fold behind number 1"):
        loaded(engine, made, 1)
    assert real("p", "w", 1) is not None
