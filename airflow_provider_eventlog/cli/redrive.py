"""`eventlog redrive`: quarantined records again, through the recipe of now, in this process or as a run of Airflow."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.cli import airflow_runs, render
from airflow_provider_eventlog.cli.common import (
    UsageError,
    add_client,
    add_decision,
    add_pipeline,
    add_stores,
    load_pipeline,
    who,
)
from airflow_provider_eventlog.cli.pipelines import engine_of, interruptible

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.requests import RunRequest
    from airflow_provider_eventlog.core.selection import Selection

_NOTE = "redrive"


def register(commands: Any) -> None:
    """Add redrive."""
    command = commands.add_parser("redrive", help="run quarantined records again, under the declaration of now")
    add_pipeline(command)
    add_selection(command)
    add_decision(command)
    command.add_argument(
        "--recompute", action="store_true", help="also rows that this very declaration has stopped already"
    )
    command.add_argument("--dry-run", action="store_true", help="print batches and records; changes nothing")
    command.add_argument("--in-airflow", action="store_true", help="as a run of the DAG, so that workers do it")
    airflow_runs.add_airflow(command)
    add_client(command)
    add_stores(command)
    command.set_defaults(call=_redrive, show=_show, code=_code)


def add_selection(command: argparse.ArgumentParser) -> None:
    """Which quarantined rows are meant."""
    group = command.add_argument_group("which rows; all of the pipeline's unless told otherwise")
    group.add_argument("--batch", metavar="ID", help="only this batch")
    group.add_argument("--reason", metavar="CODE", action="append", default=[], help="only this code; repeatable")
    group.add_argument("--check", metavar="NAME", action="append", default=[], help="only by this check; repeatable")
    group.add_argument("--offsets", metavar="P:START-END[,...]", help="only of these records; the end is not included")


def selection(args: argparse.Namespace) -> Selection:
    """The rows that the arguments name; raises RequestError for offsets that cannot be read."""
    from airflow_provider_eventlog.core.offsets import parse_ranges
    from airflow_provider_eventlog.core.selection import Selection

    ranges = () if args.offsets is None else parse_ranges(args.offsets)
    return Selection(args.batch, tuple(args.reason), tuple(args.check), ranges)


def _redrive(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import stages
    from airflow_provider_eventlog.core.requests import RunRequest

    given = airflow_runs.only_with_airflow(args)
    if given and not args.in_airflow:
        raise UsageError(f"{', '.join(given)} goes with --in-airflow.")
    pipeline = load_pipeline(args.pipeline)
    meant = selection(args)
    request = RunRequest(
        "redrive", selection=meant, who=who(args), why=args.why, recompute=args.recompute, parallelism=1
    )
    if not args.dry_run and not args.in_airflow:
        cancel = threading.Event()
        with render.progress() as progress, interruptible(cancel):
            with engine_of(args, pipeline, keep=True, progress=progress, cancel=cancel) as engine:
                return {"dry_run": False, **stages.run(engine, pipeline, request)}
    with engine_of(args, pipeline, keep=False) as engine:
        plan = stages.describe(stages.preview(engine, pipeline, request))
        chosen = stages.redrives(engine, pipeline, request, plan["run_key"])
    document: dict[str, Any] = {"dry_run": args.dry_run, "run": plan}
    document["records"] = [{"batch_id": r.batch.batch_id, "records": r.records, "rows": r.rows} for r in chosen]
    if not args.dry_run:
        document["airflow"] = _in_airflow(args, pipeline, request, [r.inputs(pipeline.recipe, None) for r in chosen])
    return document


def _in_airflow(args: argparse.Namespace, pipeline: Any, request: RunRequest, inputs: list[str]) -> dict[str, Any]:
    """Make the run, or find it: its id goes by what is run again under which recipe."""
    from airflow_provider_eventlog.core.backfill import run_id_prefix
    from airflow_provider_eventlog.core.staging.records import digest

    assert request.selection is not None
    dag_id, prefix = args.dag_id or pipeline.name, run_id_prefix(pipeline.name, _NOTE)
    run_id = prefix + digest([inputs, request.digest()])[:24]
    told = request.selection
    more = {
        "eventlog_batch": told.batch_id or "",
        "eventlog_offsets": args.offsets or "",
        "eventlog_codes": ",".join(told.codes),
        "eventlog_checks": ",".join(told.checks),
        "eventlog_reason": request.why,
    }
    with airflow_runs.client(args) as client, render.progress() as say:
        conf = airflow_runs.conf(client, dag_id, pipeline.name, "redrive", wait=not args.no_wait)
        full: dict[str, Any] = {**conf, **{name: value for name, value in more.items() if value}}
        if request.recompute:
            full["eventlog_recompute"] = True
        made = airflow_runs.make(client, dag_id, run_id, full, f"redrive: {request.why}", again=args.retry_failed)
        if made["state"] not in airflow_runs.ENDED and not args.no_wait:
            made |= {"state": airflow_runs.wait(client, dag_id, prefix, {run_id}, say)[run_id]}
    return {"dag_id": dag_id, "run_id": run_id, **made}


def _code(document: dict[str, Any]) -> int:
    return int(document.get("airflow", {}).get("state") == "failed")


def _show(document: dict[str, Any]) -> None:
    from airflow_provider_eventlog.cli.pipelines import show_plan, show_run

    if "load" in document:
        show_run(document)
        return
    show_plan(document["run"])
    render.table(["batch", "records", "rows"], [[r["batch_id"], r["records"], r["rows"]] for r in document["records"]])
    if "airflow" in document:
        run = document["airflow"]
        render.lines({"DAG": run["dag_id"], "run": run["run_id"], "made": run["made"], "state": run["state"]})
    else:
        print("dry run: nothing was changed")
