"""Commands that run a pipeline's declaration: check, plan, run."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import (
    UsageError,
    add_client,
    add_pipeline,
    add_stores,
    client_settings,
    instant,
    load_pipeline,
    stores,
)


def register(commands: Any) -> None:
    """Add check, plan and run."""
    check = commands.add_parser("check", help="check a declaration against the topic and the target")
    plan = commands.add_parser("plan", help="print what a run would read; changes nothing")
    run = commands.add_parser("run", help="plan, land, transform, validate and load in this process")
    for command, call, show in ((check, _check, _show_check), (plan, _plan, show_plan), (run, _run, show_run)):
        add_pipeline(command)
        add_client(command)
        add_stores(command)
        command.set_defaults(call=call, show=show)
    for command in (plan, run):
        _add_request(command)
    run.add_argument("--dry-run", action="store_true", help="the same as `eventlog plan`")


def _add_request(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to take").add_mutually_exclusive_group(required=True)
    what.add_argument("--offsets", metavar="P:START-END[,...]", help="explicit offsets; the end is not included")
    what.add_argument("--interval", nargs=2, metavar=("FROM", "TO"), help="ISO times, UTC unless they name a zone")
    what.add_argument("--since-last", action="store_true", help="all that this pipeline has not taken yet")
    parser.add_argument("--gap", choices=("absorb", "hole"), default="absorb", help="see docs/reference.md")
    parser.add_argument(
        "--epoch", type=int, metavar="N", help="with --offsets: of an earlier topic, replayed as landed"
    )
    parser.add_argument("--max-batches", type=int, metavar="N", help="with --since-last: at most so many batches")
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="a new generation even where transform and raw data are unchanged; with --offsets or --interval",
    )


def _request(args: argparse.Namespace) -> Any:
    from airflow_provider_eventlog.core.offsets import parse_ranges
    from airflow_provider_eventlog.core.requests import RunRequest

    if args.max_batches is not None and not args.since_last:
        raise UsageError("--max-batches goes with --since-last.")
    if args.epoch is not None and args.offsets is None:
        raise UsageError("--epoch goes with --offsets.")
    if args.recompute and args.since_last:
        raise UsageError("--recompute goes with --offsets or --interval: what came since the last batch is new.")
    # One process does the work, so that one group is all it needs.
    more: dict[str, Any] = {"parallelism": 1, "recompute": args.recompute}
    if args.offsets is not None:
        return RunRequest("offsets", ranges=parse_ranges(args.offsets), epoch=args.epoch, **more)
    if args.interval:
        start, end = map(instant, args.interval)
        return RunRequest("interval", interval=(start, end), gap=args.gap, **more)
    return RunRequest("since_last", max_batches=args.max_batches, parallelism=1)


def engine_of(args: argparse.Namespace, pipeline: Any, *, keep: bool, **more: Any) -> Any:
    """The engine of a pipeline's stream, as the command line says where everything is."""
    from airflow_provider_eventlog.core.engine import open_engine

    conn_id = pipeline.stream.kafka_conn_id
    return open_engine(
        pipeline.stream, client=lambda: client_settings(args, conn_id), keep=keep, **stores(args), **more
    )


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import checking

    pipeline = load_pipeline(args.pipeline)
    with engine_of(args, pipeline, keep=False) as engine:
        return checking.check_all(engine, pipeline)


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import stages

    request, pipeline = _request(args), load_pipeline(args.pipeline)
    with engine_of(args, pipeline, keep=False) as engine:
        return stages.describe(stages.preview(engine, pipeline, request))


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import stages

    if args.dry_run:
        return {"run": _plan(args)}
    request, pipeline = _request(args), load_pipeline(args.pipeline)
    cancel = threading.Event()
    with render.progress() as progress, interruptible(cancel):
        with engine_of(args, pipeline, keep=True, progress=progress, cancel=cancel) as engine:
            return stages.run(engine, pipeline, request)


class interruptible:  # noqa: N801
    """SIGTERM sets the event, so that a stage stops at its next step instead of dying in the middle."""

    def __init__(self, cancel: threading.Event) -> None:
        self.cancel = cancel

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, lambda *_: self.cancel.set())

    def __exit__(self, *exc: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)


def _show_check(document: dict[str, Any]) -> None:
    render.table(["what", "found"], list(document["checked"].items()), title=f"{document['pipeline']} is fine")
    render.table(["column", "type"], list(document["columns"].items()))
    for line in document["windows"]:
        print(render.cell(line))


def show_plan(document: dict[str, Any]) -> None:
    """A plan for people."""
    topic = document["topic"]
    render.lines(
        {
            "pipeline": document["pipeline"],
            "topic": f"{topic['name']} (topic id {topic['id'] or 'unknown'})",
            "offsets": document["offsets"],
            "run": document["run_key"],
        }
    )
    render.table(
        ["batch", "gen", "mode", "kind", "from", "to", "offsets", "ranges"],
        [
            [
                b["batch_id"],
                b["generation"],
                b["mode"],
                b["kind"],
                b["from"],
                b["to"],
                b["offsets"],
                _short(b["ranges"]),
            ]
            for b in document["batches"]
        ],
    )
    for note in document["notes"]:
        print(f"note: {note}")


def _short(ranges: list[str]) -> str:
    return ",".join(ranges[:8]) + (f" and {len(ranges) - 8} more" if len(ranges) > 8 else "")


def show_run(document: dict[str, Any]) -> None:
    """A run for people."""
    from airflow_provider_eventlog.core.stages import loss_headline, windows_lines

    show_plan(document["run"])
    if "load" not in document:
        return
    for landed in document["land"]:
        if (said := loss_headline(landed)) is not None:
            print(said)
    figures = {b["batch_id"]: b["accounting"] for b in document["validate"]["batches"]}
    rows = []
    for batch in document["load"]["batches"]:
        landing, transform = figures[batch["batch_id"]]["landing"], figures[batch["batch_id"]]["transform"]
        for output, result in batch["outputs"].items():
            state = (
                "superseded"
                if result["superseded"]
                else {"landed": "loaded", "existed": "was loaded"}[result["outcome"]]
            )
            rows.append(
                [
                    batch["batch_id"],
                    landing["length"],
                    landing["landed"],
                    landing["invisible"],
                    transform["tombstones"],
                    transform["undecodable"],
                    transform["typed"],
                    transform["filtered"],
                    transform["rejected"],
                    transform["passed"],
                    output,
                    result["rows"],
                    state,
                ]
            )
    render.table(
        [
            "batch",
            "offsets",
            "landed",
            "invisible",
            "tombstones",
            "undecodable",
            "typed",
            "filtered",
            "rejected",
            "passed",
            "output",
            "rows",
            "state",
        ],
        rows,
    )
    for line in windows_lines(document["load"]["windows"]):
        print(render.cell(line))
