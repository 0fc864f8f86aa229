"""Change-sets on a target: in order, each once, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_eventlog.core.errors import (
    ContentMismatchError,
    NotReadyError,
    StagingCorruptError,
    TargetOwnedError,
    TargetReplacedError,
    TargetSchemaError,
    TargetUnavailableError,
)
from airflow_provider_eventlog.core.holdings import AddedUp, Changes, Differing
from airflow_provider_eventlog.core.protocols import ApplyResult, Outcome, OutputId
from airflow_provider_eventlog.core.targets.duckdb import DuckDBTarget
from airflow_provider_eventlog.declare import DuckDB
from tests.support.rawtables import damage

OURS = OutputId("ledger-1", "pipeline-1", "w")
SCHEMA = pa.schema([("country", pa.string()), ("start", pa.int64()), ("n", pa.int64())])
KEY = ("country", "start")


class Room:
    """A target over nothing yet, and ways to make change-sets and to look."""

    def __init__(self, home: Path) -> None:
        self.home, self.file = home, home / "w.duckdb"
        self.target = DuckDBTarget(DuckDB("w.duckdb", table="w"), home, busy_timeout_s=0.5)

    def write(self, rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> list[Path]:
        columns = [pa.array([row[i] for row in rows], schema.field(i).type) for i in range(len(schema))]
        path = self.home / f"{len(list(self.home.iterdir()))}.parquet"
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, write_page_checksum=True)
        return [path]

    def change(
        self,
        n: int,
        upserts: Sequence[tuple[Any, ...]] = (),
        deletes: Sequence[tuple[Any, ...]] = (),
        *,
        log: int = 1,
        digest: str | None = None,
        output: OutputId = OURS,
        schema: pa.Schema = SCHEMA,
    ) -> ApplyResult:
        return self.target.apply_changes(
            output,
            log,
            n,
            digest or f"{log}/{n}",
            self.write(upserts, schema) if upserts else [],
            self.write(deletes, pa.schema([schema.field(name) for name in KEY])) if deletes else [],
            schema,
            KEY,
        )

    def rows(self) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute("select * from w order by all").fetchall()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_change_sets_move_the_table_step_by_step(room: Room) -> None:
    """Upserts replace rows of their key, deletes take them away, and a NULL in a key is a value like any other."""
    assert room.target.cursor(OURS) is None
    assert room.change(1, [("DE", 0, 1), (None, 0, 2), ("", 0, 3)]) == ApplyResult(Outcome.LANDED, 3)
    assert room.change(2, [(None, 0, 20), ("FR", 0, 4)], [("", 0), ("none", 9)]) == ApplyResult(Outcome.LANDED, 2)
    assert room.rows() == [("DE", 0, 1), ("FR", 0, 4), (None, 0, 20)]
    assert room.target.cursor(OURS) == (1, 2)
    assert room.change(3).outcome is Outcome.LANDED
    assert room.target.cursor(OURS) == (1, 3)


def test_one_effect_of_a_change_set_applied_twice(room: Room) -> None:
    """At or past its number a table takes a change-set no more; another one under the same number is refused."""
    room.change(1, [("DE", 0, 1)])
    assert room.change(1, [("DE", 0, 1)]) == ApplyResult(Outcome.EXISTED, 0)
    room.change(2, [("DE", 0, 2)])
    assert room.change(1, [("DE", 0, 1)]) == ApplyResult(Outcome.EXISTED, 0, superseded=True)
    assert room.rows() == [("DE", 0, 2)]
    with pytest.raises(ContentMismatchError):
        room.change(2, [("DE", 0, 3)], digest="other")
    assert room.rows() == [("DE", 0, 2)]


def test_a_step_that_leaves_one_out_waits(room: Room) -> None:
    """A table behind n-1 refuses n, retriably, and stays as it is."""
    with pytest.raises(NotReadyError, match="stands at change-set 0"):
        room.change(2, [("DE", 0, 1)])
    room.change(1, [("DE", 0, 1)])
    with pytest.raises(NotReadyError, match="stands at change-set 1"):
        room.change(3, [("DE", 0, 3)])
    assert room.rows() == [("DE", 0, 1)]


def test_a_later_log_begins_with_an_empty_table(room: Room) -> None:
    """A new log's first change-set replaces all that the earlier log had brought; the earlier one is over then."""
    room.change(1, [("DE", 0, 1)])
    room.change(2, [("FR", 0, 1)])
    room.change(1, [("IT", 0, 7)], log=2)
    assert room.rows() == [("IT", 0, 7)]
    assert room.change(3, [("DE", 0, 1)], log=1).superseded
    assert room.rows() == [("IT", 0, 7)]


def test_atomic_when_a_file_is_damaged(room: Room) -> None:
    """A change-set that cannot be read whole moves nothing."""
    room.change(1, [("DE", 0, 1)])
    (good,) = room.write([("DE", 0, 2)], SCHEMA)
    (bad,) = room.write([("FR", 0, 2)], SCHEMA)
    damage(bad)
    with pytest.raises(StagingCorruptError):
        room.target.apply_changes(OURS, 1, 2, "d", [good, bad], [], SCHEMA, KEY)
    assert (room.rows(), room.target.cursor(OURS)) == ([("DE", 0, 1)], (1, 1))


