"""The simulated world: a topic, a clock, two pipelines over one stream, and the attempts that were made in it."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core import gate, gc, stages
from airflow_provider_eventlog.core.adopting import adopt
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import (
    AccountingError,
    ContentMismatchError,
    DeclarationError,
    EventLogError,
    LedgerConfigError,
    ManifestVersionError,
    RequestError,
    StagingCorruptError,
    StagingMissingError,
    StagingNotSharedError,
    TargetOwnedError,
    TransformError,
)
from airflow_provider_eventlog.core.folding.skipping import skip
from airflow_provider_eventlog.core.fsck import fsck
from airflow_provider_eventlog.core.offsets import OffsetRange, merged
from airflow_provider_eventlog.core.rebuilding.ledger import rebuild_ledger
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import Pipeline
from tests.property.world import declared
from tests.property.world.attempts import Attempt, Fault, stated
from tests.property.world.declared import T0
from tests.property.world.log import COMMITTED, OPEN, TOPIC, Record, SimLog
from tests.property.world.stores import SimStaging, open_world
from tests.property.world.target import SimTarget, Table

MEMORY = Path("/dev/shm")
STAGES = ("plan", "land", "transform", "validate", "load", "all")
# What no fault that happens here excuses.
DEFECTS = (
    AccountingError,
    ContentMismatchError,
    DeclarationError,
    LedgerConfigError,
    ManifestVersionError,
    StagingCorruptError,
    StagingMissingError,
    StagingNotSharedError,
    TargetOwnedError,
    TransformError,
)


@dataclass(frozen=True)
class Run:
    """A run as Airflow knows it."""

    key: str
    pipeline: str
    request: RunRequest


@dataclass
class World:
    """Everything that outlives an attempt.

    counts  faults that really happened, over all worlds
    tolerant  errors that are no defect now: of bytes that rotted
    """

    counts: Counter[str]
    start: str = "earliest"
    on_data_loss: str = "fail"
    on_late: str = "late"
    recipe: int = 0
    now: int = T0
    home: Path = field(
        default_factory=lambda: Path(
            tempfile.mkdtemp(prefix="eventlog-world-", dir=MEMORY if MEMORY.is_dir() else None)
        )
    )
    log: SimLog = field(default_factory=SimLog)
    database: dict[str, Table] = field(default_factory=dict)
    births: dict[str, int] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    tolerant: tuple[type[EventLogError], ...] = ()
    errors: Counter[str] = field(default_factory=Counter)
    waiting: str = ""
    rebuilt: bool = False
    told: tuple[OffsetRange, ...] = ()

    @property
    def root(self) -> Path:
        """The staging root."""
        return self.home / "staging"

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.home / "ledger.sqlite"

    def pipeline(self, name: str) -> Pipeline:
        """A pipeline as it is declared now."""
        over = declared.stream(self.start, self.on_data_loss)
        return declared.rows(over, self.recipe) if name == "rows" else declared.windows(over, self.on_late)

    # The topic.

    def append(self, partition: int, timestamp: int, value: dict[str, Any] | None, transaction: int | None) -> None:
        """A producer's record."""
        told = None if value is None else json.dumps(value).encode()
        state = COMMITTED if transaction is None else OPEN
        log = self.log.known().partitions[partition]
        log.append(Record(timestamp, b"k" if len(log) % 3 else None, told, state, transaction))

    def recreate(self, *, same: bool) -> None:
        """Delete the topic and create it again; `same` to the same offsets, with other records."""
        old = self.log.incarnations[-1]
        made = self.log.create(len(old.partitions))
        if same:
            for partition, log in enumerate(old.partitions):
                for number in range(len(log)):
                    value = {"k": "other", "v": 900 + number, "ms": self.now}
                    self.append(partition, self.now, value, None)
        self.counts["topic created again"] += 1
        assert made.identity != old.identity

    # Attempts.

    def begin(self, name: str, work: Callable[[Engine], Any], fault: Fault | None = None) -> Attempt:
        """An attempt that has not started yet."""
        number = len(self.attempts)
        clock = lambda: self.now  # noqa: E731

        def working(attempt: Attempt) -> Any:
            with open_world(
                self.home,
                attempt,
                log=self.log,
                database=self.database,
                births=self.births,
                clock=clock,
                chunk=1 + number % 4,
            ) as engine:
                return work(engine)

        made = Attempt(f"{number} {name}", working, fault, self.counts)
        self.attempts.append(made)
        return made

    def go(self, attempt: Attempt, points: int | None = None) -> Attempt:
        """Let an attempt run on, and look at how it ended if it did."""
        attempt.advance(points)
        if attempt.done:
            if isinstance(attempt.result, dict) and "load" in attempt.result:
                self.waiting = str(attempt.result["load"]["windows"])
            error = attempt.error
            self.errors[attempt.failed or "well"] += 1
            defect = isinstance(error, DEFECTS) and not isinstance(error, self.tolerant)
            if error is not None and (defect or not stated(error)):
                raise error
        return attempt

    def act(self, name: str, work: Callable[[Engine], Any], fault: Fault | None = None) -> Attempt:
        """An attempt to its end, or to its fault."""
        return self.go(self.begin(name, work, fault))

    def staged(self, run: Run, stage: str, group: int, fault: Fault | None = None) -> Attempt:
        """An attempt at a stage of a run, not started yet."""
        pipeline = self.pipeline(run.pipeline)

        def work(engine: Engine) -> Any:
            if stage == "all":
                return stages.run(engine, pipeline, run.request, run.key)
            if stage == "plan":
                return stages.plan(engine, pipeline, run.request, run.key)
            if stage in ("land", "transform"):
                of = len(engine.ledger.run_plan(run.key, pipeline.name).groups)
                return {"land": stages.land, "transform": stages.transform}[stage](
                    engine, pipeline, run.key, group % of
                )
            return {"validate": stages.validate, "load": stages.load}[stage](engine, pipeline, run.key)

        return self.begin(f"{stage} of {run.key}", work, fault)

    @property
    def asleep(self) -> list[Attempt]:
        """Attempts that were stopped and may go on."""
        return [a for a in self.attempts if a.running]

    # What people and upkeep do.

    def adopt(self, start: str, fault: Fault | None = None) -> Attempt:
        """Go on with the topic that is there now."""
        over = self.pipeline("rows").stream
        return self.act("adopt", lambda e: adopt(e, over, start, who="me", why="test"), fault)

    def release(self, fault: Fault | None = None) -> list[Attempt]:
        """Let all held batches pass."""
        held = self.asked(
            "SELECT pipeline, batch_id FROM generation WHERE state = 'held' ORDER BY pipeline, batch_id, gen"
        )
        return [
            self.act("release", lambda e, p=p, b=b: gate.release(e, p, b, who="me", why="known"), fault)  # type: ignore[misc]
            for p, b in held
        ]

    def skip(self, batch_id: str | None, hole: int | None, fault: Fault | None = None) -> Attempt:
        """Let the windows pass a batch or a hole."""
        return self.act(
            "skip",
            lambda e: skip(e, "windows", TOPIC, ["w"], batch_id=batch_id, hole=hole, who="me", why="known"),
            fault,
        )

    def collect(self, grace_ms: int, fault: Fault | None = None) -> Attempt:
        """Collect garbage."""
        return self.act("gc", lambda e: gc.collect(e, grace_ms=grace_ms), fault)

    def fsck(self) -> dict[str, Any]:
        """Audit deeply."""
        found: dict[str, Any] = self.act("fsck", lambda e: fsck(e, TOPIC, deep=True)).result
        return found

    def rebuild(self) -> dict[str, Any] | None:
        """Lose the ledger and make it again; None where there is nothing to make it from. Sleepers have died before."""
        for attempt in self.asleep:
            attempt.dead = True
        lost = self.home / "lost"
        lost.mkdir(exist_ok=True)
        for file in self.home.glob("ledger.sqlite*"):
            file.rename(lost / file.name)
        idle = Attempt("rebuild", lambda _: None, None, self.counts)
        staging = SimStaging(self.root, idle, self.births, lambda: self.now)
        try:
            made = rebuild_ledger(
                staging,
                lambda output: SimTarget(self.database, output.target),
                self.ledger,
                root=str(self.root),
            )
        except RequestError:
            # Nothing stands in staging yet.
            for file in lost.iterdir():
                file.rename(self.home / file.name)
            return None
        shutil.rmtree(lost)
        self.counts["ledger lost"] += 1
        self.rebuilt = True
        found = [r for problem in made["problems"] for r in re.findall(r"\b\d+:\d+-\d+\b", problem["mend"])]
        self.told = merged([*self.told, *map(OffsetRange.parse, found)])
        return made

    def asked(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger's database; nothing if there is none yet."""
        import sqlite3

        if not self.ledger.exists():
            return []
        connection = sqlite3.connect(self.ledger)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def asked_streams(self) -> bool:
        """Whether the ledger knows the stream."""
        return bool(self.asked("SELECT name FROM sqlite_master WHERE name = 'stream'")) and bool(
            self.asked("SELECT name FROM stream")
        )

    def close(self) -> None:
        """Throw the world away."""
        for attempt in self.attempts:
            attempt.throw_away()
        shutil.rmtree(self.home)
