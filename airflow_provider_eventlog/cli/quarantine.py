"""Commands over what was stopped: quarantine list, show, export and drop; release of a held batch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import UsageError, add_decision, add_stores, clean, registered, stores, who
from airflow_provider_eventlog.cli.redrive import add_selection, selection
from airflow_provider_eventlog.core.naming import printable

_SHOWN_BYTES = 120


def register(commands: Any) -> None:
    """Add quarantine and release."""
    room = commands.add_parser("quarantine", help="what did not decode, broke a check, or has no event time")
    kinds = room.add_subparsers(dest="what", metavar="WHAT", required=True)
    listing = kinds.add_parser("list", help="how many rows of which batches, by reason code")
    showing = kinds.add_parser("show", help="the rows, with their payloads")
    export = kinds.add_parser("export", help="the rows into one file: .parquet, or .jsonl with one row a line")
    for command, call, show in (
        (listing, _list, _show_list),
        (showing, _rows, _show_rows),
        (export, _export, _show_export),
    ):
        _add_pipeline(command)
        command.set_defaults(call=call, show=show)
    listing.add_argument("--batch", metavar="ID", help="only this batch")
    for command in (showing, export):
        add_selection(command)
        command.add_argument(
            "--dropped", action="store_true", help="the rows that were dropped for good, and only those"
        )
    dropping = kinds.add_parser("drop", help="drop rows for good: no redrive takes them, no listing counts them")
    _add_pipeline(dropping)
    add_selection(dropping)
    add_decision(dropping)
    dropping.add_argument("--dry-run", action="store_true", help="print what would be dropped; changes nothing")
    dropping.set_defaults(call=_drop, show=_show_drop)
    showing.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many rows; default 20")
    export.add_argument("file", metavar="FILE", help="a new file; one that exists is refused")
    release = commands.add_parser("release", help="let a held batch pass: what passed its checks loads")
    _add_pipeline(release)
    release.add_argument("--batch", required=True, metavar="ID")
    add_decision(release)
    release.add_argument("--dry-run", action="store_true", help="print what would be released; changes nothing")
    release.set_defaults(call=_release, show=_show_release)


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", required=True, metavar="NAME", help="registered name of the pipeline")
    add_stores(parser)


@contextmanager
def opened(args: argparse.Namespace, *, keep: bool = False) -> Iterator[Any]:
    """An engine over the stores of a registered pipeline; it has no way to Kafka or to a target."""
    from airflow_provider_eventlog.core.engine import Engine, open_ledger_at, open_staging_at

    where = stores(args)
    ledger = open_ledger_at(where["home"], where["ledger_url"], keep=keep)
    try:
        root = registered(ledger, args.pipeline)["stream"]["staging"] or where["staging_root"]
        yield Engine(ledger, open_staging_at(where["home"], root), _nowhere, _nowhere)
    finally:
        ledger.close()


def _nowhere(_wanted: object) -> Any:
    raise AssertionError("this command reads ledger and staging only")


def _list(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import quarantined

    with opened(args) as engine:
        found = quarantined.summary(engine.ledger, engine.staging, args.pipeline, args.batch)
    return {"pipeline": args.pipeline, "batches": found}


def _rows(args: argparse.Namespace) -> dict[str, Any]:
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} must be at least 1.")
    rows: list[dict[str, Any]] = []
    with opened(args) as engine:
        for table in _tables(args, engine):
            rows += table.slice(0, args.limit - len(rows)).to_pylist()
            if len(rows) == args.limit:
                break
    return {"pipeline": args.pipeline, "rows": clean(rows)}


def _tables(args: argparse.Namespace, engine: Any) -> Iterator[Any]:
    from airflow_provider_eventlog.core import quarantined

    wanted = selection(args)
    return quarantined.tables(engine.ledger, engine.staging, args.pipeline, wanted, dropped=args.dropped)


def _drop(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.redriving import dropping

    with opened(args, keep=not args.dry_run) as engine:
        stream = registered(engine.ledger, args.pipeline)["stream"]["name"]
        told = {"who": who(args), "why": args.why}
        return dropping.drop(engine, args.pipeline, stream, selection(args), **told, keep=not args.dry_run)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import quarantine

    file = Path(args.file)
    if file.suffix not in (".parquet", ".jsonl"):
        raise UsageError(f"{printable(args.file)} must end with .parquet or .jsonl.")
    if file.exists():
        raise UsageError(f"{printable(args.file)} exists; name a new file.")
    count = 0
    with opened(args) as engine:
        found = _tables(args, engine)
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetWriter(file, quarantine.SCHEMA, write_page_checksum=True) as writer:
                for table in found:
                    writer.write_table(table)
                    count += table.num_rows
        else:
            with file.open("x") as lines:
                for table in found:
                    count += table.num_rows
                    for row in table.to_pylist():
                        lines.write(json.dumps(clean(row), default=str) + "\n")
    return {"pipeline": args.pipeline, "file": str(file), "rows": count}


def _release(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import gate

    with opened(args, keep=not args.dry_run) as engine:
        return gate.release(engine, args.pipeline, args.batch, who=who(args), why=args.why, keep=not args.dry_run)


def _show_list(document: dict[str, Any]) -> None:
    render.table(
        ["batch", "gen", "state", "rows", "by code", "dropped"],
        [
            [
                b["batch_id"],
                b["generation"],
                b["state"],
                b["rows"],
                ", ".join(f"{n} {c}" for c, n in b["codes"].items()),
                b["dropped"],
            ]
            for b in document["batches"]
        ],
        title=f"{document['pipeline']}: {sum(b['rows'] for b in document['batches']):,} rows in quarantine",
    )


def _show_rows(document: dict[str, Any]) -> None:
    render.table(
        ["batch", "partition", "offset", "row", "code", "check", "reason", "value"],
        [
            [
                r["batch_id"],
                r["_partition"],
                r["_offset"],
                None if r["_row"] < 0 else r["_row"],
                r["code"],
                r["check"] or None,
                r["reason"],
                printable(r["value"], _SHOWN_BYTES),
            ]
            for r in document["rows"]
        ],
    )


def _show_drop(document: dict[str, Any]) -> None:
    render.table(
        ["batch", "gen", "records", "rows"],
        [[b["batch_id"], b["generation"], b["records"], b["rows"]] for b in document["batches"]],
        title="dropped for good" if document["kept"] else "would be dropped (dry run)",
    )
    if document["before"]:
        print(f"{document['before']:,} rows were dropped before")


def _show_export(document: dict[str, Any]) -> None:
    print(f"{document['rows']:,} rows of {document['pipeline']} written to {document['file']}")


def _show_release(document: dict[str, Any]) -> None:
    stopped = sum(document["quarantine"].values())
    print(
        f"batch {document['batch_id']}, generation {document['generation']}: "
        f"{'released' if document['kept'] else 'would be released (dry run)'}; {stopped:,} quarantined rows stay where "
        f"they are. Clear the run's validate task, or run the same command again, to load the rest."
    )
