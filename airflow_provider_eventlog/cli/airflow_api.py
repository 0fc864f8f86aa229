"""Airflow's REST API as commands use it: find it, sign in, make runs, look after them.

Neither a token nor a password is in any message, nor the body of an answer to signing in, which may repeat them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_provider_eventlog.cli.common import UsageError
from airflow_provider_eventlog.core.errors import ConnectionConfigError, EventLogError
from airflow_provider_eventlog.core.naming import printable

if TYPE_CHECKING:
    import httpx

URL, TOKEN, USERNAME, PASSWORD = (
    "EVENTLOG_AIRFLOW_URL",
    "EVENTLOG_AIRFLOW_TOKEN",
    "EVENTLOG_AIRFLOW_USERNAME",
    "EVENTLOG_AIRFLOW_PASSWORD",
)
_TIMEOUT_S = 60.0
_PAGE = 100
# A server that is busy (a metadata database that is locked, a restart behind a proxy) is given so many seconds.
_RETRY_AFTER_S = (0.5, 1.0, 2.0, 4.0)


class AirflowApiError(EventLogError):
    """Airflow refused a request, or answered what this release does not understand."""


class AirflowUnavailableError(AirflowApiError):
    """Airflow's API did not answer, or could not for a passing reason."""

    retriable = True


class AirflowAuthenticationError(AirflowApiError):
    """Airflow does not take the token, or the user name with the password (401)."""


class AirflowPermissionError(AirflowApiError):
    """Airflow knows the user and denies the operation (403)."""


class DagNotFoundError(AirflowApiError):
    """Airflow has no such DAG, or none that can be run (404)."""


class RunRefusedError(AirflowApiError):
    """Airflow refused to make a run: its params do not pass the DAG's checks (400, 422)."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where Airflow's API is and how to sign in: a token, or a user name with a password. Secrets are not in repr."""

    url: str
    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)


def find_access(url: str | None, conn_id: str | None, environ: Mapping[str, str]) -> Access:
    """From --airflow-url and --airflow-conn-id, else from the environment; the connection's secrets are masked in logs.

    A connection without a login has its token as password. Raises UsageError where nothing says how, or for an
    address that is not http(s) or has a password in it; ConnectionConfigError for a connection that cannot be read.
    """
    if conn_id:
        found = _from_connection(conn_id)
        return Access(_checked(url or found.url), found.token, found.username, found.password)
    where = url or environ.get(URL) or environ.get("AIRFLOW__API__BASE_URL")
    if not where:
        raise UsageError(
            f"Where is Airflow? Give --airflow-url or {URL}, or an Airflow connection with --airflow-conn-id; or run "
            f"the back-fill in this process with --local."
        )
    token = environ.get(TOKEN, "").strip()
    if not token.isascii() or not token.isprintable():
        raise UsageError(f"{TOKEN} holds characters that no token has.")
    access = Access(_checked(where), token, environ.get(USERNAME, ""), environ.get(PASSWORD, ""))
    if not access.token and not (access.username and access.password):
        raise UsageError(
            f"How to sign in to Airflow at {access.url}? Set {TOKEN}, or {USERNAME} and {PASSWORD}, or name an Airflow "
            f"connection with --airflow-conn-id."
        )
    return access


def _from_connection(conn_id: str) -> Access:
    from airflow.sdk import BaseHook
    from airflow.sdk.log import mask_secret

    try:
        connection = BaseHook.get_connection(conn_id)
    except Exception as error:  # Airflow raises several classes for a connection that cannot be found
        raise ConnectionConfigError(
            f"The Airflow connection {printable(conn_id)} cannot be read ({type(error).__name__}); define it, or use "
            f"--airflow-url with {TOKEN}."
        ) from error
    password = connection.password or ""
    if password:
        mask_secret(password)
    host = connection.host or ""
    if not host or not password:
        raise ConnectionConfigError(
            f"The Airflow connection {printable(conn_id)} needs host and password, and a login unless the password is "
            f"a token."
        )
    where = host if "://" in host else f"{connection.schema or 'http'}://{host}"
    if connection.port and urlsplit(where).port is None:
        parts = urlsplit(where)
        where = parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl()
    if connection.login:
        return Access(where, username=connection.login, password=password)
    return Access(where, token=password)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise UsageError("Airflow's address cannot be read; write http://HOST[:PORT] or https://HOST[:PORT].") from None
    if parts.username or parts.password or "@" in parts.netloc:
        raise UsageError(
            f"Airflow's address must not hold a user name or password; set {USERNAME} and {PASSWORD} instead."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"Airflow's address {printable(url)} is not http://HOST[:PORT] or https://HOST[:PORT].")
    return parts.geturl().rstrip("/")


