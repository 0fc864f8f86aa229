"""`eventlog rebuild`: the tables of a pipeline's outputs made anew from staging."""

from __future__ import annotations

import argparse
import threading
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import add_pipeline, add_stores, load_pipeline, stores
from airflow_provider_eventlog.cli.pipelines import interruptible


def register(commands: Any) -> None:
    """Add rebuild."""
    command = commands.add_parser(
        "rebuild",
        help="make the table of an output anew from staging",
        description=(
            "Loads the newest validated generation of every batch into a new table, which takes its place when it is "
            "whole; until then readers see the old one. Neither Kafka nor the transform is needed. A table that was "
            "never made, or is gone, is made; one that stands needs --replace and is kept under another name; one "
            "that is not the output's own is never touched. Stopped, the same command goes on."
        ),
    )
    add_pipeline(command)
    command.add_argument(
        "--output-name", metavar="NAME", help="only this output; quarantine for the quarantine's table"
    )
    command.add_argument("--replace", action="store_true", help="a table that stands is replaced, and kept aside")
    command.add_argument("--dry-run", action="store_true", help="only say what would be loaded; changes nothing")
    add_stores(command)
    command.set_defaults(call=_rebuild, show=_show)


def _rebuild(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.engine import open_engine
    from airflow_provider_eventlog.core.rebuilding.output import rebuild_outputs

    pipeline, cancel = load_pipeline(args.pipeline), threading.Event()
    with render.progress() as progress, interruptible(cancel):
        opened = open_engine(
            pipeline.stream, client={}, keep=not args.dry_run, progress=progress, cancel=cancel, **stores(args)
        )
        with opened as engine:
            return rebuild_outputs(engine, pipeline, args.output_name, replace=args.replace, keep=not args.dry_run)


def _show(document: dict[str, Any]) -> None:
    done = "rebuilt" if document["kept"] else "would be rebuilt"
    render.table(
        ["output", "table", "found", done, "rows", "bytes", "kept aside as"],
        [
            [o[k] for k in ("output", "table", "found", "batches", "rows", "bytes")] + [o.get("replaced")]
            for o in document["outputs"]
        ],
        title=document["pipeline"],
    )
    for output in document["outputs"]:
        for line in output["difference"]:
            print(f"{output['output']}: {render.cell(line)}")
        if output["refused"]:
            print(f"refused: {render.cell(output['refused'])}")
        if output.get("replaced"):
            print(f"The old table is kept as {render.cell(output['replaced'])}; drop it when nobody needs it.")
