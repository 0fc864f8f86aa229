"""The ledger on PostgreSQL: how it is opened and refused, what it waits for, and that its queries use indices."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Connection, event, text

from airflow_provider_eventlog.core.errors import (
    EventLogError,
    LedgerConfigError,
    LedgerUnavailableError,
    LedgerVersionError,
)
from airflow_provider_eventlog.core.ledger import SqlLedger, open_ledger
from airflow_provider_eventlog.core.ledger import postgres as module
from airflow_provider_eventlog.core.protocols import GenerationState
from tests.contract.ledgers import GROWING, IDENTITY, plan_one, slice_record, use_everything
from tests.support.postgres import PASSWORD, Postgres


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A database without a ledger."""
    return postgres.new_database()


@pytest.fixture
def opened(url: str) -> Iterator[SqlLedger]:
    """A new ledger at `url`."""
    ledger = open_ledger(url)
    yield ledger
    ledger.close()


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _tables(postgres: Postgres, url: str) -> set[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    return {name for (name,) in postgres.run(query, _name(url))}


def _end_sessions(postgres: Postgres, url: str) -> int:
    """Cut every connection to the database, as a restart of the server does; how many there were."""
    query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{}' AND pid <> {}"
    with postgres.connect() as connection:
        ended = connection.execute(query.format(_name(url), connection.info.backend_pid).encode()).fetchall()
    assert all(done for (done,) in ended)
    return len(ended)


def test_every_spelling_of_the_kind_opens_one_ledger(url: str, opened: SqlLedger) -> None:
    """What other tools call the same server is understood, and a URL may name libpq's parameters."""
    for kind in ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"):
        again = open_ledger(url.replace("postgresql", kind, 1) + "&connect_timeout=3&application_name=x")
        assert again.ledger_id == opened.ledger_id
        again.close()


def test_a_schema_of_its_own_holds_a_ledger_of_its_own(postgres: Postgres, url: str, opened: SqlLedger) -> None:
    """A database that others use serves with a schema that the search path names."""
    postgres.run("CREATE SCHEMA other", _name(url))
    other = open_ledger(url + "&options=-csearch_path%3Dother")
    plan_one(other)
    assert other.ledger_id != opened.ledger_id
    assert opened.batches("s") == ()
    other.close()


def test_without_the_driver_the_error_says_what_to_install() -> None:
    """Psycopg is an extra: a ledger that needs it says so."""
    code = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from airflow_provider_eventlog.core.errors import LedgerConfigError\n"
        "from airflow_provider_eventlog.core.ledger import open_ledger\n"
        "try:\n"
        "    open_ledger('postgresql://u:canary@h/d')\n"
        "except LedgerConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "airflow-provider-eventlog[postgres]" in done.stdout
    assert "canary" not in done.stdout


@pytest.mark.parametrize("change", ["&options=-csearch_path%3Dnowhere", "&nonsense=1", "&sslmode=bogus"])
def test_an_address_that_is_wrong_is_refused_for_good(url: str, change: str) -> None:
    """A missing schema and unknown parameters are mistakes that no retry mends."""
    with pytest.raises(LedgerConfigError) as caught:
        open_ledger(url + change)
    assert not caught.value.retriable


def test_a_database_that_does_not_exist_is_refused_and_not_made(postgres: Postgres) -> None:
    """The ledger makes its tables, never its database, and names the one it looked for."""
    for create in (True, False):
        with pytest.raises(LedgerConfigError, match="'nowhere'"):
            open_ledger(postgres.url("nowhere"), create=create)
    assert postgres.run("SELECT FROM pg_database WHERE datname = 'nowhere'") == []


def test_a_database_of_something_else_is_refused_and_left_as_it_was(postgres: Postgres, url: str) -> None:
    """Tables that are no ledger's are not added to."""
    postgres.run("CREATE TABLE meta (mine TEXT)", _name(url))
    with pytest.raises(LedgerConfigError, match="something else"):
        open_ledger(url)
    assert _tables(postgres, url) == {"meta"}


def test_a_ledger_of_a_newer_release_is_refused(postgres: Postgres, url: str) -> None:
    """A schema from the future names the release to use."""
    open_ledger(url).close()
    postgres.run("UPDATE meta SET value = '99' WHERE key = 'schema'", _name(url))
    postgres.run("UPDATE meta SET value = '7.5.0' WHERE key = 'release'", _name(url))
    for create in (True, False):
        with pytest.raises(LedgerVersionError, match=r"version 99.*7\.5\.0 or later"):
            open_ledger(url, create=create)


def test_a_preview_of_a_ledger_that_does_not_exist_makes_none(postgres: Postgres, url: str) -> None:
    """create=False plans against an empty ledger in memory; an existing one is opened as it is."""
    ledger = open_ledger(url, create=False)
    plan_one(ledger)
    assert [b.batch_id for b, _ in ledger.batches("s")] == ["b1"]
    ledger.close()
    assert _tables(postgres, url) == set()
    first = open_ledger(url)
    second = open_ledger(url, create=False)
    assert second.ledger_id == first.ledger_id
    first.close()
    second.close()


def test_no_host_is_bound(postgres: Postgres, url: str, opened: SqlLedger) -> None:
    """A server serves any number of hosts: nothing of this one is kept."""
    assert {key for (key,) in postgres.run("SELECT key FROM meta", _name(url))} == {"schema", "release", "ledger_id"}


def test_text_sorts_by_code_point_in_any_database(postgres: Postgres, url: str, opened: SqlLedger) -> None:
    """Every text column has the collation C, whatever the database's own is."""
    query = (
        "SELECT DISTINCT collation_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type IN ('text', 'character varying')"
    )
    assert postgres.run(query, _name(url)) == [("C",)]


def _secured(postgres: Postgres, url: str, password: str) -> str:
    postgres.run("GRANT ALL ON SCHEMA public TO secured", _name(url))
    return url.replace("//postgres@", f"//secured:{quote(password, safe='')}@")


def test_a_password_with_any_character_opens_the_ledger(postgres: Postgres, url: str) -> None:
    """A URL carries a password percent-encoded."""
    ledger = open_ledger(_secured(postgres, url, PASSWORD))
    plan_one(ledger)
    assert PASSWORD not in repr(ledger.engine)
    ledger.close()


def test_no_failure_tells_the_password(postgres: Postgres, url: str) -> None:
    """Wrong password, missing rights, lost connection, dead server: each says what and where, none the password."""
    failures: list[BaseException] = []

    def fails(kind: type[EventLogError], act: Callable[[], object]) -> None:
        with pytest.raises(kind) as caught:
            act()
        failures.append(caught.value)

    wrong = _secured(postgres, url, "canary-wrong")
    fails(LedgerConfigError, lambda: open_ledger(wrong))
    right = _secured(postgres, url, PASSWORD)
    ledger = open_ledger(right)

    def cut_off() -> None:
        with ledger.planning("s", "{}") as tx:
            _end_sessions(postgres, url)
            tx.epochs()

    fails(LedgerUnavailableError, cut_off)
    plan_one(ledger)
    postgres.run("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM secured", _name(url))
    postgres.run("REASSIGN OWNED BY secured TO postgres", _name(url))
    fails(LedgerConfigError, lambda: ledger.batches("s"))
    ledger.close()
    fails(LedgerUnavailableError, lambda: open_ledger(right.replace(f"host={postgres.folder}", "host=/nowhere")))
    for failure in failures:
        chain: list[BaseException] = [failure]
        while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(before)
        told = "".join(f"{one} {one!r}" for one in chain)
        assert "canary" not in told
        assert quote(PASSWORD, safe="") not in told
    assert [_name(url) in str(failure) for failure in failures] == [True] * 4


def test_a_driver_that_repeats_the_password_is_not_repeated() -> None:
    """Should a message of the driver hold the password, it is struck out."""
    for kind in (
        psycopg.OperationalError,
        psycopg.ProgrammingError,
        psycopg.errors.DiskFull,
        psycopg.errors.DataCorrupted,
    ):
        told = module.stated(kind("at canary, alas"), "here", "canary", 1)
        assert told is not None
        assert "at ***, alas" in str(told)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.LockNotAvailable, LedgerUnavailableError),
        (psycopg.errors.QueryCanceled, LedgerUnavailableError),
        (psycopg.errors.DeadlockDetected, LedgerUnavailableError),
        (psycopg.errors.DiskFull, LedgerUnavailableError),
        (psycopg.errors.TooManyConnections, LedgerUnavailableError),
        (psycopg.errors.AdminShutdown, LedgerUnavailableError),
        (psycopg.errors.CannotConnectNow, LedgerUnavailableError),
        (psycopg.errors.ReadOnlySqlTransaction, LedgerUnavailableError),
        (psycopg.errors.IdleInTransactionSessionTimeout, LedgerUnavailableError),
        (psycopg.errors.IoError, LedgerUnavailableError),
        (psycopg.InterfaceError, LedgerUnavailableError),
        (psycopg.errors.InsufficientPrivilege, LedgerConfigError),
        (psycopg.errors.InvalidPassword, LedgerConfigError),
        (psycopg.errors.IndexCorrupted, LedgerConfigError),
        (psycopg.errors.UniqueViolation, None),
        (psycopg.errors.SyntaxError, None),
        (ValueError, None),
    ],
)
def test_what_failures_mean(error: type[Exception], kind: type[EventLogError] | None) -> None:
    """What passes by itself is retriable, what needs a hand is not, and a statement's own failure stays what it is."""
    assert type(module.stated(error("x"), "here", "", 1)) is (kind or type(None))


