"""The rules: what producers, clocks, schedules, people, upkeep and faults do to the simulated world, in any order."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_eventlog.core.errors import RequestError, StagingCorruptError
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.requests import RunRequest
from tests.property.world.attempts import FAULTS, Fault
from tests.property.world.declared import HELD, LAST, LEFT_OUT, MINUTE, T0
from tests.property.world.finishing import finish
from tests.property.world.invariants import Promises
from tests.property.world.world import STAGES, Run, World

# What was injected and done over all examples: a test asks whether nothing is missing.
COUNTS: Counter[str] = Counter()
PIPELINES = ("rows", "windows")
NAMES = st.sampled_from(PIPELINES)
SOME = st.integers(0, 9)
# A load has few effects in the target, a run many in the ledger.
EARLY = {
    name: 1 if kinds == ("target",) else 3 if "write" in kinds or "open" in kinds else 12
    for name, kinds in FAULTS.items()
}


def fault(name: str, at: int) -> Fault:
    """A fault at a point that a run is likely to come to."""
    return Fault(name, 1 + at % EARLY[name])


# Not every run comes as far as its load.
LATE = [name for name, kinds in FAULTS.items() if kinds == ("target",)]
FAULT = st.one_of(st.none(), st.builds(fault, st.sampled_from(sorted([*FAULTS, *LATE])), st.integers(0, 11)))
# (key, value, when its record is dated, when its event was); minutes before now, but for the words.
RECORD = st.tuples(
    st.sampled_from(["a", "b", None]),
    st.sampled_from([0, 1, 2, 3, -7, LEFT_OUT, HELD]),
    st.sampled_from([0, 0, 0, 1, 3, "none", "zero", "future"]),
    st.sampled_from([0, 0, 0, 1, 4, "ancient", "future"]),
)
# What an audit finds behind attempts that have died or sleep: intervals that nobody ran, records that are written next.
UNFINISHED = ("hole", "decision_missing", "fold_record_missing")
BEGUN = st.sampled_from(["plan", "all", "all"])
INTERVAL: dict[str, Any] = {
    "back": st.integers(0, 4),
    "gap": st.sampled_from(["absorb", "hole"]),
    "recompute": st.booleans(),
    "stage": BEGUN,
    "fault": FAULT,
}
SINCE_LAST: dict[str, Any] = {
    "limit": st.sampled_from([None, None, 1]),
    "stage": BEGUN,
    "before": st.lists(RECORD, max_size=3),
    "fault": FAULT,
}


class SimulatedWorld(RuleBasedStateMachine):
    """One world; every rule leaves it in a state in which all promises hold."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(COUNTS)
        self.promises: Promises | None = None
        self._outside = sys.exc_info()[1]
        self._transactions = 0

    @initialize(
        start=st.sampled_from(["earliest", "interval"]),
        on_data_loss=st.sampled_from(["fail", "record"]),
        on_late=st.sampled_from(["late", "amend"]),
        first=st.lists(st.lists(RECORD, min_size=1, max_size=6), min_size=1, max_size=2),
        faults=st.permutations(sorted(FAULTS)),
        at=st.integers(0, 11),
    )
    def declare(
        self, start: str, on_data_loss: str, on_late: str, first: list[Any], faults: list[str], at: int
    ) -> None:
        """A topic, a stream over it, and two pipelines, with first runs that meet faults."""
        world = self.world
        world.start, world.on_data_loss, world.on_late = start, on_data_loss, on_late
        world.now = T0 + 10 * MINUTE
        world.log.create(len(first))
        self.promises = Promises(world)
        for partition, records in enumerate(first):
            self.produce(0, partition, records, False, False)
        for number, kind in enumerate(faults[:4]):
            self._since_last(PIPELINES[number % 2], None, "all", [("a", number, 0, 0)], fault(kind, at))

    # Producers and time.

    @rule(
        seconds=st.integers(0, 200),
        partition=SOME,
        records=st.lists(RECORD, min_size=1, max_size=5),
        tombstone=st.booleans(),
        inside=st.booleans(),
    )
    def produce(self, seconds: int, partition: int, records: list[Any], tombstone: bool, inside: bool) -> None:
        """Time passes; records in any order of time, of a transaction or not; perhaps a tombstone behind them."""
        world = self.world
        world.now += seconds * 1000
        if world.log.topic is None:
            # As brokers do that create topics for those who write to them.
            world.recreate(same=False)
        topic = world.log.known()
        number = None
        if inside:
            known = world.log.open_transactions
            self._transactions += not known
            number = known[0] if known else self._transactions
        at = partition % len(topic.partitions)
        for key, value, dated, happened in records:
            world.append(at, self._dated(dated), {"k": key, "v": value, "ms": self._happened(happened)}, number)
        if tombstone:
            world.append(at, world.now, None, number)

    def _dated(self, when: int | str) -> int:
        words = {"none": -1, "zero": 0, "future": self.world.now + 30 * 24 * 60 * MINUTE}
        return words[when] if isinstance(when, str) else self.world.now - when * MINUTE

    def _happened(self, when: int | str) -> int:
        words = {"ancient": MINUTE, "future": self.world.now + 30 * 24 * 60 * MINUTE}
        return words[when] if isinstance(when, str) else self.world.now - when * MINUTE

    @precondition(lambda self: self.world.log.open_transactions)
    @rule(commit=st.booleans())
    def end_transaction(self, commit: bool) -> None:
        """The open transaction becomes visible, or never does."""
        for number in self.world.log.open_transactions[:1]:
            self.world.log.end_transaction(number, commit=commit)
            COUNTS["transaction committed" if commit else "transaction aborted"] += 1

    @rule(
        what=st.sampled_from(["partition", "partition", "created again", "same offsets", "deleted", "ledger lost"]),
        minutes=st.integers(0, 5),
    )
    def upheaval(self, what: str, minutes: int) -> None:
        """Time passes, and the topic grows, or is deleted or created again, or the ledger is lost and made again."""
        self.world.now += minutes * MINUTE
        if what == "partition":
            self._add_partition()
        elif what == "ledger lost":
            if self.world.ledger.exists():
                self.world.rebuild()
        elif len(self.world.log.incarnations) < 3 and self.world.asked_streams():
            if what != "deleted":
                self.world.recreate(same=what == "same offsets")
            elif self.world.log.topic is not None:
                self.world.log.topic = None
                COUNTS["topic deleted"] += 1

    def _add_partition(self) -> None:
        topic = self.world.log.topic
        if topic is not None and len(topic.partitions) < 3:
            topic.partitions.append([])
            topic.starts.append(0)
            COUNTS["partition added"] += 1

    @rule(partition=SOME, share=st.sampled_from([0.3, 0.7, 1.0]))
    def expire(self, partition: int, share: float) -> None:
        """Retention, or delete_records, moves a log start."""
        topic = self.world.log.topic
        if topic is None:
            return
        at = partition % len(topic.partitions)
        low, high = topic.starts[at], topic.end(at)
        new = low + int((high - low) * share)
        landed = self.world.asked('SELECT start, "end" FROM slice WHERE "partition" = ? AND path IS NOT NULL', at)
        known = {o for start, end in landed for o in range(start, end)}
        if new > low and any(o not in known for o in range(low, new)):
            COUNTS["expired before it was landed"] += 1
            planned = self.world.asked('SELECT start, "end" FROM slice WHERE "partition" = ? AND path IS NULL', at)
            COUNTS["expired inside a planned batch"] += any(s < new and low < e for s, e in planned)
        topic.starts[at] = new

    # Runs.

    @rule(**INTERVAL)
    def interval_of_rows(self, **drawn: Any) -> None:
        """A scheduled run of rows: one of the newest intervals of two minutes."""
        self._interval("rows", **drawn)

    @rule(**INTERVAL)
    def interval_of_windows(self, **drawn: Any) -> None:
        """A scheduled run of windows."""
        self._interval("windows", **drawn)

    @rule(**SINCE_LAST)
    def rows_since_last(self, **drawn: Any) -> None:
        """A run of rows that takes what came since the last one, and right before it."""
        self._since_last("rows", **drawn)

    @rule(**SINCE_LAST)
    def windows_since_last(self, **drawn: Any) -> None:
        """The same of windows."""
        self._since_last("windows", **drawn)

    def _interval(self, name: str, back: int, gap: str, recompute: bool, stage: str, fault: Fault | None) -> None:
        end = self.world.now // (2 * MINUTE) * 2 * MINUTE - back * 2 * MINUTE
        first = not any(r.request.mode == "interval" and r.pipeline == name for r in self.world.runs)
        request = RunRequest(
            "interval", (end - 2 * MINUTE, end), gap=gap, first=first, recompute=recompute, parallelism=2
        )
        self._started(name, request, f"{name}-{end}-{gap}{'-again' if recompute else ''}", stage, fault)

    def _since_last(self, name: str, limit: int | None, stage: str, before: list[Any], fault: Fault | None) -> None:
        if self.world.log.topic is not None:
            self.produce(1, len(before), before, False, False)
        request = RunRequest("since_last", max_batches=limit, parallelism=2)
        self._started(name, request, f"{name}-since-{len(self.world.runs)}", stage, fault)

    @rule(
        name=NAMES,
        partition=SOME,
        bounds=st.tuples(st.integers(0, 30), st.integers(1, 12)),
        recompute=st.booleans(),
        stage=st.sampled_from(["plan", "all"]),
        fault=FAULT,
    )
    def back_fill(
        self, name: str, partition: int, bounds: tuple[int, int], recompute: bool, stage: str, fault: Fault | None
    ) -> None:
        """A run over explicit offsets."""
        topic = self.world.log.topic
        if topic is None:
            return
        at = partition % len(topic.partitions)
        end = min(sum(bounds), topic.end(at))
        wanted = OffsetRange(at, min(bounds[0], end), end)
        request = RunRequest("offsets", ranges=(wanted,), recompute=recompute, parallelism=2)
        self._started(name, request, f"{name}-offsets-{len(self.world.runs)}", stage, fault)

    def _started(self, name: str, request: RunRequest, key: str, stage: str, fault: Fault | None) -> None:
        run = Run(key, name, request)
        known = [r for r in self.world.runs if r.key == key]
        run = known[0] if known else run
        if not known:
            self.world.runs.append(run)
        self.world.go(self.world.staged(run, stage, 0, fault))

    @precondition(lambda self: self.world.runs)
    @rule(number=SOME, stage=st.sampled_from(STAGES), group=st.integers(0, 1), fault=FAULT)
    def stage(self, number: int, stage: str, group: int, fault: Fault | None) -> None:
        """One attempt at one stage of any run: the next one, one that is done, or one whose turn it is not."""
        run = self.world.runs[-1 - number % len(self.world.runs)]
        self.world.go(self.world.staged(run, stage, group, fault))

    @precondition(lambda self: self.world.runs)
    @rule(
        number=SOME,
        stages=st.tuples(*[st.sampled_from(["land", "transform", "validate", "load", "all"])] * 2),
        turns=st.lists(st.integers(1, 7), min_size=2, max_size=12),
    )
    def race(self, number: int, stages: tuple[str, str], turns: list[int]) -> None:
        """Two attempts at once, which pass so many effects in turn, and both end."""
        run = self.world.runs[-1 - number % len(self.world.runs)]
        both = [self.world.staged(run, stage, 0) for stage in stages]
        for turn, points in enumerate(turns):
            if not both[turn % 2].done:
                self.world.go(both[turn % 2], points)
        COUNTS["two attempts at once"] += all(a.running for a in both)
        for attempt in both:
            if not attempt.done:
                self.world.go(attempt)

    @precondition(lambda self: self.world.asleep)
    @rule(number=SOME, points=st.one_of(st.none(), st.none(), st.integers(0, 6)))
    def wake(self, number: int, points: int | None) -> None:
        """A sleeper goes on, to its end or for a few effects more."""
        asleep = self.world.asleep
        self.world.go(asleep[number % len(asleep)], points)
        COUNTS["zombie woken"] += 1

    # People and upkeep.

    @rule(recipe=st.integers(0, LAST - 1), number=SOME, fault=FAULT)
    def correct(self, recipe: int, number: int, fault: Fault | None) -> None:
        """Somebody corrects the recipe of rows and clears a run from plan."""
        if recipe == self.world.recipe:
            return
        self.world.recipe = recipe
        mine = [r for r in self.world.runs if r.pipeline == "rows"]
        if mine:
            self.world.go(self.world.staged(mine[-1 - number % len(mine)], "all", 0, fault))
            COUNTS["recipe corrected"] += 1

    @rule(
        what=st.sampled_from(["release", "skip", "collect", "audit"]),
        number=SOME,
        grace=st.sampled_from([0, 5 * MINUTE, 24 * 60 * MINUTE]),
        fault=FAULT,
    )
    def look_after(self, what: str, number: int, grace: int, fault: Fault | None) -> None:
        """Somebody lets pass what is held, or the windows go on without a batch; collects garbage; audits."""
        if what == "release":
            COUNTS["held batch released"] += sum(a.error is None and a.done for a in self.world.release(fault))
        elif what == "skip":
            self._skip(number, fault)
        elif what == "collect":
            made = self.world.collect(grace, fault)
            if made.result:
                COUNTS["garbage collected"] += made.result["temporary"]["files"]
                COUNTS["orphans collected"] += sum(s["orphans"]["files"] for s in made.result["streams"])
        elif self.world.asked_streams():
            found = [f for f in self.world.fsck()["findings"] if f["damaged"] and f["code"] not in UNFINISHED]
            assert found == []
            COUNTS["audited"] += 1

    def _skip(self, number: int, fault: Fault | None) -> None:
        open_ = self.world.asked(
            "SELECT batch_id FROM batch WHERE kind = 'chain' AND NOT EXISTS (SELECT 1 FROM generation g WHERE "
            "g.batch_id = batch.batch_id AND pipeline = 'windows' AND g.state IN ('validated', 'loaded')) ORDER BY 1"
        )
        if open_:
            made = self.world.skip(open_[number % len(open_)][0], None, fault)
            COUNTS["batch skipped"] += made.done and made.error is None
            assert not isinstance(made.error, RequestError), made.error

    @precondition(lambda self: len(self.world.log.incarnations) > 1 and self.world.log.topic is not None)
    @rule(start=st.sampled_from(["earliest", "latest"]), fault=FAULT)
    def adopt(self, start: str, fault: Fault | None) -> None:
        """Somebody goes on with the topic that is there now."""
        made = self.world.adopt(start, fault)
        COUNTS["topic adopted"] += made.done and made.error is None

    @precondition(lambda self: self.promises is not None and self.promises.named_files())
    @rule(number=SOME, run=SOME, stage=st.sampled_from(["transform", "validate", "load", "all"]))
    def rot(self, number: int, run: int, stage: str) -> None:
        """A bit of a file flips while a stage runs, and the file comes back from a copy."""
        world = self.world
        assert self.promises is not None
        if not world.runs:
            return
        named = self.promises.named_files()
        file = world.root / named[-1 - number % len(named)]
        good = file.read_bytes()
        stat = file.stat()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1 << number % 8
        file.write_bytes(bytes(bad))
        world.tolerant = (StagingCorruptError,)
        made = world.go(world.staged(world.runs[-1 - run % len(world.runs)], stage, 0))
        world.tolerant = ()
        COUNTS["rotten file refused"] += isinstance(made.error, StagingCorruptError)
        file.write_bytes(good)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def everything_once(self) -> None:
        """Each fault of an attempt, and all else that must have happened, in one world without chance."""
        two = [("a", 1, 0, 0), ("b", 2, 0, 0)]
        self.declare("earliest", "record", "amend", [two, two], sorted(FAULTS), 0)
        for number, kind in enumerate(sorted(FAULTS)):
            self.produce(1, 1, two, True, False)
            # Windows may wait for one of the first runs, and then load nothing.
            name = "rows" if kind in LATE else PIPELINES[number % 2]
            self._since_last(name, None, "all", two, Fault(kind, 1))
            self.stage(0, "all", 0, None)
            self.promises_hold()
        while self.world.asleep:
            self.wake(0, None)
        self._since_last("rows", None, "plan", two, None)
        self.race(0, ("all", "all"), [3, 3, 3, 3])
        assert self.promises is not None
        for number in range(len(self.promises.named_files())):
            if not COUNTS["rotten file refused"]:
                self.rot(number, 0, "load")
        self.produce(1, 0, two, False, True)
        self.end_transaction(False)
        self.expire(0, 1.0)
        for what in ("partition", "ledger lost", "same offsets"):
            self.upheaval(what, 1)
            self.promises_hold()

    @invariant()
    def promises_hold(self) -> None:
        """Every promise that can be looked at, after every step."""
        if self.promises is not None:
            self.promises.check()
            COUNTS["steps"] += 1

    def teardown(self) -> None:
        """Faults stop, and plain retries finish the job; a step that failed is not covered by what follows."""
        try:
            if self.promises is not None and sys.exc_info()[1] is self._outside:
                finish(self.world, self.promises)
                COUNTS["worlds finished"] += 1
        finally:
            self.world.close()