class AirflowClient:
    """A client of one Airflow; a context manager.

    Every method raises AirflowUnavailableError (retriable), AirflowAuthenticationError, AirflowPermissionError, and
    AirflowApiError for any other refusal. Every request has a deadline of a minute; what the server failed for a
    passing reason (5xx, 429) is asked for again, at most four times: no request here does anything twice.
    """

    def __init__(
        self,
        access: Access,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        import httpx

        self._sleep = sleep
        self._access, self._token = access, access.token
        # A proxy named in the environment has no business between programs of one machine.
        outside = urlsplit(access.url).hostname not in ("localhost", "127.0.0.1", "::1")
        try:
            self._http = httpx.Client(base_url=access.url, timeout=_TIMEOUT_S, trust_env=outside, transport=transport)
        except httpx.InvalidURL as error:
            raise UsageError(f"Airflow's address {printable(access.url)} cannot be used: {error}.") from None

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def dag(self, dag_id: str) -> dict[str, Any]:
        """The DAG with its `params` and `is_paused`. Raises DagNotFoundError."""
        status, answer = self._call("GET", f"{_dag(dag_id)}/details")
        if status == 404 or answer.get("is_stale"):
            raise DagNotFoundError(
                f"Airflow at {self._access.url} has no DAG {printable(dag_id)}; name the DAG that runs the pipeline "
                f"with --dag-id."
            )
        return self._good(status, answer, f"DAG {printable(dag_id)}")

    def create_run(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str) -> bool:
        """Make a run without a logical date; False if a run of this id exists. Raises RunRefusedError."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf), "note": note}
        status, answer = self._call("POST", f"{_dag(dag_id)}/dagRuns", body)
        if status == 409:
            return False
        if status in (400, 422):
            raise RunRefusedError(f"Airflow refused run {run_id} of DAG {printable(dag_id)}: {_detail(answer)}")
        self._good(status, answer, f"run {run_id} of DAG {printable(dag_id)}")
        return True

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run, with `state` and `conf`."""
        status, answer = self._call("GET", f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}")
        return self._good(status, answer, f"run {run_id} of DAG {printable(dag_id)}")

    def clear_run(self, dag_id: str, run_id: str) -> None:
        """Clear all tasks of a run, to be done again by the DAG's newest version."""
        body = {"dry_run": False, "only_failed": False, "run_on_latest_version": True}
        status, answer = self._call("POST", f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}/clear", body)
        self._good(status, answer, f"clearing run {run_id} of DAG {printable(dag_id)}")

    def states(self, dag_id: str, prefix: str, wanted: Collection[str]) -> dict[str, str]:
        """Run id -> state of those of `wanted` that exist; all of them begin with `prefix`. Cost: a page per 100."""
        found: dict[str, str] = {}
        seen = 0
        while True:
            query = {"run_id_prefix_pattern": prefix, "order_by": "id", "limit": str(_PAGE), "offset": str(seen)}
            status, answer = self._call("GET", f"{_dag(dag_id)}/dagRuns", query=query)
            page = self._good(status, answer, f"runs of DAG {printable(dag_id)}")
            runs = page["dag_runs"]
            seen += len(runs)
            found |= {r["dag_run_id"]: str(r["state"]) for r in runs if r["dag_run_id"] in wanted}
            if not runs or seen >= page["total_entries"]:
                return found

    def _call(
        self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one call below /api/v2; a token that has run out is asked for anew, once."""
        status, answer = self._send(method, f"/api/v2{path}", body, query, self._bearer())
        if status == 401 and not self._access.token:
            self._token = ""
            status, answer = self._send(method, f"/api/v2{path}", body, query, self._bearer())
        # Airflow answers 403 to a token that it cannot read, and 401 to one that has run out.
        if status == 401 or (status == 403 and "token" in str(answer.get("detail", "")).lower()):
            raise AirflowAuthenticationError(
                f"Airflow at {self._access.url} does not take the token ({status}); it may have run out."
            )
        if status == 403:
            raise AirflowPermissionError(
                f"Airflow at {self._access.url} denies {method} {path.split('?')[0]} to this user (403): the back-fill "
                f"needs to read the DAG and to read, make and clear its runs."
            )
        return status, answer

    def _bearer(self) -> str:
        if self._token:
            return self._token
        access = self._access
        status, answer = self._send("POST", "/auth/token", {"username": access.username, "password": access.password})
        if status in (400, 401, 403, 422):
            raise AirflowAuthenticationError(
                f"Airflow at {access.url} does not take the password of user {printable(access.username)} ({status})."
            )
        if status in (404, 405):
            raise AirflowAuthenticationError(
                f"Airflow at {access.url} gives no token for a password ({status}); its sign-in works otherwise. Set "
                f"{TOKEN} to a token of its own."
            )
        token = answer.get("access_token")
        if not 200 <= status < 300 or not isinstance(token, str):
            raise AirflowApiError(f"Airflow at {access.url} answered {status} to signing in.")
        self._token = token
        return token

    def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        token: str = "",
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for pause in (*_RETRY_AFTER_S, None):
            answer = self._request(method, path, body, query, headers)
            if answer.status_code < 500 and answer.status_code != 429:
                break
            if pause is None:
                raise AirflowUnavailableError(
                    f"Airflow at {self._access.url} answered {answer.status_code}, {len(_RETRY_AFTER_S) + 1} times; "
                    f"its log says why. The same command goes on from here."
                )
            self._sleep(pause)
        try:
            document = answer.json() if answer.content else {}
        except ValueError:
            document = None
        if answer.is_success and not isinstance(document, dict):
            raise AirflowApiError(f"What answers at {self._access.url} is not Airflow's REST API (version 2).")
        return answer.status_code, document if isinstance(document, dict) else {}

    def _request(
        self, method: str, path: str, body: object, query: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, json=body, params=query, headers=headers)
        except httpx.HTTPError as error:
            raise AirflowUnavailableError(
                f"Airflow at {self._access.url} does not answer ({type(error).__name__}); is the address right, and "
                f"the API server running?"
            ) from None

    def _good(self, status: int, answer: dict[str, Any], what: str) -> dict[str, Any]:
        if not 200 <= status < 300:
            raise AirflowApiError(f"Airflow at {self._access.url} answered {status} for {what}: {_detail(answer)}")
        return answer


def _dag(dag_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='')}"


def _detail(answer: Mapping[str, Any]) -> str:
    return printable(answer.get("detail", "no reason given"), 1000)
