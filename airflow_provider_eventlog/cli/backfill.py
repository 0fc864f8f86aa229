"""`eventlog backfill`: any offsets of a topic, as runs that neither miss nor double anything."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.cli import airflow_runs, render
from airflow_provider_eventlog.cli.airflow_runs import Say
from airflow_provider_eventlog.cli.common import (
    UsageError,
    add_client,
    add_pipeline,
    add_stores,
    instant,
    load_pipeline,
)
from airflow_provider_eventlog.cli.pipelines import engine_of, interruptible
from airflow_provider_eventlog.core.errors import EventLogError

if TYPE_CHECKING:
    from airflow_provider_eventlog.cli.airflow_api import AirflowClient
    from airflow_provider_eventlog.core.backfill import Backfill
    from airflow_provider_eventlog.core.offsets import OffsetRange

_SHOWN = 8


def register(commands: Any) -> None:
    """Add backfill."""
    command = commands.add_parser("backfill", help="take named offsets, in runs of Airflow or in this process")
    add_pipeline(command)
    what = command.add_argument_group("which offsets").add_mutually_exclusive_group(required=True)
    what.add_argument("--offsets", metavar="P:START-END[,...]", help="explicit offsets; the end is not included")
    what.add_argument("--from", dest="since", metavar="TIME", help="with --to: by record time, ISO, UTC unless it says")
    what.add_argument("--holes", action="store_true", help="all that no chain batch of the stream has taken")
    what.add_argument("--failed", action="store_true", help="the batches that this pipeline has begun and not loaded")
    command.add_argument("--to", dest="until", metavar="TIME", help="end of the time, not included")
    command.add_argument("--chunk", type=int, metavar="N", help="offsets a run; default: max_batch_offsets")
    command.add_argument("--skip-gone", action="store_true", help="take what is left where offsets have expired")
    command.add_argument("--dry-run", action="store_true", help="print runs and batches; changes nothing")
    command.add_argument("--local", action="store_true", help="all stages in this process, one run after the other")
    airflow_runs.add_airflow(command)
    add_client(command)
    add_stores(command)
    command.set_defaults(call=_backfill, show=_show, code=_code)


def _backfill(args: argparse.Namespace) -> dict[str, Any]:
    _check_words(args)
    pipeline = load_pipeline(args.pipeline)
    client = None if args.dry_run or args.local else airflow_runs.client(args)
    with engine_of(args, pipeline, keep=False) as engine:
        found = _survey(args, engine, pipeline)
    document: dict[str, Any] = {**found.to_json(), "dry_run": args.dry_run, "failed": []}
    if args.dry_run:
        return document
    if not args.skip_gone:
        found.refuse_gone()
    if client is None:
        outcomes = _run_here(args, pipeline, found)
    else:
        with client, render.progress() as say:
            outcomes = _run_in_airflow(args, client, pipeline.name, found, say)
            document["dag_id"] = args.dag_id or pipeline.name
    for run in document["runs"]:
        run |= outcomes.get(run["run_id"], {"state": "not started"})
    unfinished = ("failed", "not started")
    document["failed"] = [run["run_id"] for run in document["runs"] if run["state"] in unfinished]
    return document


def _check_words(args: argparse.Namespace) -> None:
    if (args.since is None) != (args.until is None):
        raise UsageError("--from and --to go together.")
    if args.chunk is not None and args.chunk < 1:
        raise UsageError(f"--chunk {args.chunk} must be at least 1.")
    given = airflow_runs.only_with_airflow(args)
    if args.local and given:
        raise UsageError(f"{', '.join(given)} has no meaning with --local, which needs no Airflow.")


def _survey(args: argparse.Namespace, engine: Any, pipeline: Any) -> Backfill:
    from airflow_provider_eventlog.core import backfill, backfill_ranges
    from airflow_provider_eventlog.core.offsets import parse_ranges

    ranges: tuple[OffsetRange, ...]
    if args.offsets is not None:
        ranges = parse_ranges(args.offsets)
    elif args.since is not None:
        bounds = instant(args.since), instant(args.until)
        ranges = backfill_ranges.ranges_between(engine, pipeline, *bounds, whole=not args.skip_gone)
    elif args.holes:
        ranges = backfill_ranges.ranges_of_holes(engine, pipeline)
    else:
        ranges = backfill_ranges.ranges_of_failed(engine, pipeline)
    return backfill.survey(engine, pipeline, ranges, args.chunk)


def _run_here(args: argparse.Namespace, pipeline: Any, found: Backfill) -> dict[str, dict[str, Any]]:
    """Run id -> outcome; a chunk that cannot be done is left, one that may be done later ends the whole."""
    from airflow_provider_eventlog.core import stages
    from airflow_provider_eventlog.core.requests import RunRequest

    outcomes: dict[str, dict[str, Any]] = {}
    cancel = threading.Event()
    with (
        render.progress() as say,
        interruptible(cancel),
        engine_of(args, pipeline, keep=True, cancel=cancel, progress=say) as engine,
    ):
        for number, chunk in enumerate(found.chunks, 1):
            request = RunRequest("offsets", ranges=chunk.ranges, parallelism=1)
            try:
                report = stages.run(engine, pipeline, request, f"cli/{chunk.run_id}")
            except EventLogError as error:
                message = f"{type(error).__name__}: {error}"
                outcomes[chunk.run_id] = {"state": "failed", "error": message}
                print(f"{chunk.run_id} failed: {message}", file=sys.stderr)
                if error.retriable:
                    break
            else:
                rows = {
                    name: sum(batch["outputs"][name]["rows"] for batch in report["load"]["batches"])
                    for name in (report["load"]["batches"] or [{"outputs": {}}])[0]["outputs"]
                }
                outcomes[chunk.run_id] = {"state": "success", "rows": rows}
            say("back-fill runs ended", number, len(found.chunks))
    return outcomes


def _run_in_airflow(
    args: argparse.Namespace, client: AirflowClient, pipeline: str, found: Backfill, say: Say
) -> dict[str, dict[str, Any]]:
    """Make or find each chunk's run, and wait until all have ended; run id -> outcome."""
    from airflow_provider_eventlog.core.backfill import run_id_prefix

    dag_id = args.dag_id or pipeline
    conf = airflow_runs.conf(client, dag_id, pipeline, "offsets", wait=not args.no_wait)
    outcomes: dict[str, dict[str, Any]] = {}
    for number, chunk in enumerate(found.chunks, 1):
        full = {**conf, "eventlog_offsets": chunk.text}
        outcomes[chunk.run_id] = airflow_runs.make(
            client, dag_id, chunk.run_id, full, chunk.note, again=args.retry_failed
        )
        say("back-fill runs made", number, len(found.chunks))
    waiting = {run_id for run_id, run in outcomes.items() if run["state"] not in airflow_runs.ENDED}
    if waiting and not args.no_wait:
        for run_id, state in airflow_runs.wait(client, dag_id, run_id_prefix(pipeline), waiting, say).items():
            outcomes[run_id]["state"] = state
    return outcomes


