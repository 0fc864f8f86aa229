"""A real Airflow for the demo and the tests: `airflow standalone` on this machine, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

from demo.airflow_api import POLL_S, AirflowApi

USERNAME = "admin"
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
_HOST = "127.0.0.1"
_TAIL_BYTES = 6000

# An ignored SIGINT is inherited, and a shell ignores it for what it starts in the background; Airflow's standalone
# would then never hear the signal that stops it.
_LAUNCH = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"

# `airflow standalone` finds its components by this name on PATH. Their log servers would listen on all interfaces, and
# on one machine nobody needs them: the API server reads the log files themselves.
_SHIM = """#!/bin/sh
case "$1" in
scheduler | triggerer) exec {airflow} "$@" --skip-serve-logs ;;
*) exec {airflow} "$@" ;;
esac
"""


class AirflowEndedError(RuntimeError):
    """The server has ended by itself; the message carries the tail of its output."""


class AirflowStandalone(AirflowApi):
    """Airflow with the LocalExecutor on SQLite, listening on 127.0.0.1 only; a context manager.

    home         becomes AIRFLOW_HOME: configuration, database, task logs, password (made if missing)
    dags_folder  DAG files, looked through every few seconds
    port         of the UI and REST API; None takes a free one
    env          more variables, e.g. AIRFLOW_CONN_*; they go before this class's own
    paused       whether a new DAG waits for `unpause`
    parallelism  greatest number of tasks at a time

    No AIRFLOW* variable of the caller's environment reaches it. The output of all components is in `log_path`.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        *,
        paused: bool = True,
        parallelism: int = 4,
    ) -> None:
        self.home, self.dags_folder, self.port = home.resolve(), dags_folder.resolve(), port or _free_port()
        self.base_url = f"http://{_HOST}:{self.port}"
        self.log_path = self.home / "standalone.log"
        self.password = secrets.token_urlsafe(16)
        self._extra, self._paused, self._parallelism = dict(env or {}), paused, parallelism
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(self.base_url, USERNAME, self.password, self.check_alive)

    def __enter__(self) -> AirflowStandalone:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """The variables it runs with; a command-line `airflow` run with them works on the same instance."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "_AIRFLOW"))}
        path = os.pathsep.join([str(self.home / "bin"), sysconfig.get_path("scripts"), kept.get("PATH", os.defpath)])
        local = ",".join(filter(None, [kept.get("NO_PROXY", kept.get("no_proxy", "")), _HOST, "localhost"]))
        # Proxies are for the outside; the tasks talk to the API server on this machine.
        kept |= {"PATH": path, "NO_PROXY": local, "no_proxy": local, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        return kept | self._settings() | self._extra

    def _settings(self) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": str(self._paused),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(self._parallelism),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._password_file),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__API__HOST": _HOST,
            "AIRFLOW__API__PORT": str(self.port),
            # Tasks derive the address they report to from this one, not from the port.
            "AIRFLOW__API__BASE_URL": self.base_url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            # How long after its end a task still holds its place: the supervisor may notice it one interval late.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }

    @property
    def _password_file(self) -> Path:
        return self.home / "passwords.json"

    def start(self) -> None:
        """Start it and return at once."""
        if self._process is not None:
            raise RuntimeError("It has been started already.")
        airflow = Path(sysconfig.get_path("scripts")) / "airflow"
        shim = self.home / "bin" / "airflow"
        shim.parent.mkdir(parents=True, exist_ok=True)
        shim.write_text(_SHIM.format(airflow=shlex.quote(str(airflow))))
        shim.chmod(0o700)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(json.dumps({USERNAME: self.password}))
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, str(airflow), "standalone"],
                cwd=self.home,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check_alive(self) -> None:
        """Raise AirflowEndedError unless it runs."""
        if self._process is None:
            raise AirflowEndedError("Airflow is not running.")
        if self._process.poll() is not None:
            raise AirflowEndedError(f"Airflow ended with {self._process.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of its output."""
        return self.log_path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self.log_path.exists() else ""

    def wait_ready(self, timeout: float = 180) -> None:
        """Return once all components report healthy; raises TimeoutError with their states and the output's tail."""
        try:
            self.wait("Airflow", timeout, lambda: _healthy(self.health()))
        except TimeoutError as error:
            raise TimeoutError(f"{error} Components: {self.health()}\n{self.log_tail()}") from None

    def stop(self, timeout: float = 10) -> None:
        """Interrupt it and wait until all its processes are gone; what lasts is told again, then killed.

        timeout  seconds for each of the three steps; TimeoutError after the last
        Safe to call twice and before `start`. The folder stays.
        """
        process, self._process = self._process, None
        self.close()
        if process is None:
            return
        leader = process.pid
        _signal([leader], signal.SIGINT)
        if _ended(process, timeout):
            return
        # The triggerer may wait long for its own child; asked a second time it leaves at once. The leader has no
        # handler for this signal and would die before it has collected the others.
        _signal([pid for pid in session_processes(leader) if pid != leader], signal.SIGTERM)
        if _ended(process, timeout):
            return
        _signal(session_processes(leader), signal.SIGKILL)
        if not _ended(process, timeout):
            raise TimeoutError(f"Processes of Airflow that do not end: {session_processes(leader)}")

    def processes(self) -> list[int]:
        """The process ids of all its components, supervisors and running tasks."""
        return session_processes(self._process.pid) if self._process else []


def session_processes(leader: int) -> list[int]:
    """The living processes of the session that `leader` began.

    A session and not a process group: Airflow gives each task a group of its own.
    """
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # After the command's name, which may hold any character: state, parent, group, session.
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX" and int(fields[3]) == leader:
                    found.append(int(entry.name))
    return found


def _ended(process: subprocess.Popen[bytes], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while process.poll() is None or session_processes(process.pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _healthy(states: Mapping[str, str | None]) -> bool:
    return all(states.get(name) == "healthy" for name in COMPONENTS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
