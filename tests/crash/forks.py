"""A warm process that forks a child for every attempt, so that one costs milliseconds and not a Python start.

The heavy libraries are imported before the forks and used only after them: none of their threads exists yet.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent
DEADLINE_S = 60


class Forks:
    """The tests' end: starts children and waits for them. One request at a time, from any thread."""

    def __init__(self) -> None:
        # Libraries that start threads at import would be forked with locks that nobody holds any more.
        quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forks"],
            cwd=REPOSITORY,
            env={**os.environ, **quiet},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()

    def start(self, case: dict[str, Any]) -> int:
        """Fork a child that acts on the case; its process id."""
        return self._ask({"start": case})

    def wait(self, pid: int, *, stopped: bool = False) -> int:
        """Wait until a child ends, or stops if asked; the wait status."""
        return self._ask({"wait": pid, "stopped": stopped})

    def run(self, case: dict[str, Any]) -> int:
        """Start and wait."""
        return self.wait(self.start(case))

    def close(self) -> None:
        """End the warm process and every child of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=DEADLINE_S)
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def _serve() -> None:
    import duckdb  # noqa: F401
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import sqlalchemy.dialects.sqlite  # noqa: F401

    import airflow_provider_eventlog.core.deriving
    import airflow_provider_eventlog.core.folding.advancing
    import airflow_provider_eventlog.core.fsck
    import airflow_provider_eventlog.core.gc
    import airflow_provider_eventlog.core.ledger
    import airflow_provider_eventlog.core.loading
    import airflow_provider_eventlog.core.planning
    import airflow_provider_eventlog.core.staging.local
    import airflow_provider_eventlog.core.targets.duckdb
    import airflow_provider_eventlog.core.validating  # noqa: F401
    from tests.crash import folding_world, quality_world, upkeep, world  # noqa: F401

    gc.freeze()
    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                # Whatever waits without end is a failure that must show.
                signal.alarm(DEADLINE_S)
                world.act(request["start"])
                os._exit(0)
            children.add(pid)
            answer = pid
        else:
            pid, answer = os.waitpid(request["wait"], os.WUNTRACED if request["stopped"] else 0)
            if not os.WIFSTOPPED(answer):
                children.discard(pid)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    # The libraries complain at an ordinary exit about what they themselves leave.
    os._exit(0)


if __name__ == "__main__":
    _serve()
