"""The ledger on SQLite: how it is opened and refused, its locks, and that its queries use indices."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from airflow_provider_eventlog.core import hosts as file_systems
from airflow_provider_eventlog.core.errors import (
    LedgerConfigError,
    LedgerHostError,
    LedgerUnavailableError,
    LedgerVersionError,
)
from airflow_provider_eventlog.core.ledger import SqlLedger, connect, open_ledger
from airflow_provider_eventlog.core.ledger.connect import address
from airflow_provider_eventlog.core.protocols import GenerationState
from tests.contract.ledgers import GROWING, plan_one, slice_record, use_everything


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's ledger is."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[SqlLedger]:
    """A new ledger at `path`."""
    ledger = open_ledger(path)
    yield ledger
    ledger.close()


def _sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def test_settings_that_durability_rests_on(opened: SqlLedger) -> None:
    """Every connection checks foreign keys and syncs each commit; the file is in WAL mode."""
    with opened.engine.connect() as connection:
        found = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")}
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert found == {"journal_mode": "wal", "synchronous": 2}


def test_path_and_url_name_one_ledger(path: Path, opened: SqlLedger) -> None:
    """A path, its text and a sqlite URL open the same file."""
    for named in (path, str(path), f"sqlite:///{path}"):
        again = open_ledger(named)
        assert again.ledger_id == opened.ledger_id
        again.close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("postgresql+asyncpg://user:hunter2@db/ledger", r"postgresql\+asyncpg is not supported by this release"),
        ("postgresql://user:p@hunter2@db/ledger", "cannot be read"),
        ("postgresql://user@db:hunter2/ledger", "cannot be read"),
        ("mysql://user:hunter2@db/ledger", "mysql is not supported by this release"),
        ("://hunter2", "cannot be read"),
        ("sqlite://", "not absolute"),
        ("sqlite:///ledger.sqlite", "not absolute"),
        ("ledger.sqlite", "not absolute"),
    ],
)
def test_addresses_that_cannot_be_used(given: str, words: str) -> None:
    """An address of another kind is refused for good, in words, and without the password it may hold."""
    with pytest.raises(LedgerConfigError, match=words) as caught:
        address(given)
    assert "hunter2" not in str(caught.value)
    assert not caught.value.retriable


def test_a_file_of_something_else_is_refused_and_left_as_it_was(path: Path) -> None:
    """Neither a foreign database nor a file that is none is taken for a ledger or changed."""
    _sql(path, "CREATE TABLE meta (mine TEXT)")
    text = path.with_name("text")
    text.write_bytes(b"not a database" * 100)
    with closing(sqlite3.connect(path.with_name("plain"))) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    for file in (path, text, path.with_name("plain")):
        before = file.read_bytes()
        with pytest.raises(LedgerConfigError):
            open_ledger(file)
        assert file.read_bytes() == before


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    """What a crash before the first commit leaves behind is no obstacle."""
    path.touch()
    ledger = open_ledger(path)
    assert ledger.streams() == ()
    ledger.close()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A file where the folder should be is a stated failure that names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnavailableError, match="file"):
        open_ledger(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(LedgerUnavailableError, match="cannot be used now"):
        open_ledger(tmp_path)


def test_a_ledger_of_a_newer_release_is_refused(path: Path) -> None:
    """A schema from the future names the release to use, and nothing of it is touched."""
    open_ledger(path).close()
    _sql(path, "UPDATE meta SET value = '99' WHERE key = 'schema'")
    _sql(path, "UPDATE meta SET value = '7.5.0' WHERE key = 'release'")
    before = path.read_bytes()
    with pytest.raises(LedgerVersionError, match=r"version 99.*7\.5\.0 or later"):
        open_ledger(path)
    assert path.read_bytes() == before


def test_a_preview_of_a_ledger_that_does_not_exist_makes_none(path: Path) -> None:
    """create=False plans against an empty ledger in memory; an existing one is opened as it is."""
    ledger = open_ledger(path.parent / "deep" / "ledger.sqlite", create=False)
    plan_one(ledger)
    assert [b.batch_id for b, _ in ledger.batches("s")] == ["b1"]
    ledger.close()
    assert list(path.parent.iterdir()) == []
    first = open_ledger(path)
    second = open_ledger(path, create=False)
    assert second.ledger_id == first.ledger_id
    first.close()
    second.close()


def test_another_host_is_refused_until_the_ledger_is_given_to_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine under another kernel is refused with the statement that mends it, and the statement does."""
    ledger = open_ledger(path)
    plan_one(ledger)
    ledger.close()
    monkeypatch.setattr(connect, "identity", lambda: {"machine": "other", "boot": "other"})
    with pytest.raises(LedgerHostError, match="other") as caught:
        open_ledger(path)
    start = str(caught.value).index("DELETE FROM")
    _sql(path, str(caught.value)[start : str(caught.value).index(";", start)])
    moved = open_ledger(path)
    assert len(moved.batches("s")) == 1
    moved.close()
    monkeypatch.undo()
    with pytest.raises(LedgerHostError):
        open_ledger(path)


