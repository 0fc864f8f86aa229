"""Commands over windows: windows, upgrade, skip, resume."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import (
    UsageError,
    add_client,
    add_decision,
    add_pipeline,
    add_stores,
    client_settings,
    instant,
    load_pipeline,
    registered,
    stores,
    who,
)
from airflow_provider_eventlog.cli.pipelines import interruptible
from airflow_provider_eventlog.cli.quarantine import opened
from airflow_provider_eventlog.core.naming import printable

MODES = ("from-next-batch", "reopen-open-windows", "rebuild")
_STATES = ("open", "final", "amended")


def register(commands: Any) -> None:
    """Add windows, upgrade, skip and resume."""
    listing = commands.add_parser("windows", help="watermark, frontier, late rows; open, final and amended windows")
    listing.add_argument("--pipeline", required=True, metavar="NAME", help="registered name of the pipeline")
    listing.add_argument("--output-name", metavar="NAME", help="also list the windows of this output")
    listing.add_argument("--state", choices=_STATES, help="with --output-name: only windows of this state")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many windows; default 50")
    add_stores(listing)
    listing.set_defaults(call=_windows, show=_show_windows)
    upgrade = commands.add_parser("upgrade", help="decide what becomes of windows whose pipeline has changed")
    add_pipeline(upgrade)
    mode = upgrade.add_mutually_exclusive_group(required=True)
    for name, text in zip(
        MODES,
        (
            "what comes goes by the new declaration, what is folded stays",
            "also batches that reach into open windows are derived again; final windows stay",
            "everything is derived and folded again, from staging",
        ),
        strict=True,
    ):
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=text)
    add_decision(upgrade)
    upgrade.add_argument("--dry-run", action="store_true", help="print what it would do; changes nothing")
    add_client(upgrade)
    add_stores(upgrade)
    upgrade.set_defaults(call=_upgrade, show=_show_upgrade)
    skip = commands.add_parser("skip", help="let windows pass a batch that is held, or a hole")
    skip.add_argument("--pipeline", required=True, metavar="NAME", help="registered name of the pipeline")
    what = skip.add_mutually_exclusive_group(required=True)
    what.add_argument("--batch", metavar="ID")
    what.add_argument("--hole", metavar="TIME", help="where the hole begins, as `eventlog windows` shows it")
    add_decision(skip)
    skip.add_argument("--dry-run", action="store_true", help="print what would be skipped; changes nothing")
    add_stores(skip)
    skip.set_defaults(call=_skip, show=_show_skip)
    resume = commands.add_parser("resume", help="load what was left validated or released, and what windows can take")
    add_pipeline(resume)
    add_stores(resume)
    resume.set_defaults(call=_resume, show=_show_resume)


def _windows(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.folding import listing

    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} must be at least 1.")
    if args.state and not args.output_name:
        raise UsageError("--state goes with --output-name.")
    with opened(args) as engine:
        declaration = registered(engine.ledger, args.pipeline)
        known = listing.outputs_of(declaration)
        document: dict[str, Any] = {
            "pipeline": args.pipeline,
            "outputs": listing.overview(engine, args.pipeline, declaration),
        }
        if args.output_name:
            if args.output_name not in known:
                raise UsageError(
                    f"Pipeline {args.pipeline} has no windows output {printable(args.output_name)}; its windows are "
                    f"{', '.join(known) or 'none'}."
                )
            by = known[args.output_name]["by"]
            document["by"] = by
            document["windows"] = listing.windows(
                engine, args.pipeline, args.output_name, by, state=args.state, limit=args.limit
            )
    return document


def _upgrade(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.folding.upgrading import upgrade

    with _at_work(args, keep=not args.dry_run) as (engine, pipeline):
        return upgrade(engine, pipeline, args.mode, who=who(args), why=args.why, keep=not args.dry_run)


def _skip(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.folding import listing
    from airflow_provider_eventlog.core.folding.skipping import skip

    hole = instant(args.hole) if args.hole else None
    with opened(args, keep=not args.dry_run) as engine:
        declaration = registered(engine.ledger, args.pipeline)
        outputs = list(listing.outputs_of(declaration))
        if not outputs:
            raise UsageError(f"Pipeline {args.pipeline} has no windows; nothing waits in it.")
        return skip(
            engine,
            args.pipeline,
            declaration["stream"]["name"],
            outputs,
            batch_id=args.batch,
            hole=hole,
            who=who(args),
            why=args.why,
            keep=not args.dry_run,
        )


def _resume(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import stages
    from airflow_provider_eventlog.core.requests import RunRequest

    with _at_work(args) as (engine, pipeline):
        done = stages.run(engine, pipeline, RunRequest("resume", parallelism=1))["load"]
    return {"pipeline": pipeline.name, "batches": done["batches"], "windows": done["windows"]}


@contextmanager
def _at_work(args: argparse.Namespace, *, keep: bool = True) -> Iterator[tuple[Any, Any]]:
    """An engine that can derive, load and plan, and the pipeline that the command names."""
    from airflow_provider_eventlog.core.engine import open_engine

    pipeline, cancel = load_pipeline(args.pipeline), threading.Event()

    def client() -> dict[str, Any]:
        return client_settings(args, pipeline.stream.kafka_conn_id)

    with render.progress() as progress, interruptible(cancel):
        made = open_engine(pipeline.stream, client=client, keep=keep, progress=progress, cancel=cancel, **stores(args))
        with made as engine:
            yield engine, pipeline


def _show_windows(document: dict[str, Any]) -> None:
    names = ("output", "log", "folds", "watermark", "open", "rows", "placed", "late", "outside", "amended")
    render.table(
        list(names),
        [[output.get(name) for name in names] for output in document["outputs"]],
        title=f"{document['pipeline']}: windows",
    )
    for output in document["outputs"]:
        if output["waiting"]:
            print(f"{output['output']} waits for {render.cell(output['waiting'])}")
        elif output.get("ready"):
            print(f"{output['output']}: a validated batch can enter; the next load or `eventlog resume` folds it")
    if "windows" in document:
        shown = ["window_start", "window_end", "_rows", "_late", "_revision", "_final", "_amended", "_complete"]
        columns = [*document["by"], *shown]
        render.table(columns, [[window[name] for name in columns] for window in document["windows"]])


def _show_upgrade(document: dict[str, Any]) -> None:
    for line in document["changes"]:
        print(render.cell(line))
    done = "derived again" if document["kept"] else "would be derived again (dry run)"
    print(
        f"{document['pipeline']}: {document['mode']}, from recipe {document['from'][:12]} to {document['to'][:12]}; "
        f"{document['batches']:,} batches with {document['offsets']:,} offsets {done}."
    )


def _show_skip(document: dict[str, Any]) -> None:
    what = f"batch {document['batch_id']}" if document["batch_id"] else "the hole"
    done = "will be passed" if document["kept"] else "would be passed (dry run)"
    print(
        f"{document['pipeline']}: {what} ({document['from']} to {document['to']}) {done} by the windows with the next "
        f"load, or with `eventlog resume`. Windows that it may touch are not _complete."
    )


def _show_resume(document: dict[str, Any]) -> None:
    from airflow_provider_eventlog.core import stages

    print(f"{document['pipeline']}: {len(document['batches'])} batches that were left before loading are loaded.")
    for line in stages.windows_lines(document["windows"]):
        print(render.cell(line))
