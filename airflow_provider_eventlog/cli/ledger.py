"""Commands about the ledger itself."""

from __future__ import annotations

import argparse
import threading
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import add_stores, stores
from airflow_provider_eventlog.cli.pipelines import interruptible


def register(commands: Any) -> None:
    """Add ledger with its own commands."""
    ledger = commands.add_parser("ledger", help="the ledger itself: make a lost one anew")
    own = ledger.add_subparsers(dest="ledger_command", metavar="COMMAND", required=True)
    _add_rebuild(own)


def _add_rebuild(own: Any) -> None:
    rebuild = own.add_parser(
        "rebuild",
        help="make a new ledger from staging and the targets; pause the DAGs first",
        description=(
            "Makes a new ledger from the records in staging and the tables in the targets, in one transaction, and "
            "proves it against every manifest before it is kept. Kafka is not asked, an existing ledger is never "
            "touched. Pause the DAGs first, and clear what was under way from plan afterwards. What only the ledger "
            "knew is lost; the command says what that is."
        ),
    )
    add_stores(rebuild)
    rebuild.add_argument("--ledger-id", metavar="ID", help="which ledger it is, where the tables are of several")
    rebuild.add_argument("--dry-run", action="store_true", help="read and prove everything, keep nothing")
    rebuild.set_defaults(call=_rebuild, show=_show_rebuild, code=_rebuild_code)


def _rebuild(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.engine import ledger_address, open_staging_at, open_target_at
    from airflow_provider_eventlog.core.rebuilding.ledger import rebuild_ledger

    where = stores(args)
    home = where["home"]
    staging = open_staging_at(home, where["staging_root"])
    cancel = threading.Event()
    with render.progress() as progress, interruptible(cancel):
        return rebuild_ledger(
            staging,
            lambda output: open_target_at(home, output),
            ledger_address(home, where["ledger_url"]),
            root=str(staging.root),
            ledger_id=args.ledger_id,
            keep=not args.dry_run,
            cancel=cancel,
            progress=progress,
        )


def _rebuild_code(document: dict[str, Any]) -> int:
    return 1 if document["problems"] else 0


def _show_rebuild(document: dict[str, Any]) -> None:
    render.lines(
        {
            "ledger": f"{document['ledger_id']} ({document['ledger_id_from']})",
            "staging root": document["staging_root"],
            "": "made" if document["kept"] else "dry run: nothing was made",
        }
    )
    render.table(
        ["stream", "epochs", "batches", "slices", "offsets", "lost"],
        [[s[k] for k in ("stream", "epochs", "batches", "slices", "offsets", "lost")] for s in document["streams"]],
        title="streams",
    )
    states = ("planned", "held", "validated", "loaded")
    render.table(
        ["pipeline", "stream", "recipe", "recipes", "generations", *states],
        [
            [p["pipeline"], p["stream"], p["recipe"][:12], p["recipes"], p["generations"]]
            + [p["batches"][state] for state in states]
            for p in document["pipelines"]
        ],
        title="pipelines",
    )
    if document["decisions"]:
        print("decisions: " + ", ".join(f"{count} {kind}" for kind, count in document["decisions"].items()))
    if document["raw_files_unnamed"]:
        print(f"{document['raw_files_unnamed']:,} raw files that no manifest names: used when they are planned again")
    for lost in document["lost"]:
        print(f"lost: {lost}")
    for problem in document["problems"]:
        print(f"PROBLEM: {render.cell(problem['where'])}")
        print(f"    {render.cell(problem['what'])}")
        print(f"    {render.cell(problem['mend'])}")
