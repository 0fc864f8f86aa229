"""Commands that only read: status, batches, accounting. They ask the ledger, and Kafka only when told to."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import UsageError, add_client, add_stores, client_settings, registered, stores

# Somebody waits for it: a cluster that is silent for so many seconds is told of instead.
_FORECAST_S = 10.0


def register(commands: Any) -> None:
    """Add status, batches and accounting."""
    status = commands.add_parser("status", help="streams, their chains and holes, and the pipelines over them")
    batches = commands.add_parser("batches", help="the batches of a pipeline and how far each is")
    accounting = commands.add_parser("accounting", help="where every offset of each batch went")
    for command, call, show in (
        (status, _status, _show_status),
        (batches, _batches, _show_batches),
        (accounting, _accounting, _show_accounting),
    ):
        add_stores(command)
        command.set_defaults(call=call, show=show)
    add_client(status)
    status.add_argument(
        "--forecast",
        action="store_true",
        help="ask Kafka when the oldest unlanded offset of each stream expires; without it only the ledger is read",
    )
    for command in (batches, accounting):
        command.add_argument("--pipeline", required=True, metavar="NAME", help="registered name of the pipeline")
        command.add_argument("--batch", metavar="ID", help="only this batch")


def _ledger(args: argparse.Namespace) -> Any:
    from airflow_provider_eventlog.core.engine import open_ledger_at

    where = stores(args)
    return open_ledger_at(where["home"], where["ledger_url"], keep=False)


def _status(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import reporting

    ledger = _ledger(args)
    try:
        document = reporting.status(ledger)
        forecasts = _forecasts(args, ledger) if args.forecast else {}
    finally:
        ledger.close()
    for stream in document["streams"]:
        stream["forecast"] = forecasts.get(stream["stream"])
    return document


def _forecasts(args: argparse.Namespace, ledger: Any) -> dict[str, dict[str, Any]]:
    """The retention forecast of each planned stream; where there is none, it says why."""
    from airflow_provider_eventlog.core.engine import now_ms
    from airflow_provider_eventlog.core.errors import EventLogError, SourceUnavailableError
    from airflow_provider_eventlog.core.forecast import Forecast, forecast, unknown
    from airflow_provider_eventlog.core.kafka.source import KafkaSource

    # A cluster that did not answer for one stream is not waited for once more.
    silent: dict[str, Forecast] = {}

    def of(stream: str, topic: str, conn_id: str) -> Forecast:
        servers = ""
        try:
            settings = client_settings(args, conn_id)
            servers = str(settings["bootstrap.servers"])
            if servers in silent:
                return silent[servers]
            with closing(KafkaSource(topic, settings, deadline_s=_FORECAST_S)) as source:
                source.describe()
                return forecast(ledger, source, stream, now_ms())
        except SourceUnavailableError as error:
            return silent.setdefault(servers, unknown(str(error)))
        except EventLogError as error:
            return unknown(str(error))

    found = {}
    for name, declaration in ledger.streams():
        if epochs := ledger.epochs(name):
            conn_id = json.loads(declaration)["kafka_conn_id"]
            found[name] = of(name, epochs[-1].identity.topic, conn_id).to_json()
    return found


def _chosen(args: argparse.Namespace, *, windows: bool = False) -> list[dict[str, Any]]:
    """The batches that are asked for; with `windows` what became of each in the windows of the pipeline too."""
    from airflow_provider_eventlog.core import reporting

    ledger = _ledger(args)
    try:
        declaration = registered(ledger, args.pipeline)
        found = reporting.batches(ledger, args.pipeline, args.batch)
        outputs = [o["windows"]["name"] for o in declaration["outputs"] if "windows" in o] if windows else []
        if outputs:
            folded = reporting.folded(ledger, args.pipeline, outputs, args.batch)
            for batch in found:
                batch["windows"] = {name: folded.get(batch["batch_id"], {}).get(name) for name in outputs}
    finally:
        ledger.close()
    if args.batch is not None and not found:
        raise UsageError(f"Pipeline {args.pipeline!r} has no batch {args.batch!r}.")
    return found


def _batches(args: argparse.Namespace) -> dict[str, Any]:
    return {"pipeline": args.pipeline, "batches": _chosen(args)}


def _accounting(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import reporting

    found = _chosen(args, windows=True)
    return {"pipeline": args.pipeline, "batches": found, "total": reporting.totals(found)}


def _show_status(document: dict[str, Any]) -> None:
    render.table(
        ["stream", "epoch", "topic", "batches", "offsets planned", "planned to", "holes", "lost"],
        [
            [
                *(s[k] for k in ("stream", "epoch", "topic", "batches", "offsets", "newest_cut")),
                len(s["holes"]),
                s["lost"],
            ]
            for s in document["streams"]
        ],
        title="streams",
    )
    for stream in document["streams"]:
        for hole in stream["holes"]:
            print(f"hole in {stream['stream']}: {hole['from']} to {hole['to']}, {hole['offsets']:,} offsets unplanned")
        for loss in stream["recorded_losses"]:
            print(f"loss in {stream['stream']}, recorded at {loss['at']}: {loss['why']}")
        if (forecast := stream["forecast"]) is not None:
            print(f"forecast for {stream['stream']}: {forecast['warning'] or forecast['text']}")
    render.table(
        ["pipeline", "stream", "recipe", *_STATES],
        [
            [p["pipeline"], p["stream"], p["recipe"][:12], *(p["batches"][s] for s in _STATES)]
            for p in document["pipelines"]
        ],
        title="pipelines",
    )


_STATES = ("planned", "held", "validated", "loaded", "not taken")


def _show_batches(document: dict[str, Any]) -> None:
    render.table(
        ["batch", "kind", "from", "to", "offsets", "ranges", "gen", "state"],
        [
            [
                b["batch_id"],
                b["kind"],
                b["from"],
                b["to"],
                b["offsets"],
                ",".join(b["ranges"][:6]),
                b["generation"],
                b["state"],
            ]
            for b in document["batches"]
        ],
    )


_FIGURES = (
    ("landing", "length"),
    ("landing", "landed"),
    ("landing", "invisible"),
    ("landing", "lost"),
    ("transform", "tombstones"),
    ("transform", "undecodable"),
    ("transform", "typed"),
    ("transform", "filtered"),
    ("transform", "exploded"),
    ("transform", "rejected"),
    ("transform", "passed"),
)


_FOLDED = ("rows", "placed", "late", "outside", "late_pairs", "corrected_late", "late_gone", "generation")


def _show_accounting(document: dict[str, Any]) -> None:
    def row(name: str, state: str, figures: Any) -> list[Any]:
        return [name, state, *((figures or {}).get(stage, {}).get(figure) for stage, figure in _FIGURES)]

    rows = [row(b["batch_id"], b["state"], b["accounting"]) for b in document["batches"]]
    rows.append(row("total", "", document["total"]))
    render.table(
        ["batch", "state", "offsets", *(figure for _, figure in _FIGURES[1:])], rows, title=document["pipeline"]
    )
    print(
        "offsets = landed + invisible + lost;  landed = typed + tombstones + undecodable;  "
        "passed = typed - filtered + exploded - rejected"
    )
    folded = [(b["batch_id"], name, f) for b in document["batches"] for name, f in b.get("windows", {}).items()]
    if folded:
        render.table(
            ["batch", "windows", *_FOLDED],
            [[batch, name, *((figures or {}).get(one) for one in _FOLDED)] for batch, name, figures in folded],
        )
        print("rows = placed + late + outside; late_pairs: with each window; a batch without figures is not folded yet")
