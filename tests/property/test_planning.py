"""Planning under random interleavings of producing and planning: the promises that hold after every step."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange, RunPlan
from airflow_provider_eventlog.core.planning import plan_run
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Rows, Stream
from tests.support.simlog import SimSource

PARTITIONS = 3
HOUR = 1000


class Planning(RuleBasedStateMachine):
    """Two pipelines over one simulated topic; time goes in hours of 1,000 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = open_ledger(Path(self.folder.name) / "ledger.sqlite")
        self.source = SimSource({p: [] for p in range(PARTITIONS)})
        self.now = 20 * HOUR
        self.runs: dict[tuple[str, str], tuple[RunRequest, RunPlan]] = {}
        self.pipelines: dict[str, Pipeline] = {}

    @initialize(start=st.sampled_from(["interval", "earliest", "latest"]), limit=st.sampled_from([7, 10_000]))
    def declare(self, start: str, limit: int) -> None:
        stream = Stream("t", start=start, max_batch_offsets=limit, max_slice_offsets=4)
        for name in ("p", "q"):
            self.pipelines[name] = Pipeline(name, stream=stream, outputs=[Rows(DuckDB("x.duckdb", table=name))])

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 6), behind=st.integers(0, 5 * HOUR))
    def produce(self, partition: int, count: int, behind: int) -> None:
        self.source.logs[partition] += [max(1, self.now - behind)] * count

    @rule(passed=st.integers(1, 3 * HOUR))
    def wait(self, passed: int) -> None:
        self.now += passed

    @rule(hour=st.integers(0, 30), name=st.sampled_from(["p", "q"]), gap=st.sampled_from(["absorb", "hole"]))
    def interval(self, hour: int, name: str, gap: str) -> None:
        self.plan(name, RunRequest("interval", interval=(hour * HOUR, (hour + 1) * HOUR), gap=gap), f"i{hour}{gap}")

    @rule(name=st.sampled_from(["p", "q"]))
    def since_last(self, name: str) -> None:
        self.plan(name, RunRequest("since_last"), f"s{len(self.runs)}")

    @rule(
        name=st.sampled_from(["p", "q"]),
        partition=st.integers(0, PARTITIONS - 1),
        bounds=st.tuples(*[st.integers(0, 40)] * 2),
    )
    def offsets(self, name: str, partition: int, bounds: tuple[int, int]) -> None:
        end = min(max(bounds), len(self.source.logs[partition]))
        wanted = OffsetRange(partition, min(*bounds, end), end)
        plan = self.plan(name, RunRequest("offsets", ranges=(wanted,)), f"o{len(self.runs)}")
        if plan is not None:
            planned = {(r.partition, o) for b in plan.batches for r in b.batch.ranges for o in range(r.start, r.end)}
            assert {(partition, o) for o in range(wanted.start, wanted.end)} <= planned

    def plan(self, name: str, request: RunRequest, key: str) -> RunPlan | None:
        try:
            plan = plan_run(self.ledger, lambda: self.source, self.pipelines[name], request, key, self.now)
        except EventLogError:
            assert self.ledger.run(key, name) is None
            return None
        known = self.runs.setdefault((key, name), (request, plan))
        # A run that is planned again is bound to what it took first.
        assert known[1].batches == plan.batches
        return plan

    @invariant()
    def no_offset_is_in_two_batches(self) -> None:
        ranges = sorted(r for b, _ in self.ledger.batches("t") for r in b.ranges)
        for left, right in pairwise(ranges):
            assert left.partition != right.partition or left.end <= right.start

    @invariant()
    def batches_lie_in_the_log_and_slices_tile_them(self) -> None:
        for batch, _ in self.ledger.batches("t"):
            for r in batch.ranges:
                assert 0 <= r.start < r.end <= len(self.source.logs[r.partition])
            assert sum(map(len, batch.slices)) == batch.length
            assert batch.length <= self.pipelines["p"].stream.max_batch_offsets or batch.kind == "chain"

    @invariant()
    def cuts_never_run_backwards(self) -> None:
        if not self.ledger.epochs("t"):
            return
        for low, high in pairwise(self.ledger.cuts("t", 1)):
            assert low.instant < high.instant
            assert all(low.offsets[p] <= high.offsets[p] for p in low.offsets)

    @invariant()
    def chain_batches_and_coverage_tile_their_segments(self) -> None:
        if not self.ledger.epochs("t"):
            return
        cuts = {c.instant: c for c in self.ledger.cuts("t", 1)}
        batches = [b for b, _ in self.ledger.batches("t")]
        covered = {(r.partition, o) for b in batches for r in b.ranges for o in range(r.start, r.end)}
        for batch in batches:
            if batch.kind == "chain" and batch.from_instant is not None and batch.to_instant is not None:
                low, high = cuts[batch.from_instant], cuts[batch.to_instant]
                for p, end in high.offsets.items():
                    assert {(p, o) for o in range(low.offsets[p], end)} <= covered

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


Planning.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestPlanning(Planning.TestCase):  # type: ignore[misc,valid-type]
    """After any interleaving: no offset in two batches, cuts in order, segments tiled, runs bound for good."""
