"""`eventlog kafka start|status|stop`: the embedded Kafka for demos and for users' own tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.core.home import home


def register(commands: Any) -> None:
    """Add the kafka group."""
    group = commands.add_parser("kafka", help="an embedded Kafka for demos and tests; not for production")
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = actions.add_parser("start", help="start brokers and leave them running")
    start.add_argument("--nodes", type=int, default=1, metavar="N", help="how many brokers (1 to 9)")
    start.add_argument("--port", type=int, metavar="PORT", help="port of the first broker; default: a free one")
    status = actions.add_parser("status", help="which brokers run, and where")
    stop = actions.add_parser("stop", help="stop the brokers that `start` started")
    for command, call, show in ((start, _start, _show), (status, _status, _show), (stop, _stop, render.lines)):
        command.add_argument("--data-dir", metavar="DIR", help="default: eventlog/kafka below AIRFLOW_HOME")
        command.set_defaults(call=call, show=show)


def _data_dir(args: argparse.Namespace) -> Path:
    return Path(args.data_dir).expanduser().absolute() if args.data_dir else home() / "eventlog" / "kafka"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _start(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.cli.common import UsageError
    from airflow_provider_eventlog.devkafka import cluster

    if not 1 <= args.nodes <= 9:
        raise UsageError(f"--nodes {args.nodes} must be between 1 and 9.")
    folder = _data_dir(args)
    cluster.start(args.nodes, data_dir=folder, port=args.port, log=_say)
    return cluster.status(folder).to_json()


def _status(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.devkafka import cluster

    return cluster.status(_data_dir(args)).to_json()


def _stop(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.devkafka import cluster

    return {"stopped": cluster.stop(_data_dir(args))}


def _show(document: dict[str, Any]) -> None:
    print(f"bootstrap servers: {document['bootstrap_servers'] or '-'}")
    render.table(
        ["node", "port", "pid", "alive", "answers"],
        [[n["id"], str(n["port"]), str(n["pid"]), n["alive"], n["answers"]] for n in document["nodes"]],
    )