def test_one_effect_when_the_acknowledgement_is_lost(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose answer never comes is settled by reading."""

    class Losing:
        def __init__(self, real: duckdb.DuckDBPyConnection) -> None:
            self._real = real

        def commit(self) -> None:
            self._real.commit()
            raise duckdb.IOException("the answer was lost")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    real = duckdb.connect
    with monkeypatch.context() as patch:
        patch.setattr(duckdb, "connect", lambda *a, **k: real(*a, **k) if k.get("read_only") else Losing(real(*a, **k)))
        assert room.change(1, [("DE", 0, 1)]).outcome is Outcome.LANDED
    assert (room.rows(), room.target.cursor(OURS)) == ([("DE", 0, 1)], (1, 1))


def test_another_change_set_is_refused_where_the_acknowledgement_is_lost(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that failed, and a table that has taken another change-set n meanwhile: what was not moved is said."""
    rival = Room(room.home)
    room.change(1, [("DE", 0, 1)])
    real, happened = duckdb.connect, list[str]()

    class Failing:
        def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
            self._real = connection

        def commit(self) -> None:
            self._real.rollback()
            happened.append("failed")
            raise duckdb.IOException("the answer was lost")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    def connect(*given: Any, **more: Any) -> Any:
        if not happened:
            return Failing(real(*given, **more))
        if happened == ["failed"]:
            happened.append("overtaken")
            assert rival.change(2, [("DE", 0, 7)], digest="another").outcome is Outcome.LANDED
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(duckdb, "connect", connect)
        with pytest.raises(ContentMismatchError, match="another change-set 2"):
            room.change(2, [("DE", 0, 2)])
    assert happened == ["failed", "overtaken"]
    assert room.rows() == [("DE", 0, 7)]
    assert room.change(3, [("DE", 0, 3)]).outcome is Outcome.LANDED


def test_a_table_is_held_against_its_change_sets(room: Room) -> None:
    """Later upserts and deletes win, an upsert over a delete of its own change-set; what differs is named by key."""
    made: list[Changes] = []
    for n, upserts, deletes in (
        (1, [("DE", 0, 1), (None, 0, 2), ("FR", 0, 3)], []),
        (2, [("DE", 0, 10), ("IT", 0, 4)], [("FR", 0), ("DE", 0)]),
        (3, [("FR", 0, 5)], [(None, 0)]),
        (4, [], []),
    ):
        room.change(n, upserts, deletes)
        keys = pa.schema([SCHEMA.field(name) for name in KEY])
        made.append((n, room.write(upserts, SCHEMA) if upserts else [], room.write(deletes, keys) if deletes else []))
    assert room.target.differing(OURS, AddedUp((1, 4), made, SCHEMA, KEY), 5) == Differing(0, ())
    assert room.target.differing(OURS, AddedUp((1, 3), made[:3], SCHEMA, KEY), 5) is None
    assert room.target.differing(OURS, AddedUp((2, 4), made, SCHEMA, KEY), 5) is None
    with duckdb.connect(str(room.file)) as connection:
        for statement in ("update w set n = 11 where country = 'DE'", "delete from w where country = 'FR'",
                          "insert into w values (null, 0, 2)"):  # fmt: skip
            connection.execute(statement)
    harmed = room.rows()
    wrong = (("changed", ("DE", "0")), ("missing", ("FR", "0")), ("not ours", (None, "0")))
    assert room.target.differing(OURS, AddedUp((1, 4), made, SCHEMA, KEY), 5) == Differing(3, wrong)
    assert room.target.differing(OURS, AddedUp((1, 4), made, SCHEMA, KEY), 1) == Differing(3, wrong[:1])
    with pytest.raises(TargetSchemaError, match="low"):
        room.target.differing(
            OURS, AddedUp((1, 4), [(4, [], [])], SCHEMA.append(pa.field("low", pa.float64())), KEY), 5
        )
    with pytest.raises(TargetOwnedError):
        room.target.differing(OutputId("ledger-1", "pipeline-2", "w"), AddedUp((1, 4), made, SCHEMA, KEY), 5)
    damage(made[1][1][0])
    with pytest.raises(StagingCorruptError):
        room.target.differing(OURS, AddedUp((1, 4), made, SCHEMA, KEY), 5)
    assert room.rows() == harmed
    assert room.target.cursor(OURS) == (1, 4)


def test_a_table_of_somebody_else_is_left_alone(room: Room) -> None:
    """Another owner, a table made again, and other columns are refused; nothing moves."""
    room.change(1, [("DE", 0, 1)])
    with pytest.raises(TargetOwnedError):
        room.change(1, [("DE", 0, 1)], output=OutputId("ledger-1", "pipeline-2", "w"))
    wider = SCHEMA.append(pa.field("low", pa.float64()))
    with pytest.raises(TargetSchemaError, match="low"):
        room.change(2, [("DE", 0, 2, 0.5)], schema=wider)
    with duckdb.connect(str(room.file)) as connection:
        connection.execute("create or replace table w as select * from w")
    with pytest.raises(TargetReplacedError):
        room.change(2, [("DE", 0, 2)])
    assert room.rows() == [("DE", 0, 1)]


def test_a_file_that_cannot_be_made_is_unavailable(room: Room) -> None:
    """A path below a file is a passing failure that leaves nothing."""
    (room.home / "file").write_bytes(b"")
    below = DuckDBTarget(DuckDB("file/w.duckdb", table="w"), room.home)
    with pytest.raises(TargetUnavailableError):
        below.apply_changes(OURS, 1, 1, "d", [], [], SCHEMA, KEY)
