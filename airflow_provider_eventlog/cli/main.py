"""`eventlog`: parse, call, show, and end with 0 (done), 1 (a stated failure) or 2 (wrong usage)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from airflow_provider_eventlog.cli import (
    adopt,
    backfill,
    completeness,
    diff,
    kafka,
    ledger,
    maintenance,
    pipelines,
    quarantine,
    rebuild,
    redrive,
    report,
    state,
    topics,
    windows,
)
from airflow_provider_eventlog.cli.common import UsageError
from airflow_provider_eventlog.cli.render import as_json
from airflow_provider_eventlog.core.errors import EventLogError, OffsetRangeError, RequestError
from airflow_provider_eventlog.devkafka.errors import DevKafkaError

DONE, FAILED, USAGE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="eventlog", description="Bounded, repeatable batches from Kafka topics.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    work = (pipelines, backfill, adopt, quarantine, redrive, diff, report, completeness)
    for room in (*work, maintenance, rebuild, ledger, windows, state, topics, kafka):
        room.register(commands)
    for command in _leaves(top):
        if any(action.dest == "output" for action in command._actions):
            continue
        command.add_argument("--output", choices=("text", "json"), default="text", help="json: one document on stdout")
    return top


def _leaves(top: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    children = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    if not children:
        return [top]
    return [leaf for action in children for child in action.choices.values() for leaf in _leaves(child)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, and never raises for a failure that has a name."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        document = args.call(args)
        if args.output == "json":
            as_json(document)
        else:
            args.show(document)
    except (UsageError, EventLogError, DevKafkaError) as error:
        return _failed(args, error)
    except KeyboardInterrupt:
        print("interrupted; what was published stays, the same command goes on from there", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader of our output has gone; without this Python complains once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    # A command whose document tells of failures says so itself.
    return int(args.code(document)) if "code" in args else DONE


def _failed(args: argparse.Namespace, error: Exception) -> int:
    usage = isinstance(error, UsageError) or (
        isinstance(error, RequestError) and not isinstance(error, OffsetRangeError)
    )
    if args.output == "json":
        retriable = isinstance(error, EventLogError) and error.retriable
        detail: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "retriable": retriable}
        as_json({"error": detail})
    print(f"eventlog: {type(error).__name__}: {error}", file=sys.stderr)
    return USAGE if usage else FAILED


if __name__ == "__main__":
    sys.exit(main())
