"""A log that ends before what was planned already is refused, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_eventlog.core.errors import SourceRegressedError
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.ledger.sql import SqlLedger
from airflow_provider_eventlog.core.offsets import RunPlan, format_ranges
from airflow_provider_eventlog.core.planning import plan_run
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows, Stream
from tests.support.simlog import SimSource

PIPELINE = Pipeline("p", stream=Stream("t", start="earliest"), outputs=[Rows(DuckDB("x.duckdb", table="p"))])
SINCE_LAST = RunRequest("since_last")
DAY = RunRequest("interval", interval=(5000, 9000))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    opened = open_ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def log(*lengths: int) -> SimSource:
    """A topic with a record every 10 ms in partitions of these lengths."""
    return SimSource({p: [10 * (i + 1) for i in range(length)] for p, length in enumerate(lengths)})


def plan(ledger: SqlLedger, source: SimSource, request: RunRequest, key: str, now: int) -> RunPlan:
    return plan_run(ledger, lambda: source, PIPELINE, request, key, now)


@pytest.mark.parametrize("request_of", [SINCE_LAST, DAY], ids=["since-last", "interval"])
def test_a_truncated_log_is_refused(ledger: SqlLedger, request_of: RunRequest) -> None:
    """What is missing is named, nothing is planned, retries are allowed; when the log has grown past it, it goes on."""
    plan(ledger, log(100, 80), SINCE_LAST, "first", 4000)
    before = ledger.cuts("t", 1)
    with pytest.raises(
        SourceRegressedError, match=r"partition 0, offsets 60 to 99 are gone.*start=\{0: 60\}"
    ) as caught:
        plan(ledger, log(60, 80), request_of, "second", 10_000)
    assert caught.value.retriable
    assert ledger.cuts("t", 1) == before
    assert ledger.run("second", "p") is None
    after = plan(ledger, log(100, 80), request_of, "second", 10_000)
    assert sum(p.batch.length for p in after.batches) == 0


def test_what_is_planned_already_is_planned_again(ledger: SqlLedger) -> None:
    """A replay of a planned interval needs nothing of the log's end."""
    first = RunRequest("interval", interval=(0, 1000), first=True)
    made = plan(ledger, log(100), first, "first", 4000)
    again = plan(ledger, log(60), RunRequest("interval", interval=(0, 1000)), "again", 5000)
    assert [p.batch for p in again.batches] == [p.batch for p in made.batches]


def test_a_run_that_looked_before_another_planned_is_not_a_truncated_log(ledger: SqlLedger) -> None:
    """Ends that are older than the newest cut are asked for once more, outside of the planning transaction."""
    plan(ledger, log(100, 80), SINCE_LAST, "first", 4000)

    class Late(SimSource):
        """Its first answer is from before the other run's cut."""

        def log_ends(self) -> dict[int, int]:
            ends = super().log_ends()
            return {p: end - 20 for p, end in ends.items()} if self.requests.count("ends") == 1 else ends

    source = Late(log(110, 80).logs)
    made = plan(ledger, source, SINCE_LAST, "second", 5000)
    assert source.requests.count("ends") == 2
    # What has come since is the next run's.
    assert format_ranges(r for p in made.batches for r in p.batch.ranges) == ""
    assert format_ranges(plan(ledger, source, SINCE_LAST, "third", 6000).batches[0].batch.ranges) == "0:100-110"
