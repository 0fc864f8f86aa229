"""A world that was lived in: batches of several kinds, two pipelines, corrected, held and unfinished work, losses.

Built once a session and copied: what is rebuilt from one copy is compared with what another copy still has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.cli.main import main
from airflow_provider_eventlog.core import gate, stages
from airflow_provider_eventlog.core.errors import CheckFailedError
from airflow_provider_eventlog.core.offsets import OffsetRange, parse_ranges
from airflow_provider_eventlog.core.protocols import SliceRead
from airflow_provider_eventlog.core.redriving import dropping
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.selection import Selection
from airflow_provider_eventlog.declare import Check, DuckDB, Pipeline, Rows
from tests.support.upkept import ENDS, ORDERS, PIPELINE, SECOND, START, TARGET, MovingLog, Upkept, shouts

if TYPE_CHECKING:
    import pyarrow as pa

RECORDING = replace(ORDERS, on_data_loss="record", raw_retention="400 days")
FIRST = PIPELINE.replace(stream=RECORDING, derived_retention="300 days")
CORRECTED = FIRST.replace(transform=shouts)
CHECKED = FIRST.replace(
    name="checked",
    outputs=[Rows(DuckDB(TARGET, table="u"))],
    quarantine=DuckDB(TARGET, table="u_quarantine"),
    checks=[Check("early", "_offset < 10"), Check("odd", "_offset % 3 <> 1", on_fail="quarantine")],
    max_quarantine_ratio=1.0,
)
REDRIVEN = CHECKED.replace(
    checks=[CHECKED.checks[0], Check("odd", "_offset % 3 <> 1 OR _offset < 4", on_fail="quarantine")]
)


class LosingLog(MovingLog):
    """A log whose second partition loses its start: `seen` is what a plan sees of it, `gone` what a read finds."""

    seen, gone = 4, 4

    def log_starts(self) -> dict[int, int]:
        return {0: 0, 1: self.seen}

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        gone = range(wanted.start, min(wanted.end, self.gone)) if wanted.partition == 1 else ()
        self.dropped |= {(1, offset) for offset in gone}
        yield from super(MovingLog, self).read(wanted, record_loss=record_loss)
        if gone and record_loss:
            seen = self.last_read
            lost = (OffsetRange(1, gone[0], gone[-1] + 1),)
            self._last_read = SliceRead(seen.gaps, seen.aborted, seen.bytes, lost)


@dataclass
class LivedIn(Upkept):
    """A world with such a log."""

    log: LosingLog = field(default_factory=LosingLog)


def live(home: Path) -> LivedIn:
    """All that happened: the comments name what is in it."""
    made = LivedIn(home)
    made.log.seen, made.log.gone = 0, 2
    made.run(0, FIRST)  # loaded; two offsets expire between plan and read
    made.run(0, CHECKED)  # loaded, with a quarantine
    made.log.seen, made.log.gone = 4, 4
    made.run(1, FIRST)  # one offset has expired before the plan, which is decided
    attempt(CheckFailedError, lambda: made.run(1, CHECKED))  # held
    made.run(0, CORRECTED, key="p-0")  # cleared from plan under another recipe: generation 2
    offsets(made, CORRECTED, "0:16-18", "by-hand")  # an off-chain batch
    made.now += 1000
    offsets(made, CORRECTED, "0:16-18", "again", recompute=True)  # generation 2 of equal inputs
    attempt(CheckFailedError, lambda: offsets(made, CHECKED, "0:16-18", "q-by-hand"))
    with made.engine() as engine:
        held = engine.ledger.run_plan("q-by-hand", "checked").batches[0].batch.batch_id
        gate.release(engine, "checked", held, who="me", why="known")
        stages.validate(engine, CHECKED, "q-by-hand")  # validated, never loaded
        # A record of the held batch is dropped; one of the first batch, which a corrected check lets pass, runs again.
        dropping.drop(engine, "checked", "orders", Selection(ranges=parse_ranges("1:4-5")), who="me", why="known")
        again = RunRequest("redrive", selection=Selection(ranges=parse_ranges("0:1-2")), who="me", why="corrected")
        stages.run(engine, REDRIVEN, again)
        # Generation 3 of the first batch is derived in part only.
        changed = CORRECTED.replace(version="3")
        stages.plan(engine, changed, RunRequest("interval", interval=(0, 1)), "p-0")
        stages.transform(engine, changed, "p-0", 0)
    return made


def offsets(made: Upkept, pipeline: Pipeline, ranges: str, key: str, **more: Any) -> dict[str, Any]:
    """Run explicit offsets."""
    asked = RunRequest("offsets", ranges=tuple(map(OffsetRange.parse, ranges.split(","))), parallelism=2, **more)
    with made.engine() as engine:
        return stages.run(engine, pipeline, asked, key)


def interval(number: int) -> RunRequest:
    """The request of one of the intervals."""
    low = START if not number else START + ENDS[number - 1] * SECOND
    return RunRequest("interval", interval=(low, START + ENDS[number] * SECOND), first=not number, parallelism=2)


def attempt(error: type[Exception], work: Callable[[], object]) -> None:
    """Do what must fail so."""
    try:
        work()
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


def copied(home: Path, to: Path) -> LivedIn:
    """The same world once more."""
    shutil.copytree(home, to)
    return LivedIn(to)


def asked(capsys: Any, *words: str) -> dict[str, Any]:
    """The JSON document of a command that succeeds."""
    capsys.readouterr()
    code = main([*words, "--output", "json"])
    out = capsys.readouterr()
    assert code == 0, out.err
    found: dict[str, Any] = json.loads(out.out)
    return found


def answers(capsys: Any, home: Path, *where: str) -> dict[str, Any]:
    """What status, batches and accounting say."""
    at = ("--home", str(home), *where)
    found = {"status": asked(capsys, "status", *at)}
    for name in ("p", "checked"):
        found[f"batches {name}"] = asked(capsys, "batches", "--pipeline", name, *at)
        found[f"accounting {name}"] = asked(capsys, "accounting", "--pipeline", name, *at)
    return found