@pytest.mark.parametrize(
    ("words", "retriable"),
    [
        ('connection is bad: connection to server on socket "/x" failed: No such file or directory', True),
        ('connection to server at "x" failed: Connection refused', True),
        ('connection to server at "x" failed: FATAL:  the database system is starting up', True),
        ('connection to server at "x" failed: FATAL:  sorry, too many clients already', True),
        ('could not translate host name "x" to address: Temporary failure in name resolution', True),
        ("connection timeout expired", True),
        ('connection is bad: invalid sslmode value: "bogus"', False),
        ('connection to server at "x" failed: FATAL:  password authentication failed for user "u"', False),
        ('connection to server at "x" failed: FATAL:  no pg_hba.conf entry for host "y", user "u"', False),
        ('connection to server at "x" failed: FATAL:  database "d" does not exist', False),
        ('connection to server at "x" failed: fe_sendauth: no password supplied', False),
    ],
)
def test_what_failures_to_connect_mean(words: str, retriable: bool) -> None:
    """A server that is away or busy may come back; one that refuses who asks, or what for, will not change its mind."""
    told = module.stated(psycopg.OperationalError(words), "here", "", 1)
    assert told is not None
    assert told.retriable is retriable


def test_a_lock_is_waited_for_up_to_the_deadline(url: str, opened: SqlLedger) -> None:
    """While another process plans the stream, a planner gives up with a retriable error; all others go on."""
    plan_one(opened)
    hasty = open_ledger(url, timeout_s=0.1)
    with opened.planning("s", "{}"):
        with pytest.raises(LedgerUnavailableError, match=r"locked by another process for 0\.1 s") as caught:
            plan_one(hasty)
        assert caught.value.retriable
        assert len(hasty.batches("s")) == 1
        hasty.record_slice("b1", slice_record("0:0-10"))
        hasty.advance_generation("p", "b1", 1, GenerationState.HELD)
        with hasty.planning("t", "{}") as tx:
            tx.add_epoch(IDENTITY, "first plan")
    plan_one(hasty)
    assert hasty.slices("b1") == opened.slices("b1") != ()
    hasty.close()