def test_a_restart_and_a_new_container_are_the_same_host(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine id or boot id alone is enough, and the other one is learnt each time."""
    for machine, boot in (("m1", "b1"), ("m1", "b2"), ("m2", "b2"), ("m2", "b3"), ("m3", "b3")):
        monkeypatch.setattr(connect, "identity", lambda m=machine, b=boot: {"machine": m, "boot": b})
        open_ledger(path).close()
    assert _sql(path, "SELECT value FROM meta WHERE key = 'machine'") == [("m3",)]
    monkeypatch.setattr(connect, "identity", lambda: {"machine": "m1", "boot": "b1"})
    with pytest.raises(LedgerHostError):
        open_ledger(path)


def test_an_unknown_boot_id_proves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts that both hide their boot id are not one host."""
    for machine in ("m1", "m2"):
        monkeypatch.setattr(connect, "identity", lambda m=machine: {"machine": m, "boot": ""})
        if machine == "m1":
            open_ledger(path).close()
    with pytest.raises(LedgerHostError):
        open_ledger(path)


MOUNTS = """\
/dev/vda / ext4 rw 0 0
nas:/x /mnt/nas nfs4 rw 0 0
tmpfs /mnt/nas/local tmpfs rw 0 0
host /guest 9p rw 0 0
me@box: /mnt/with\\040space fuse.sshfs rw 0 0
//win/share /data cifs rw 0 0
/dev/vdb /data xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me", "ext4"),
        ("/mnt/nas/airflow", "nfs4"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nasty", "ext4"),
        ("/mnt/nas/local/x", "tmpfs"),
        ("/guest/x", "9p"),
        ("/mnt/with space/x", "fuse.sshfs"),
        ("/data", "xfs"),
    ],
)
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    """The longest mount point above a folder decides, whole segments only, the later of two on one point."""
    assert file_systems.file_system(Path(folder), MOUNTS) == kind


def test_network_file_systems_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger on a file system that several hosts mount is refused before anything is created."""
    for kind, refused in {"nfs": True, "nfs4": True, "cifs": True, "fuse.sshfs": True, "9p": False, "": False}.items():
        monkeypatch.setattr(file_systems, "file_system", lambda folder, mounts, kind=kind: kind)
        if refused:
            with pytest.raises(LedgerHostError, match=kind):
                open_ledger(path)
            assert not path.exists()
    open_ledger(path).close()


def test_a_lock_is_waited_for_up_to_the_deadline(path: Path, opened: SqlLedger) -> None:
    """While another process writes, a writer gives up with a retriable error and changes nothing; readers go on."""
    plan_one(opened)
    hasty = open_ledger(path, timeout_s=0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writes: list[Callable[[], object]] = [
            lambda: plan_one(hasty),
            lambda: hasty.record_slice("b1", slice_record("0:0-10")),
            lambda: hasty.advance_generation("p", "b1", 1, GenerationState.HELD),
        ]
        for write in writes:
            with pytest.raises(LedgerUnavailableError, match=r"locked by another process for 0\.05 s") as caught:
                write()
            assert caught.value.retriable
        assert (len(hasty.batches("s")), hasty.slices("b1")) == (1, ())
        other.execute("ROLLBACK")
    hasty.record_slice("b1", slice_record("0:0-10"))
    assert hasty.slices("b1") == opened.slices("b1") != ()
    hasty.close()


def test_no_query_reads_a_whole_table_that_grows(opened: SqlLedger) -> None:
    """Every statement of planning, landing and deriving finds its rows of a long chain by an index."""
    seen: list[tuple[str, object]] = []

    def note(_c: Connection, _cursor: object, statement: str, parameters: object, _x: object, many: bool) -> None:
        if not many and statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    event.listen(opened.engine, "before_cursor_execute", note)
    use_everything(opened)
    event.remove(opened.engine, "before_cursor_execute", note)

    tables = (*GROWING, "from_cut", "to_cut")
    scans: list[str] = []
    used: set[str] = set()
    with opened.engine.connect() as connection:
        for statement, parameters in seen:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
            steps = [str(row[-1]) for row in plan]
            used |= {step.split()[1] for step in steps if step.startswith("SEARCH")}
            scans += [f"{step}: {statement}" for step in steps for t in tables if step.split()[:2] == ["SCAN", t]]
    assert scans == []
    assert used >= set(GROWING)


def test_opening_a_ledger_brings_sqlalchemy_and_nothing_heavier(path: Path) -> None:
    """A ledger in SQLite must not cost a task the import of what it does not use."""
    code = (
        "import sys\n"
        "from airflow_provider_eventlog.core.ledger import open_ledger\n"
        "open_ledger(sys.argv[1]).close()\n"
        "heavy = {'airflow', 'pyarrow', 'pandas', 'numpy', 'duckdb', 'confluent_kafka', 'sqlalchemy.orm', 'psycopg'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "[]\n"
