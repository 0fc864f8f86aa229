"""The Target contract: twice has the effect of once, whole batches or none, and nothing that is not ours is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_eventlog.core import hosts, partfile
from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    EventLogError,
    StagingCorruptError,
    TargetBusyError,
    TargetHostError,
    TargetOwnedError,
    TargetReplacedError,
    TargetSchemaError,
    TargetUnavailableError,
)
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import ApplyResult, Outcome, OutputId, Target, TargetState
from airflow_provider_eventlog.core.targets import duckdb_host
from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget
from airflow_provider_eventlog.core.transforming import transform_slice
from airflow_provider_eventlog.declare import DuckDB, Json, Pipeline, Rows, Stream
from tests.support.rawtables import damage, raw_table

ROOT = Path(__file__).parents[2]
OURS = OutputId("ledger-1", "pipeline-1", "orders")


@dataclass
class Room:
    """A target, and ways to look at its table and to tamper with it from outside."""

    target: Target
    home: Path
    query: Callable[[str], list[tuple[Any, ...]]]
    table: str = "orders"

    def again(self, table: str = "orders", timeout: float = 60) -> Target:
        """Another handle on the same database."""
        return DuckDBTarget(DuckDB("data/orders.duckdb", table=table), self.home, busy_timeout_s=timeout)

    @property
    def file(self) -> Path:
        """The database file."""
        return self.home / "data/orders.duckdb"


@pytest.fixture(params=["duckdb"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    """A target over nothing yet."""
    assert request.param == "duckdb"

    def query(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(tmp_path / "data/orders.duckdb")) as connection:
            return connection.execute(sql).fetchall()

    return Room(DuckDBTarget(DuckDB("data/orders.duckdb", table="orders"), tmp_path), tmp_path, query)


FIELDS = {"id": "BIGINT", "amount": "DECIMAL(12,2)", "u": "UUID", "j": "JSON", "ts": "TIMESTAMPTZ", "tags": "VARCHAR[]"}


def pipeline(fields: dict[str, str] = FIELDS) -> Pipeline:
    """A pipeline that keeps its fields."""
    return Pipeline(
        "pipeline-1",
        stream=Stream("t"),
        decode=Json(fields),
        outputs=[Rows(DuckDB("data/orders.duckdb", table="orders"))],
    )


def part(folder: Path, ids: range, fields: dict[str, str] = FIELDS) -> Path:
    """A part file with one row an id; ids are offsets too."""
    values = [
        json.dumps(
            {
                "id": n,
                "amount": 1.25,
                "u": "550e8400-e29b-41d4-a716-446655440000",
                "j": {"n": n},
                "ts": "2013-01-31T12:00:00Z",
                "tags": ["a", "b"],
            }
        ).encode()
        for n in ids
    ]
    result = transform_slice(pipeline(fields), raw_table(values, start=ids.start))
    path = folder / f"{ids.start}-{ids.stop}-{len(fields)}.parquet"
    wanted = OffsetRange(0, ids.start, ids.stop)
    partfile.write_part(path, result, kind="typed", wanted=wanted, recipe="r")
    return path


def apply(
    room: Room, ids: range, generation: int = 1, *, batch: str = "batch-1", output: OutputId = OURS
) -> ApplyResult:
    """Load ids as one generation of a batch; the digest tells the ids."""
    files = [part(room.home, ids)] if len(ids) else []
    schema = partfile.part_schema(pipeline())
    return room.target.apply_rows(output, batch, generation, f"digest-{ids}", files, schema)


def test_an_absent_table_stays_absent_until_the_first_load(room: Room) -> None:
    """Looking makes neither file nor table."""
    assert room.target.state(OURS).state is TargetState.ABSENT
    assert room.target.loaded(OURS, "batch-1") is None
    assert not room.file.exists()


def test_the_first_load_makes_the_table_with_its_types(room: Room) -> None:
    """The table has the rows' columns with the engine's types, then batch and position, and tells its UUID."""
    assert apply(room, range(3)) == ApplyResult(Outcome.LANDED, 3)
    seen = room.target.state(OURS)
    assert seen.state is TargetState.OWNED
    assert seen.table_uuid is not None
    assert seen.columns == (
        ("id", "BIGINT"),
        ("amount", "DECIMAL(12,2)"),
        ("u", "UUID"),
        ("j", "JSON"),
        ("ts", "TIMESTAMP WITH TIME ZONE"),
        ("tags", "VARCHAR[]"),
        ("_batch_id", "VARCHAR"),
        ("_partition", "INTEGER"),
        ("_offset", "BIGINT"),
        ("_row", "INTEGER"),
    )
    assert room.query("select id, j.n::int, epoch(ts), tags[2], _batch_id, _partition, _offset, _row from orders") == [
        (n, n, 1359633600.0, "b", "batch-1", 0, n, 0) for n in range(3)
    ]
    assert room.query("select ledger_id, pipeline, output, log, n from _eventlog_output") == [
        ("ledger-1", "pipeline-1", "orders", None, None)
    ]
    assert room.query("select comment from duckdb_tables() where table_name = 'orders'") == [
        (f"eventlog:{seen.table_uuid}",)
    ]


def test_one_effect(room: Room) -> None:
    """The same generation twice is there once, also through another handle."""
    assert apply(room, range(3)).outcome is Outcome.LANDED
    assert apply(room, range(3)) == ApplyResult(Outcome.EXISTED, 3)
    found = room.again().loaded(OURS, "batch-1")
    assert found is not None
    assert (found.generation, found.digest, found.rows) == (1, "digest-range(0, 3)", 3)
    assert room.query("select count(*) from orders") == [(3,)]


def test_a_higher_generation_replaces_and_a_lower_one_is_superseded(room: Room) -> None:
    """Exactly the highest generation of a batch is visible, whatever the order; other batches stay."""
    apply(room, range(100, 102), batch="other")
    apply(room, range(3), 1)
    assert apply(room, range(5, 12), 3) == ApplyResult(Outcome.LANDED, 7)
    assert apply(room, range(4), 2) == ApplyResult(Outcome.EXISTED, 7, superseded=True)
    assert room.query("select id from orders where _batch_id = 'batch-1' order by 1") == [(n,) for n in range(5, 12)]
    assert room.query("select count(*) from orders where _batch_id = 'other'") == [(2,)]


def test_a_generation_may_be_empty(room: Room) -> None:
    """A batch without rows is recorded, and takes away what an earlier generation had."""
    apply(room, range(3), 1)
    assert apply(room, range(0), 2) == ApplyResult(Outcome.LANDED, 0)
    assert apply(room, range(0), 2) == ApplyResult(Outcome.EXISTED, 0)
    assert room.query("select count(*) from orders") == [(0,)]


def test_the_same_generation_with_other_content_is_refused(room: Room) -> None:
    """Another digest under the same generation moves nothing."""
    apply(room, range(3))
    with pytest.raises(ContentMismatchError, match="Nothing was moved"):
        apply(room, range(4))
    assert room.query("select count(*) from orders") == [(3,)]


def test_several_parts_are_streamed_in_order(room: Room) -> None:
    """All parts of a generation arrive, in their order."""
    files = [part(room.home, r) for r in (range(5), range(5, 9), range(9, 30))]
    result = room.target.apply_rows(OURS, "b", 1, "d", files, partfile.part_schema(pipeline()))
    assert result.rows == 30
    assert room.query("select id from orders") == [(n,) for n in range(30)]


def test_a_damaged_part_moves_nothing(room: Room) -> None:
    """Damage in the last part rolls the whole load back, table and records included; a good retry lands."""
    files = [part(room.home, range(5)), part(room.home, range(5, 9))]
    whole = damage(files[1])
    schema = partfile.part_schema(pipeline())
    with pytest.raises(StagingCorruptError):
        room.target.apply_rows(OURS, "b", 1, "d", files, schema)
    assert room.target.state(OURS).state is TargetState.ABSENT
    files[1].write_bytes(whole)
    assert room.target.apply_rows(OURS, "b", 1, "d", files, schema).rows == 9


@pytest.mark.parametrize("stranger", [
    OutputId("ledger-2", "pipeline-1", "orders"),
    OutputId("ledger-1", "pipeline-2", "orders"),
    OutputId("ledger-1", "pipeline-1", "else"),
])  # fmt: skip
def test_a_table_has_one_owner(room: Room, stranger: OutputId) -> None:
    """Another ledger, pipeline or output is told whose the table is, and moves nothing."""
    apply(room, range(3))
    for act in (lambda: room.target.state(stranger), lambda: apply(room, range(9), output=stranger)):
        with pytest.raises(TargetOwnedError, match="belongs to output 'orders' of pipeline 'pipeline-1'"):
            act()
    assert room.query("select count(*) from orders") == [(3,)]


@pytest.mark.parametrize("make", ["create table Orders as select 7 as id", "create view orders as select 7 as id"])
def test_a_table_of_somebody_else_is_left_alone(room: Room, make: str) -> None:
    """A table or view that this package did not make is refused, also in other case."""
    room.file.parent.mkdir()
    room.query(make)
    with pytest.raises(TargetOwnedError, match="not made by this package"):
        apply(room, range(3))
    assert room.query("select id from orders") == [(7,)]


@pytest.mark.parametrize("tamper", [
    "drop table orders",
    "create table copy as from orders; drop table orders; alter table copy rename to orders",
    "comment on table orders is 'eventlog:00000000000000000000000000000000'",
    "alter table orders rename to elsewhere",
])  # fmt: skip
def test_a_dropped_or_replaced_table_is_refused(room: Room, tamper: str) -> None:
    """A table that is gone, was made again, or carries another UUID is never loaded into."""
    apply(room, range(3))
    room.query(tamper)
    for act in (lambda: room.target.state(OURS), lambda: apply(room, range(9), 2)):
        with pytest.raises(TargetReplacedError):
            act()


def test_changed_columns_are_refused_with_a_difference(room: Room) -> None:
    """Missing, additional and changed columns are listed, and nothing moves; order does not matter."""
    apply(room, range(3))
    room.query("alter table orders add column extra int; alter table orders alter amount type double; "
               "alter table orders drop column j")  # fmt: skip
    with pytest.raises(TargetSchemaError) as caught:
        apply(room, range(9), 2)
    text = str(caught.value)
    assert "+ j JSON (not in the table)" in text
    assert "- extra INTEGER (only in the table)" in text
    assert "~ amount DOUBLE in the table, DECIMAL(12,2) in the rows" in text
    assert room.query("select count(*) from orders") == [(3,)]


def test_a_renamed_file_keeps_its_identity(room: Room) -> None:
    """UUID and owner travel inside the file: a copy elsewhere is known by them."""
    apply(room, range(3))
    before = room.target.state(OURS).table_uuid
    moved = room.home / "moved.duckdb"
    room.file.rename(moved)
    after = DuckDBTarget(DuckDB(str(moved), table="orders"), Path("/nowhere"))
    assert after.state(OURS).table_uuid == before
    assert after.apply_rows(OURS, "batch-1", 1, "digest-range(0, 3)", [], partfile.part_schema(pipeline())).rows == 3


def test_two_outputs_share_a_file(room: Room) -> None:
    """Tables of one file have their own owners and batches; a schema is made where it is named."""
    apply(room, range(3))
    other = DuckDBTarget(DuckDB("data/orders.duckdb", table='o"dd', schema="s'x"), room.home)
    theirs = OutputId("ledger-1", "pipeline-2", "odd")
    result = other.apply_rows(theirs, "batch-1", 1, "d", [part(room.home, range(5))], partfile.part_schema(pipeline()))
    assert result.rows == 5
    assert room.query("""select count(*) from "s'x"."o""dd" """) == [(5,)]
    assert apply(room, range(3)) == ApplyResult(Outcome.EXISTED, 3)


SCRIPT = """
import sys, time
from pathlib import Path
from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.targets import duckdb_host
from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget
from airflow_provider_eventlog.declare import DuckDB
from tests.contract.test_target import OURS, pipeline
home, mode, files = Path(sys.argv[1]), sys.argv[2], [Path(f) for f in sys.argv[3:]]
if mode == "stuck":
    real = partfile.iter_batches
    def slow(paths, schema):
        yield from real(paths, schema)
        print("inside", flush=True)
        sys.stdin.read()
    partfile.iter_batches = slow