def test_creation_is_waited_for_up_to_the_deadline(postgres: Postgres, url: str) -> None:
    """A process that hangs while it creates the ledger does not hold up another for ever."""
    with postgres.connect(_name(url)) as connection:
        connection.execute(f"SELECT pg_advisory_lock({module._CREATION})".encode())
        with pytest.raises(LedgerUnavailableError, match="locked by another process"):
            open_ledger(url, timeout_s=0.1)
    ledger = open_ledger(url)
    assert ledger.streams() == ()
    ledger.close()


def test_a_statement_ends_at_its_deadline(url: str) -> None:
    """A server that is too slow is given up with a retriable error."""
    hasty = open_ledger(url, timeout_s=0.1)
    for engine in (hasty._reading, hasty._writing):
        with pytest.raises(LedgerUnavailableError, match="statement timeout"), engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(30)"))
    assert hasty.streams() == ()
    hasty.close()


def test_a_server_that_does_not_answer_is_given_up() -> None:
    """A closed port and one that accepts and stays silent end in a retriable error, not in a hang."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailableError, match=f"127.0.0.1:{port}"):
            open_ledger(f"postgresql://u@127.0.0.1:{port}/d", timeout_s=1)
        assert time.monotonic() - begun < 30
    with pytest.raises(LedgerUnavailableError, match=f"127.0.0.1:{port}") as caught:
        open_ledger(f"postgresql://u@127.0.0.1:{port}/d", timeout_s=1)
    assert caught.value.retriable


def test_a_lost_connection_keeps_nothing_of_a_plan_and_the_next_call_works(
    postgres: Postgres, url: str, opened: SqlLedger
) -> None:
    """Cut off inside a plan, or at its commit, the planner is told so; nothing is kept, and trying again succeeds."""

    def cut_off(*, inside: bool) -> None:
        with opened.planning("s", "{}") as tx:
            tx.add_epoch(IDENTITY, "first plan")
            assert _end_sessions(postgres, url) > 0
            if inside:
                tx.add_epoch(IDENTITY, "first plan")

    for inside in (True, False):
        with pytest.raises(LedgerUnavailableError) as caught:
            cut_off(inside=inside)
        assert caught.value.retriable
        assert opened.epochs("s") == ()
    plan_one(opened)
    assert _end_sessions(postgres, url) > 0
    opened.record_slice("b1", slice_record("0:0-10"))
    assert len(opened.slices("b1")) == 1


def test_a_plan_with_a_failed_statement_is_never_taken_for_kept(opened: SqlLedger) -> None:
    """A server answers the commit of a spoilt transaction by undoing it in silence: that must not pass for success."""
    tx = opened.planning("s", "{}")

    def spoilt() -> None:
        with tx:
            tx.add_epoch(IDENTITY, "first plan")
            with pytest.raises(Exception, match="division by zero"):
                tx._connection.execute(text("SELECT 1/0"))

    with pytest.raises(RuntimeError, match="cannot be committed"):
        spoilt()
    assert opened.epochs("s") == ()
    plan_one(opened)


def test_a_read_sees_one_state(opened: SqlLedger, url: str) -> None:
    """Between two statements of one read another process may commit: the second statement does not see it."""
    other = open_ledger(url)
    with opened._reading.connect() as connection:
        count = text("SELECT count(*) FROM stream")
        assert connection.execute(count).scalar() == 0
        plan_one(other)
        assert connection.execute(count).scalar() == 0
    other.close()
    assert len(opened.streams()) == 1


def test_no_query_reads_a_whole_table_that_grows(opened: SqlLedger) -> None:
    """Every statement of planning, landing and deriving can find its rows of a long chain by an index."""
    seen: list[tuple[str, Any]] = []

    def note(_c: Connection, _cursor: object, statement: str, parameters: object, _x: object, many: bool) -> None:
        if not many and statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    event.listen(opened.engine, "before_cursor_execute", note)
    use_everything(opened)
    event.remove(opened.engine, "before_cursor_execute", note)

    scans: list[str] = []
    used: set[str] = set()
    with opened.engine.connect() as connection:
        # Small tables are read whole because that is cheap; what counts is whether there is another way.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        for statement, parameters in seen:
            ((found,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            for step in _steps((found if isinstance(found, list) else json.loads(found))[0]["Plan"]):
                table = step.get("Relation Name")
                if table in GROWING:
                    used.add(table)
                if "Scan" in step["Node Type"] and table in GROWING and not {"Index Cond", "Recheck Cond"} & set(step):
                    scans.append(f"{step['Node Type']} of {table}: {statement}")
    assert scans == []
    assert used == set(GROWING)


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _steps(inner)
