"""`eventlog report`: one generation of a batch for people, as a page or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.cli.common import UsageError, add_stores, registered, stores
from airflow_provider_eventlog.cli.render import cell
from airflow_provider_eventlog.core.naming import printable


def register(commands: Any) -> None:
    """Add report."""
    command = commands.add_parser(
        "report",
        help="where every offset of a batch went, its checks, gate, quarantine and loads: one page, or JSON",
        description="Reads ledger and staging only. The page loads nothing and runs nothing: it may be mailed.",
    )
    command.add_argument("--pipeline", required=True, metavar="NAME", help="registered name of the pipeline")
    command.add_argument("--batch", required=True, metavar="ID")
    command.add_argument("--generation", type=int, metavar="G", help="default: the newest")
    command.add_argument("--first", type=int, default=20, metavar="N", help="quarantined rows shown; default 20")
    command.add_argument("--out", metavar="FILE", help="a new file for the page, or for the JSON; default: stdout")
    command.add_argument("--output", choices=("html", "json"), default="html", help="default: html")
    add_stores(command)
    command.set_defaults(call=_report, show=_show)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.engine import Engine, open_ledger_at, open_staging_at
    from airflow_provider_eventlog.core.report.collect import collect

    if args.first < 0:
        raise UsageError(f"--first {args.first} must not be negative.")
    if args.out is not None and Path(args.out).exists():
        raise UsageError(f"{printable(args.out)} exists; name a new file.")
    where = stores(args)
    ledger = open_ledger_at(where["home"], where["ledger_url"], keep=False)
    try:
        root = registered(ledger, args.pipeline)["stream"]["staging"] or where["staging_root"]
        engine = Engine(ledger, open_staging_at(where["home"], root), _nowhere, _nowhere)
        document = collect(engine, args.pipeline, args.batch, args.generation, first=args.first)
    finally:
        ledger.close()
    return document if args.out is None else _write(Path(args.out), document, args.output)


def _nowhere(_wanted: object) -> Any:
    raise AssertionError("this command reads ledger and staging only")


def _write(file: Path, document: dict[str, Any], form: str) -> dict[str, Any]:
    text = _page(document) if form == "html" else json.dumps(document, indent=2) + "\n"
    try:
        with file.open("x", encoding="utf-8") as to:
            to.write(text)
    except OSError as error:
        raise UsageError(f"{printable(str(file))} cannot be written: {error}.") from error
    named = {"pipeline": document["pipeline"], "batch_id": document["batch"]["batch_id"]}
    return {**named, "generation": document["generation"]["generation"], "file": str(file)}


def _page(document: dict[str, Any]) -> str:
    from airflow_provider_eventlog.core.report.html import page

    return page(document)


def _show(document: dict[str, Any]) -> None:
    if "file" in document:
        print(f"{document['pipeline']}, batch {document['batch_id']}: report written to {cell(document['file'])}")
    else:
        sys.stdout.write(_page(document))