def _code(document: dict[str, Any]) -> int:
    return int(bool(document["failed"] or (document["dry_run"] and document["gone"])))


def _show(document: dict[str, Any]) -> None:
    render.lines(
        {
            "pipeline": document["pipeline"],
            "topic": document["topic"],
            "runs": len(document["runs"]),
            "offsets": document["offsets"],
            "bytes": _bytes(document["bytes"]),
        }
    )
    if document["dry_run"]:
        rows = [
            [run["run_id"], b["batch_id"] or "(not planned yet)", b["state"], b["offsets"], _bytes(b["bytes"]), _of(b)]
            for run in document["runs"]
            for b in run["batches"]
        ]
        render.table(["run", "batch", "is", "offsets", "bytes, about", "ranges"], rows)
    else:
        rows = [
            [run["run_id"], run.get("made"), run["state"], run["offsets"], run["ranges"][:200]]
            for run in document["runs"]
        ]
        render.table(["run", "made", "state", "offsets", "ranges"], rows)
    for item in document["gone"]:
        never = "landed" if item["state"] == "gone" else "derived anew"
        owner = f" of batch {item['batch_id']}, which can never be {never}" if item["batch_id"] else ""
        why = "gone, below the log start" if item["state"] == "gone" else item["state"]
        print(f"{why}: {', '.join(item['ranges'])}, {item['offsets']:,} offsets{owner}")
    if not document["runs"]:
        print("nothing to take")
    for run_id in document["failed"]:
        print(f"not done: {run_id}")
    if document["failed"] and "dag_id" in document:
        print("--retry-failed clears the runs that have failed, and goes on with them")


def _bytes(value: int | None) -> Any:
    return "unknown" if value is None else value


def _of(batch: dict[str, Any]) -> str:
    ranges = batch["ranges"]
    return ",".join(ranges[:_SHOWN]) + (f" and {len(ranges) - _SHOWN} more" if len(ranges) > _SHOWN else "")
