"""`eventlog adopt`: go on with another topic than the one that a stream was pinned to."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import (
    add_client,
    add_decision,
    add_pipeline,
    add_stores,
    instant,
    load_pipeline,
    who,
)
from airflow_provider_eventlog.cli.pipelines import engine_of
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.declare import FromGroup

_WARNING = (
    "Offsets of two topics cannot be compared: if the new topic repeats events of the old one, as a restored or "
    "mirrored topic may, they are read again from the start that you named. Choose it with care."
)


def register(commands: Any) -> None:
    """Add adopt."""
    command = commands.add_parser("adopt", help="go on with the topic that is there now, as the stream's next epoch")
    add_pipeline(command)
    command.add_argument(
        "--start",
        required=True,
        metavar="WHERE",
        help="earliest, latest, an ISO time, offsets as PARTITION:OFFSET[,...], or group:NAME",
    )
    add_decision(command)
    command.add_argument("--dry-run", action="store_true", help="print what would be adopted; changes nothing")
    add_client(command)
    add_stores(command)
    command.set_defaults(call=_adopt, show=_show)


def _adopt(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.adopting import adopt

    start, pipeline = start_of(args.start), load_pipeline(args.pipeline)
    with engine_of(args, pipeline, keep=not args.dry_run) as engine:
        return adopt(engine, pipeline.stream, start, who=who(args), why=args.why, keep=not args.dry_run)


def start_of(text: str) -> str | datetime | dict[int, int] | FromGroup:
    """Read --start; raises RequestError that quotes it."""
    text = text.strip()
    if text in ("earliest", "latest"):
        return text
    if text.startswith("group:") and text != "group:":
        return FromGroup(text.removeprefix("group:"))
    pairs = [part.split(":") for part in text.split(",")]
    if all(len(pair) == 2 and all(word.isascii() and word.isdigit() for word in pair) for pair in pairs):
        found = {int(partition): int(offset) for partition, offset in pairs}
        if len(found) < len(pairs):
            raise RequestError(f"--start {printable(text, 80)} names a partition twice.")
        return found
    try:
        return datetime.fromtimestamp(instant(text) / 1000, UTC)
    except (RequestError, OverflowError, ValueError):
        raise RequestError(
            f"--start {printable(text, 80)} is not understood: earliest, latest, an ISO time, PARTITION:OFFSET[,...] "
            f"or group:NAME."
        ) from None


def _show(document: dict[str, Any]) -> None:
    def said(topic: dict[str, Any]) -> str:
        return f"{topic['topic']} (topic id {topic['topic_id'] or 'unknown'}, cluster {topic['cluster_id']})"

    render.lines(
        {
            "stream": document["stream"],
            "epoch": f"{document['epoch']}{'' if document['kept'] else ' (dry run: nothing was changed)'}",
            "until now": said(document["before"]),
            "from now on": said(document["topic"]),
        }
    )
    offsets = document["origin"]["offsets"]
    render.table(["partition", "begins at", "found by"], offsets[:50])
    if len(offsets) > 50:
        print(f"and {len(offsets) - 50} more partitions")
    print(f"note: {_WARNING}")