elif mode == "race":
    print("inside", flush=True)
    sys.stdin.readline()
target = DuckDBTarget(DuckDB("data/orders.duckdb", table="orders"), home)
result = target.apply_rows(OURS, "batch-1", 2, "d2", files, partfile.part_schema(pipeline()))
print(result.outcome.value, result.rows, flush=True)
"""


def _process(room: Room, mode: str, files: list[Path]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(room.home), mode, *map(str, files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


def _end(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    return out.strip()


def test_two_processes_loading_the_same_batch_land_it_once(room: Room) -> None:
    """Of two loads at the same moment one lands and one finds it there; neither fails, rows are there once."""
    files = [part(room.home, range(500))]
    racers = [_process(room, "race", files) for _ in range(2)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert sorted(map(_end, racers)) == ["existed 500", "landed 500"]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert room.query("select count(*), count(distinct _offset) from orders") == [(500, 500)]


@pytest.mark.parametrize("before", [0, 3])
def test_a_kill_in_mid_transaction_leaves_the_table_as_before(room: Room, before: int) -> None:
    """After kill -9 with the insert under way the old rows stand alone; a retry lands the new ones."""
    if before:
        apply(room, range(before))
    files = [part(room.home, range(500))]
    process = _process(room, "stuck", files)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    found = room.target.loaded(OURS, "batch-1")
    assert (found.rows if found else 0) == before
    assert room.target.state(OURS).state is (TargetState.OWNED if before else TargetState.ABSENT)
    result = room.target.apply_rows(OURS, "batch-1", 2, "d2", files, partfile.part_schema(pipeline()))
    assert result == ApplyResult(Outcome.LANDED, 500)
    assert room.query("select count(*) from orders") == [(500,)]


def test_a_held_file_is_waited_for_and_then_busy(room: Room) -> None:
    """While another process holds the file a call waits up to its deadline, then says so and is retriable."""
    apply(room, range(3))
    process = _process(room, "stuck", [part(room.home, range(5))])
    began = time.monotonic()
    for act in (
        lambda: room.again(timeout=0.3).state(OURS),
        lambda: room.again(timeout=0.3).apply_rows(OURS, "b", 1, "d", [], partfile.part_schema(pipeline())),
    ):
        with pytest.raises(TargetBusyError) as caught:
            act()
        assert caught.value.retriable
    assert time.monotonic() - began < 20
    waiting: list[object] = []
    thread = threading.Thread(target=lambda: waiting.append(room.again().loaded(OURS, "batch-1")))
    thread.start()
    assert _end(process) == "landed 5"
    thread.join(60)
    assert [getattr(found, "rows", None) for found in waiting] == [5]


def test_readers_see_a_whole_batch_or_none(room: Room) -> None:
    """A reader in the same process, asking all the time while generations replace each other, never sees a mixture."""
    files = {n: [part(room.home, range(n))] for n in (2000, 3000)}
    schema = partfile.part_schema(pipeline())
    room.target.apply_rows(OURS, "b", 1, "d", files[2000], schema)
    done = threading.Event()
    failed: list[BaseException] = []

    def load() -> None:
        try:
            for generation in range(2, 8):
                wanted = files[2000 if generation % 2 else 3000]
                room.target.apply_rows(OURS, "b", generation, "d", wanted, schema)
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    seen = set()
    with duckdb.connect(str(room.file)) as reader:
        writer = threading.Thread(target=load)
        writer.start()
        while not done.is_set():
            seen.add(reader.execute("select count(*), count(distinct _offset) from orders").fetchall()[0])
        writer.join()
        seen.add(reader.execute("select count(*), count(distinct _offset) from orders").fetchall()[0])
    assert failed == []
    assert seen <= {(2000, 2000), (3000, 3000)}
    assert (2000, 2000) in seen


def test_a_lost_answer_to_a_commit_is_settled_by_reading(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """If commit raises after it took effect the load has landed; if it did not, it has failed."""
    real = duckdb.connect

    def connecting(lose: bool) -> Callable[..., Any]:
        class Lossy:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self._inner = real(*args, **kwargs)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._inner, name)

            def commit(self) -> None:
                if lose:
                    self._inner.commit()
                raise duckdb.IOException("the answer was lost")

        return Lossy

    with monkeypatch.context() as patch:
        patch.setattr(duckdb, "connect", connecting(lose=False))
        with pytest.raises(TargetUnavailableError):
            apply(room, range(3))
    assert room.target.state(OURS).state is TargetState.ABSENT
    with monkeypatch.context() as patch:
        patch.setattr(duckdb, "connect", connecting(lose=True))
        assert apply(room, range(3)) == ApplyResult(Outcome.LANDED, 3)
    assert room.query("select count(*) from orders") == [(3,)]


def test_a_file_that_another_process_has_just_begun_is_waited_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A young file without its headers becomes a database in a moment; one left by a kill is refused."""
    room.file.parent.mkdir()
    room.file.write_bytes(bytes(4096))
    real, tried = duckdb.connect, []

    def connect(*args: Any, **more: Any) -> Any:
        tried.append(args)
        if len(tried) == 3:
            room.file.unlink()
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(duckdb, "connect", connect)
        assert apply(room, range(3)) == ApplyResult(Outcome.LANDED, 3)
    assert len(tried) == 3
    room.file.write_bytes(bytes(4096))
    os.utime(room.file, (1, 1))
    with pytest.raises(TargetOwnedError, match="no DuckDB file"):
        apply(room, range(3))


