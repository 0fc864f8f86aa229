"""`eventlog completeness`: what producers sent, what was landed, and which numbers are missing."""

from __future__ import annotations

import argparse
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import UsageError, add_stores, registered
from airflow_provider_eventlog.cli.quarantine import opened
from airflow_provider_eventlog.core.naming import printable

_VERDICTS = ("complete", "surplus", "short", "differs", "missing", "unproved")


def register(commands: Any) -> None:
    """Add completeness."""
    command = commands.add_parser(
        "completeness",
        help="each producer's intervals and each sequence: what was sent, what was landed, the verdict",
        description="Reads ledger and staging only. An interval is shown with its newest verdict.",
    )
    command.add_argument("--pipeline", required=True, metavar="NAME", help="registered name of the pipeline")
    command.add_argument("--batch", metavar="ID", help="only what this batch was judged by")
    command.add_argument("--verdict", choices=_VERDICTS, help="only intervals of this verdict")
    command.add_argument(
        "--windows", metavar="OUTPUT", help="also the newest windows of this output, with their counts"
    )
    command.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many of each; default 100")
    add_stores(command)
    command.set_defaults(call=_call, show=_show)


def _call(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.completeness import listing
    from airflow_provider_eventlog.core.folding import listing as folded

    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} must be at least 1.")
    with opened(args) as engine:
        declaration = registered(engine.ledger, args.pipeline)
        judged = listing.batches(engine, args.pipeline, declaration["stream"]["name"], args.batch)
        known = listing.intervals(engine, judged)
        chosen = [one for one in known if args.verdict in (None, one["verdict"])]
        document: dict[str, Any] = {
            "pipeline": args.pipeline,
            "rules": [next(iter(rule.values()))["name"] for rule in declaration.get("completeness", ())],
            "batches": len(judged),
            "intervals": chosen[-args.limit :],
            "more_intervals": max(0, len(chosen) - args.limit),
            "sequences": listing.numbered(judged)[-args.limit :],
            "standing": [] if args.batch else listing.standing(engine, args.pipeline, declaration, judged),
        }
        if args.windows:
            outputs = folded.outputs_of(declaration)
            if args.windows not in outputs:
                raise UsageError(
                    f"Pipeline {args.pipeline} has no windows output {printable(args.windows)}; its windows are "
                    f"{', '.join(outputs) or 'none'}."
                )
            by = outputs[args.windows]["by"]
            found = folded.windows(engine, args.pipeline, args.windows, by, limit=args.limit)
            document["windows"] = listing.of_windows(found, known)
    return document


def _show(document: dict[str, Any]) -> None:
    if not document["rules"] and not document["batches"]:
        print(f"{document['pipeline']} declares no completeness.")
        return
    _table(
        document["intervals"],
        ("batch_id", "rule", "producer", "start", "end", "expected", "found", "share", "verdict"),
        f"{document['pipeline']}: what producers sent",
    )
    if document["more_intervals"]:
        print(f"{document['more_intervals']:,} older intervals are not shown; --limit shows more.")
    numbers = ("sequence", "batch_id", "records", "new", "filled", "missing", "duplicates", "regressions", "verdict")
    _table(document["sequences"], numbers, "sequences by batch")
    standing = ("sequence", "keys", "records", "numbers", "missing", "duplicates", "regressions")
    _table(document["standing"], standing, "sequences over all batches")
    for one in document["standing"]:
        for gap in one["first"]:
            print(f"{one['sequence']}: {render.cell(gap['key'])} misses {gap['low']} to {gap['high']}")
    if "windows" in document:
        names = ("window_start", "window_end", "final", "intervals", "expected", "found", "share", "verdict")
        _table(document["windows"], names, "windows")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], title: str) -> None:
    if rows:
        render.table(list(columns), [[_cell(row[name]) for name in columns] for row in rows], title=title)


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
