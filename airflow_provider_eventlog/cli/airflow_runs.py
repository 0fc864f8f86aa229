"""Runs of Airflow that a command makes and waits for: of a pipeline's DAG, told by its params what to take."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_eventlog.cli.airflow_api import AirflowClient

ENDED = ("success", "failed")
_POLL_S = 1.0
# Airflow may be restarted while runs of hours go on; they are not lost by that.
_OUTAGE_S = 300.0

Say = Callable[[str, int, int], None]


def add_airflow(command: argparse.ArgumentParser) -> None:
    """Which DAG, and how to reach Airflow's API."""
    group = command.add_argument_group("Airflow")
    group.add_argument("--dag-id", metavar="ID", help="the DAG that runs the pipeline; default: the pipeline's name")
    group.add_argument("--airflow-url", metavar="URL", help="default: EVENTLOG_AIRFLOW_URL")
    group.add_argument(
        "--airflow-conn-id",
        metavar="ID",
        help="Airflow connection with host, login, password; default: EVENTLOG_AIRFLOW_TOKEN, or "
        "EVENTLOG_AIRFLOW_USERNAME and EVENTLOG_AIRFLOW_PASSWORD",
    )
    group.add_argument("--retry-failed", action="store_true", help="clear the runs that exist and have failed")
    group.add_argument("--no-wait", action="store_true", help="make the runs and return")


def only_with_airflow(args: argparse.Namespace) -> list[str]:
    """The words given that have no meaning where no run of Airflow is made."""
    words = ("dag_id", "airflow_url", "airflow_conn_id", "retry_failed", "no_wait")
    return [f"--{name.replace('_', '-')}" for name in words if getattr(args, name)]


def client(args: argparse.Namespace) -> AirflowClient:
    """The API as the arguments and the environment say; raises UsageError, ConnectionConfigError."""
    from airflow_provider_eventlog.cli.airflow_api import AirflowClient, find_access

    return AirflowClient(find_access(args.airflow_url, args.airflow_conn_id, os.environ))


def conf(client: AirflowClient, dag_id: str, pipeline: str, what: str, *, wait: bool) -> dict[str, str]:
    """The params by which a run of a DAG takes `what` of a pipeline; raises AirflowApiError for a DAG that cannot."""
    from airflow_provider_eventlog.cli.airflow_api import AirflowApiError

    dag = client.dag(dag_id)
    params = dag.get("params") or {}
    if "eventlog_what" not in params:
        raise AirflowApiError(
            f"DAG {dag_id!r} has no param eventlog_what: it holds no eventlog_batch. Name the DAG that runs pipeline "
            f"{pipeline!r} with --dag-id."
        )
    if wait and dag.get("is_paused"):
        raise AirflowApiError(
            f"DAG {dag_id!r} is paused, its runs would wait for ever. Unpause it, or make the runs all the same with "
            f"--no-wait. Nothing was made."
        )
    return {"eventlog_what": what} | ({"eventlog_pipeline": pipeline} if "eventlog_pipeline" in params else {})


def make(
    client: AirflowClient, dag_id: str, run_id: str, full: Mapping[str, str], note: str, *, again: bool
) -> dict[str, Any]:
    """Make a run, or find the one of this id: whether it was made now, before or cleared, and its state.

    Raises AirflowApiError for a run of this id that was made for something else.
    """
    from airflow_provider_eventlog.cli.airflow_api import AirflowApiError

    if client.create_run(dag_id, run_id, full, note):
        return {"made": "now", "state": "queued"}
    known = client.run(dag_id, run_id)
    if {k: v for k, v in (known.get("conf") or {}).items() if k in full} != full:
        raise AirflowApiError(
            f"Run {run_id} of DAG {dag_id!r} exists, but was made for other offsets or another pipeline; delete "
            f"it in Airflow."
        )
    if again and known["state"] == "failed":
        client.clear_run(dag_id, run_id)
        return {"made": "cleared", "state": "queued"}
    return {"made": "before", "state": str(known["state"])}


def wait(client: AirflowClient, dag_id: str, prefix: str, waiting: set[str], say: Say) -> dict[str, str]:
    """The end states of all runs; raises AirflowUnavailableError after minutes without an answer."""
    from airflow_provider_eventlog.cli.airflow_api import AirflowUnavailableError

    ended: dict[str, str] = {}
    total, answered = len(waiting), time.monotonic()
    while len(ended) < total:
        try:
            states = client.states(dag_id, prefix, waiting)
            answered = time.monotonic()
        except AirflowUnavailableError:
            if time.monotonic() - answered > _OUTAGE_S:
                raise
            states = dict.fromkeys(waiting, "unknown")
        for run_id in sorted(waiting):
            state = states.get(run_id, "deleted")
            if state in ENDED or state == "deleted":
                # A run that somebody deleted is not done, and will never end.
                ended[run_id] = "success" if state == "success" else "failed"
                waiting.discard(run_id)
                if state != "success":
                    print(f"{run_id} {'was deleted' if state == 'deleted' else 'failed'}", file=sys.stderr)
        say("runs ended", len(ended), total)
        if len(ended) < total:
            time.sleep(_POLL_S)
    return ended
