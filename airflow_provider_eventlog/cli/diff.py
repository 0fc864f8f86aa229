"""`eventlog diff`: what the current recipe would make of a batch, against what was published of it."""

from __future__ import annotations

import argparse
import threading
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import UsageError, add_stores, load_pipeline, registered, stores
from airflow_provider_eventlog.cli.pipelines import interruptible


def register(commands: Any) -> None:
    """Add diff."""
    command = commands.add_parser(
        "diff",
        help="what the current recipe would change in a batch; changes nothing",
        description=(
            "Runs the pipeline as it is declared now over a batch's staged records, in a scratch folder, and compares "
            "the rows with those of the published generation by partition, offset and row. Nothing is published and "
            "nothing recorded; Kafka and the targets are not asked."
        ),
    )
    command.add_argument(
        "--pipeline",
        required=True,
        metavar="FILE.py:VARIABLE|NAME",
        help="where the pipeline is declared; or its registered name, if it is SQL over rows",
    )
    command.add_argument("--batch", required=True, metavar="ID")
    command.add_argument("--limit", type=int, default=10, metavar="N", help="examples of each kind; default 10")
    add_stores(command)
    command.set_defaults(call=_diff, show=_show)


def _diff(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.difference import difference
    from airflow_provider_eventlog.core.engine import open_engine

    if args.limit < 0:
        raise UsageError(f"--limit {args.limit} must not be negative.")
    pipeline, cancel = _pipeline(args), threading.Event()
    with render.progress() as progress, interruptible(cancel):
        opened = open_engine(pipeline.stream, client={}, keep=False, progress=progress, cancel=cancel, **stores(args))
        with opened as engine:
            return difference(engine, pipeline, args.batch, limit=args.limit)


def _pipeline(args: argparse.Namespace) -> Any:
    if ":" in args.pipeline:
        return load_pipeline(args.pipeline)
    from airflow_provider_eventlog.core.engine import open_ledger_at
    from airflow_provider_eventlog.core.redeclaring import redeclare

    where = stores(args)
    ledger = open_ledger_at(where["home"], where["ledger_url"], keep=False)
    try:
        declaration = registered(ledger, args.pipeline)
        recipe = next(recipe for name, _, recipe, _ in ledger.pipelines() if name == args.pipeline)
    finally:
        ledger.close()
    return redeclare(declaration, recipe)


def _show(document: dict[str, Any]) -> None:
    recipe, rows = document["recipe"], document["rows"]
    same = "the same recipe" if recipe["same"] else f"recipe {recipe['after'][:12]} now"
    print(
        f"{document['pipeline']}, batch {document['batch_id']}: generation {document['generation']} "
        f"({document['state']}, recipe {recipe['before'][:12]}) against {same}"
    )
    for note in document["notes"]:
        print(note)
    titles = {"only_before": "only before", "only_after": "only after"}
    render.table(["rows", "count"], [[titles.get(name, name), count] for name, count in rows.items()])
    _tables(document)
    for kind, examples in document["examples"].items():
        _examples(titles.get(kind, kind), examples)


def _tables(document: dict[str, Any]) -> None:
    if document["schema"]:
        columns = [[s["column"], s["before"], s["after"]] for s in document["schema"]]
        render.table(["column", "type before", "type after"], columns, title="columns")
    if document["changed_columns"]:
        render.table(["column", "rows"], list(document["changed_columns"].items()), title="changed rows by column")
    if document["quarantine"]["reasons"]:
        render.table(
            ["code", "check", "before", "after", "first reason"],
            [
                [r["code"], r["check"] or None, r["before"], r["after"], r["first"]]
                for r in document["quarantine"]["reasons"]
            ],
            title="quarantined",
        )
    if document["checks"]:
        verdicts = [[c["check"], *(_verdict(c[side]) for side in ("before", "after"))] for c in document["checks"]]
        render.table(["check", "before", "after"], verdicts, title="checks")
    if document["gate"]["after"]["holds"]:
        print(f"The gate would hold the batch ({document['gate']['after']['rule']}).")


def _verdict(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not declared"
    return found["verdict"] if not found["rows"] else f"{found['verdict']} ({found['rows']:,})"


def _examples(title: str, examples: list[dict[str, Any]]) -> None:
    if not examples:
        return
    rows = []
    for example in examples:
        where = [example["partition"], example["offset"], example["row"]]
        for name, sides in example["columns"].items():
            rows.append([*where, name, sides.get("before"), sides.get("after"), example.get("instead")])
    render.table(["partition", "offset", "row", "column", "before", "after", "instead"], rows, title=title)
