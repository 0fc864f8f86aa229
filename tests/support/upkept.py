"""A small world that was run for a while: what fsck and gc look after, and hands to damage it with."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_eventlog.core import deciding, gc, stages
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import OffsetsLostError
from airflow_provider_eventlog.core.fsck import fsck
from airflow_provider_eventlog.core.ledger import open_ledger
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import Decision, TopicDescription
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging import records
from airflow_provider_eventlog.core.staging.local import LocalStaging
from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget
from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from tests.support.seededlog import IDENTITY, Entry, SeededLog

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.offsets import TopicIdentity

STAGING, LEDGER, TARGET = "eventlog/staging", "eventlog/ledger.sqlite", "out.duckdb"
START, SECOND, DAY = 1_356_998_400_000, 1000, 86_400_000
ENDS = (8, 14, 20)


def texts(table: Any) -> Any:
    """A transform that filters, and costs little to set up."""
    wanted = [offset % 5 != 0 for offset in table["_offset"].to_pylist()]
    kept = table.select(["value", "_partition", "_offset"]).filter(pa.array(wanted, pa.bool_()))
    return kept.set_column(0, "value", kept["value"].cast(pa.string()))


def shouts(table: Any) -> Any:
    """The same made larger: another recipe."""
    made = texts(table)
    loud = [None if value is None else value.upper() for value in made["value"].to_pylist()]
    return made.set_column(0, "value", pa.array(loud, pa.string()))


ORDERS = Stream("orders", start="earliest", decode=Raw(), max_slice_offsets=6)
PIPELINE = Pipeline(
    "p", stream=ORDERS, transform=texts, schema={"value": "VARCHAR"}, outputs=[Rows(DuckDB(TARGET, table="t"))]
)
SECOND_PIPELINE = PIPELINE.replace(name="q", outputs=[Rows(DuckDB(TARGET, table="u"))])


class MovingLog(SeededLog):
    """A seeded log that loses its start, drops single records, or becomes another topic."""

    def __init__(self, lengths: Sequence[int] = (20, 9)) -> None:
        super().__init__(7, lengths, first=START)
        self.start, self.dropped, self.identity, self.reads = 0, set[tuple[int, int]](), IDENTITY, 0

    def entry(self, partition: int, offset: int) -> Entry | None:
        return None if (partition, offset) in self.dropped else super().entry(partition, offset)

    def describe(self) -> TopicDescription:
        known: TopicIdentity = self.identity
        return TopicDescription(known, super().describe().partitions)

    def log_starts(self) -> dict[int, int]:
        return dict.fromkeys(super().log_starts(), self.start)

    def read(self, wanted: OffsetRange, *, record_loss: bool = False) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        if wanted.start < self.start:
            raise OffsetsLostError(f"{wanted.people} are gone.")
        return super().read(wanted, record_loss=record_loss)


@dataclass
class Upkept:
    """A home with staging, ledger and target in it, a log, and a clock that stands still."""

    home: Path
    log: MovingLog = field(default_factory=MovingLog)
    now: int = START + DAY

    def engine(self) -> Engine:
        """The engine as a process would open it."""
        staging = LocalStaging(self.home / STAGING)
        ledger = open_ledger(self.home / LEDGER)
        ledger.check_staging(str(staging.root), staging.root_id())
        return Engine(
            ledger,
            staging,
            lambda _: self.log,
            lambda output: DuckDBTarget(output.target, self.home),
            clock=lambda: self.now,
        )

    def run(self, number: int, pipeline: Pipeline = PIPELINE, key: str = "") -> dict[str, Any]:
        """Run one of the intervals from plan to load."""
        low = START if not number else START + ENDS[number - 1] * SECOND
        request = RunRequest("interval", interval=(low, START + ENDS[number] * SECOND), first=not number, parallelism=2)
        with self.engine() as engine:
            return stages.run(engine, pipeline, request, key or f"{pipeline.name}-{number}")

    def fsck(self, **more: Any) -> dict[str, Any]:
        """Audit the stream."""
        with self.engine() as engine:
            return fsck(engine, "orders", **more)

    def repair(self, *pipelines: Pipeline, **more: Any) -> dict[str, Any]:
        """Audit and mend."""
        return self.fsck(repair=True, pipelines=pipelines or (PIPELINE,), **more)

    def gc(self, **more: Any) -> dict[str, Any]:
        """Collect."""
        with self.engine() as engine:
            return gc.collect(engine, **more)

    @property
    def root(self) -> Path:
        """The staging root."""
        return self.home / STAGING

    def raw(self) -> list[Path]:
        """Raw files by name."""
        return sorted(self.root.glob("orders/epoch=1/raw/*/*.parquet"))

    def parts(self, pipeline: str = "p") -> list[Path]:
        """Typed parts of a pipeline by name."""
        return sorted(self.root.glob(f"orders/pipeline={pipeline}/batch=*/gen=*/typed/*/*.parquet"))

    def manifests(self) -> list[Path]:
        """Manifests by name."""
        return sorted(self.root.glob("orders/epoch=1/manifests/*.json"))

    def commits(self) -> list[Path]:
        """Commit records by name."""
        return sorted(self.root.glob("orders/pipeline=*/batch=*/gen=*/commit.json"))

    def table(self, statement: str = "SELECT * EXCLUDE (_batch_id) FROM t ORDER BY ALL") -> list[tuple[Any, ...]]:
        """Ask the target's database, or change it."""
        import duckdb

        with duckdb.connect(str(self.home / TARGET)) as connection:
            return connection.execute(statement).fetchall()

    def ledger(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger's database, or change it behind everybody's back."""
        with self.database() as connection:
            return connection.execute(statement, values).fetchall()

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The ledger's database, with what was changed kept."""
        connection = sqlite3.connect(self.home / LEDGER)
        try:
            yield connection
            connection.commit()
        finally:
            connection.close()


def codes(document: dict[str, Any], *, damaged: bool = True) -> list[str]:
    """The codes of an audit's findings, in order."""
    return [f["code"] for f in document["findings"] if f["damaged"] is damaged]


def failures(document: dict[str, Any]) -> str:
    """What went wrong in mending."""
    return "; ".join(f["result"] for f in document["findings"] if f["result"] and not f["mended"])


def standing(home: Path) -> dict[str, str]:
    """Published files below a home, and the digests of their bytes."""
    root = home / STAGING
    files = [f for f in sorted(root.rglob("*")) if f.is_file() and f.relative_to(root).parts[0][0] != "."]
    return {str(f.relative_to(root)): sha256(f.read_bytes()).hexdigest() for f in files}


def recorded(world: Upkept) -> list[tuple[Any, ...]]:
    """What the target says that it has."""
    return world.table("SELECT batch_id, gen, digest, rows FROM _eventlog_load ORDER BY ALL")


def flip(file: Path) -> None:
    """One bit, in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def edit(file: Path, *, seal: bool, number: int = records.FORMAT) -> None:
    """Change a record by hand; sealed, its own hash fits again."""
    document = json.loads(file.read_text())
    record = {**document["record"], "accounting": {"landed": 1}, "why": "another"}
    sealed = {"record": record, "format": number, "sha256": records.digest(record) if seal else document["sha256"]}
    file.write_text(json.dumps(sealed))


DECIDED = Decision("note", "orders", 1, None, None, "me", "a test", 1, {"n": 1})


def lived_in(home: Path) -> Upkept:
    """A home with three loaded batches, five raw files and more, and one decision."""
    world = Upkept(home)
    for number in range(3):
        world.run(number)
    with world.engine() as engine:
        deciding.decide(engine, DECIDED)
    return world


def copied(home: Path, to: Path) -> Upkept:
    """A copy of a home, to damage."""
    shutil.copytree(home, to, symlinks=True)
    return Upkept(to)
