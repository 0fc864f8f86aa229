"""`airflow eventlog ...`: the same commands as `eventlog ...`, inside Airflow's command line.

Every `airflow` command imports this module, so what the commands need is imported when one is called.
"""

from __future__ import annotations

import argparse
import sys

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand


class _AllArguments(Arg):
    """Every argument that follows, options and `--help` among them."""

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        # A remainder begins at the first positional argument only; without a prefix character even `--help` is one.
        parser.prefix_chars = ""
        super().add_to_parser(parser)


def get_cli_commands() -> list[CLICommand]:
    """The commands that this provider adds to `airflow`."""
    text = "A command of eventlog, and its arguments"
    rest = _AllArguments(("arguments",), nargs=argparse.REMAINDER, help=text)  # type: ignore[no-untyped-call]
    return [
        ActionCommand(name="eventlog", help="Bounded, repeatable batches from Kafka topics", func=run, args=(rest,))
    ]


def run(args: argparse.Namespace) -> None:
    """Call `eventlog` with `args.arguments`; leaves with its exit code, by SystemExit."""
    from airflow.cli.utils import redirect_stdout_log_handlers_to_stderr

    from airflow_provider_eventlog.cli.main import main

    # Standard output is for the command's own document.
    redirect_stdout_log_handlers_to_stderr()
    sys.exit(main(args.arguments))