def test_files_that_are_no_database_and_folders_that_cannot_be_made(room: Room) -> None:
    """A foreign file is refused and left as it is; a path below a file is unavailable."""
    room.file.parent.mkdir()
    room.file.write_bytes(b"x" * 20_000)
    with pytest.raises(TargetOwnedError, match="no DuckDB file"):
        apply(room, range(3))
    assert room.file.read_bytes() == b"x" * 20_000
    below = DuckDBTarget(DuckDB("data/orders.duckdb/x/y.duckdb", table="t"), room.home)
    with pytest.raises(TargetUnavailableError):
        below.apply_rows(OURS, "b", 1, "d", [], partfile.part_schema(pipeline()))


def test_a_network_file_system_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks do not hold between hosts nothing is opened."""
    monkeypatch.setattr(hosts, "file_system", lambda folder, mounts: "nfs4")
    refused: list[Callable[[], object]] = [lambda: apply(room, range(3))]
    for act in refused:
        with pytest.raises(TargetHostError, match="nfs4"):
            act()
    assert issubclass(TargetHostError, EventLogError)
    assert not room.file.exists()


def test_a_second_host_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that one host has loaded is not loaded by another; a restart or a container makes no other host."""
    load = {"machine": "m1", "boot": "b1"}
    monkeypatch.setattr(duckdb_host, "identity", lambda: load)
    apply(room, range(3))
    for load in ({"machine": "m1", "boot": "b2"}, {"machine": "m2", "boot": "b2"}):
        assert apply(room, range(3)).outcome is Outcome.EXISTED
        apply(room, range(3), batch=load["machine"] + load["boot"])
    load = {"machine": "m3", "boot": "b3"}
    before = room.query("select count(*) from orders")
    with pytest.raises(TargetHostError, match="DELETE FROM _eventlog_host"):
        apply(room, range(3), batch="other")
    assert room.query("select count(*) from orders") == before
    with duckdb.connect(str(room.file)) as connection:
        connection.execute("DELETE FROM _eventlog_host")
    assert apply(room, range(3), batch="other").outcome is Outcome.LANDED
