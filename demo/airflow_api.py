"""Airflow's REST API as the demo and the tests use it: start runs, wait for them, read what they left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

END_STATES = ("success", "failed")
POLL_S = 0.25
_TAIL_LINES = 40
_PAGE = 100
# How long a busy machine may keep the database from a call.
_LOCKED_S = 30.0


class ApiError(RuntimeError):
    """Airflow refused a request; `status` is the HTTP status."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path} answered {status}: {text[:2000]}")
        self.status = status


class RunFailedError(AssertionError):
    """A DAG run ended in another state than the one asked for; the message carries the failed tasks' log tails."""


class AirflowApi:
    """A client of one Airflow at `base_url`, signed in as `username`.

    alive  called before each request and in every wait; raises when the server has ended, which ends the wait at once

    Waits poll on the condition and raise TimeoutError after `timeout` seconds.
    """

    def __init__(self, base_url: str, username: str, password: str, alive: Callable[[], None] = lambda: None) -> None:
        self._username, self._password, self._alive = username, password, alive
        # Only this machine is spoken to: a proxy named in the environment has no business in between.
        self._http = httpx.Client(base_url=base_url, timeout=60, trust_env=False)
        self._token = ""

    def close(self) -> None:
        """Release the connections."""
        self._http.close()

    def health(self) -> dict[str, str | None]:
        """Component -> status as the API server reports it; empty while nothing answers."""
        try:
            answer = self._http.get("/api/v2/monitor/health", timeout=5)
        except httpx.HTTPError:
            return {}
        return {name: part.get("status") for name, part in answer.json().items()} if answer.is_success else {}

    def token(self) -> str:
        """A bearer token, asked for once."""
        if not self._token:
            body = {"username": self._username, "password": self._password}
            answer = self._http.post("/auth/token", json=body)
            if not answer.is_success:
                raise ApiError("POST", "/auth/token", answer.status_code, answer.text)
            self._token = str(answer.json()["access_token"])
        return self._token

    def api(
        self, method: str, path: str, json: object = None, params: Mapping[str, str | int] | None = None
    ) -> dict[str, Any]:
        """One call below /api/v2, e.g. `api("GET", "/dags")`; `{}` for an empty answer. Raises ApiError.

        A call that met a lock of Airflow's SQLite database was rolled back, and is made again.
        """
        self._alive()
        headers = {"Authorization": f"Bearer {self.token()}"}
        deadline = time.monotonic() + _LOCKED_S
        while True:
            answer = self._http.request(method, f"/api/v2{path}", json=json, params=params, headers=headers)
            locked = (answer.status_code == 500 and "Database error" in answer.text) or (
                answer.status_code == 503 and "Database is locked" in answer.text
            )
            if not locked or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if not answer.is_success:
            raise ApiError(method, path, answer.status_code, answer.text)
        return dict(answer.json()) if answer.content else {}

    def wait(self, what: str, timeout: float, ask: Callable[[], Any]) -> Any:
        """Call `ask` until it returns something true, and return that; raises TimeoutError naming `what`."""
        deadline = time.monotonic() + timeout
        while True:
            self._alive()
            if found := ask():
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"Waited {timeout:g} s for {what}.")
            time.sleep(POLL_S)

    def wait_dag(self, dag_id: str, timeout: float = 60) -> dict[str, Any]:
        """The DAG once it is parsed and can be run; a TimeoutError shows the import errors there are."""

        def ask() -> dict[str, Any] | None:
            try:
                dag = self.api("GET", f"/dags/{quote(dag_id, safe='')}")
            except ApiError as error:
                if error.status != 404:
                    raise
                return None
            return None if dag["is_stale"] else dag

        try:
            return dict(self.wait(f"DAG {dag_id}", timeout, ask))
        except TimeoutError as error:
            broken = [f"{e['filename']}: {e['stack_trace']}" for e in self.import_errors()]
            raise TimeoutError("\n".join([str(error), *broken])) from None

    def import_errors(self) -> list[dict[str, Any]]:
        """The DAG files that could not be read, with `filename` and `stack_trace`."""
        return list(self.api("GET", "/importErrors")["import_errors"])

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run it."""
        self._pause(dag_id, False)

    def pause(self, dag_id: str) -> None:
        """Start no further runs of it."""
        self._pause(dag_id, True)

    def _pause(self, dag_id: str, paused: bool) -> None:
        self.api("PATCH", f"/dags/{quote(dag_id, safe='')}", {"is_paused": paused})

    def trigger(
        self,
        dag_id: str,
        conf: Mapping[str, Any] | None = None,
        logical_date: str | None = None,
        run_id: str | None = None,
        note: str | None = None,
    ) -> str:
        """Start a run; its run id. A `run_id` that exists is refused with ApiError 409."""
        body: dict[str, Any] = {"logical_date": logical_date, "conf": dict(conf or {})}
        body |= {"dag_run_id": run_id} if run_id else {}
        body |= {"note": note} if note else {}
        return str(self.api("POST", f"/dags/{quote(dag_id, safe='')}/dagRuns", body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One DAG run."""
        return self.api("GET", _run(dag_id, run_id))

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs of a DAG, oldest first."""
        return self._all(f"/dags/{quote(dag_id, safe='')}/dagRuns", "dag_runs", {"order_by": "run_after"})

    def wait_run(self, dag_id: str, run_id: str, timeout: float = 120, expect: str = "success") -> str:
        """Wait until the run has ended; its state. Raises RunFailedError unless that is `expect`."""

        def ask() -> str | None:
            state = self.run(dag_id, run_id)["state"]
            return str(state) if state in END_STATES else None

        try:
            state = str(self.wait(f"run {run_id} of {dag_id}", timeout, ask))
        except TimeoutError as error:
            states = [(t["task_id"], t["map_index"], t["state"]) for t in self.task_instances(dag_id, run_id)]
            raise TimeoutError(f"{error} Its tasks: {states}") from None
        if state != expect:
            raise RunFailedError(self._explain(dag_id, run_id, state, expect))
        return state

    def wait_runs(self, dag_id: str, count: int, timeout: float = 180) -> list[dict[str, Any]]:
        """Wait until `count` runs have succeeded; those runs, oldest first. The first failed one raises."""

        def ask() -> list[dict[str, Any]] | None:
            runs = self.runs(dag_id)
            for run in runs:
                if run["state"] == "failed":
                    raise RunFailedError(self._explain(dag_id, run["dag_run_id"], "failed", "success"))
            done = [run for run in runs if run["state"] == "success"]
            return done if len(done) >= count else None

        return list(self.wait(f"{count} successful runs of {dag_id}", timeout, ask))

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The run's task instances, mapped ones included, by task id and map index."""
        found = self._all(f"{_run(dag_id, run_id)}/taskInstances", "task_instances")
        return sorted(found, key=lambda t: (t["task_id"], t["map_index"]))

    def clear(self, dag_id: str, run_id: str, task_ids: Sequence[str] = ()) -> None:
        """Clear the named tasks of a run with all that follows them, or the whole run."""
        body: dict[str, Any] = {"dry_run": False, "only_failed": False, "dag_run_id": run_id}
        body |= {"include_downstream": True, "reset_dag_runs": True}
        body |= {"task_ids": list(task_ids)} if task_ids else {}
        self.api("POST", f"/dags/{quote(dag_id, safe='')}/clearTaskInstances", body)

    def logs(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try as text, one event a line."""
        path = f"{_task(dag_id, run_id, task_id)}/logs/{try_number}"
        answer = self.api("GET", path, params={"map_index": map_index, "full_content": "true"})
        return "\n".join(_line(event) for event in answer["content"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """One XCom's value, deserialised; ApiError 404 where there is none."""
        path = f"{_task(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}"
        return self.api("GET", path, params={"map_index": map_index, "deserialize": "false"})["value"]

    def _all(self, path: str, key: str, params: Mapping[str, str | int] | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.api("GET", path, params={**(params or {}), "limit": _PAGE, "offset": len(found)})
            found += page[key]
            if not page[key] or len(found) >= page["total_entries"]:
                return found

    def _explain(self, dag_id: str, run_id: str, state: str, expect: str) -> str:
        parts = [f"Run {run_id} of {dag_id} ended as {state}, not {expect}."]
        for task in self.task_instances(dag_id, run_id):
            parts.append(f"{task['task_id']}[{task['map_index']}]: {task['state']}, try {task['try_number']}")
            if task["state"] == "failed":
                log = self.logs(dag_id, run_id, task["task_id"], task["try_number"], task["map_index"])
                parts += [f"    {line}" for line in log.splitlines()[-_TAIL_LINES:]]
        return "\n".join(parts)


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"


def _line(event: object) -> str:
    if not isinstance(event, dict):
        return str(event)
    text = " ".join(str(event[k]) for k in ("timestamp", "level", "event") if event.get(k))
    for error in event.get("error_detail") or ():
        text += f"\n{error.get('exc_type')}: {error.get('exc_value')}"
        text += "".join(f"\n  {f['filename']}:{f['lineno']} in {f['name']}" for f in error.get("frames") or ())
    return text
