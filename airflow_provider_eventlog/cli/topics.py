"""Commands that talk to Kafka directly: topics, produce, read, consume."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import UsageError, add_client, clean, client_settings
from airflow_provider_eventlog.core.naming import printable

# What `read` and `consume` print at most unless told otherwise: a topic may hold billions.
_LIMIT = 20


def register(commands: Any) -> None:
    """Add topics, produce, read and consume."""
    topics = commands.add_parser("topics", help="create, list, delete topics").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    create = topics.add_parser("create", help="create a topic")
    create.add_argument("topic")
    create.add_argument("--partitions", type=int, default=1, metavar="N")
    create.add_argument("--replication", type=int, default=-1, metavar="N", help="default: the cluster's")
    create.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="a topic setting")
    listing = topics.add_parser("list", help="topics with where their partitions start and end")
    delete = topics.add_parser("delete", help="delete a topic and all that is in it")
    delete.add_argument("topic")
    produce = commands.add_parser("produce", help="send records, one a line: VALUE, or KEY<tab>VALUE")
    produce.add_argument("topic")
    produce.add_argument("--mode", choices=("sync", "async", "fire-and-forget"), default="sync", help="how to wait")
    produce.add_argument("--value", action="append", metavar="TEXT", help="a record; may be given several times")
    produce.add_argument("--file", metavar="FILE", help="lines of a file, or - for standard input")
    read = commands.add_parser("read", help="read records from the beginning or from an offset; commits nothing")
    read.add_argument("topic")
    read.add_argument("--offsets", metavar="P:START-END[,...]", help="exact ranges; default: the whole log")
    read.add_argument("--from", dest="start", metavar="P:OFFSET", help="one partition from an offset to its end")
    consume = commands.add_parser("consume", help="read as a member of a consumer group")
    consume.add_argument("topic")
    consume.add_argument("--group", required=True, metavar="NAME")
    consume.add_argument("--idle", type=float, default=5.0, metavar="SECONDS", help="end after so long a silence")
    for command in (read, consume):
        command.add_argument(
            "--limit", type=int, default=_LIMIT, metavar="N", help=f"at most N records; default {_LIMIT}"
        )
    for command, call, show in (
        (create, _create, render.lines),
        (listing, _list, _show_list),
        (delete, _delete, render.lines),
        (produce, _produce, _show_produced),
        (read, _read, _show_records),
        (consume, _consume, _show_records),
    ):
        add_client(command)
        command.set_defaults(call=call, show=show)


def _admin(args: argparse.Namespace) -> Any:
    from airflow_provider_eventlog.core.kafka.admin import TopicAdmin

    return TopicAdmin(client_settings(args, "kafka_default"))


def _create(args: argparse.Namespace) -> dict[str, Any]:
    config = {}
    for pair in args.set:
        key, separator, value = pair.partition("=")
        if not separator:
            raise UsageError(f"--set {printable(pair, 40)} is not KEY=VALUE.")
        config[key] = value
    _admin(args).create(args.topic, args.partitions, args.replication, config)
    return {"created": args.topic, "partitions": args.partitions}


def _list(args: argparse.Namespace) -> dict[str, Any]:
    admin = _admin(args)
    return {
        "topics": [
            {
                "topic": name,
                "partitions": [
                    {"partition": p, "start": low, "end": high} for p, (low, high) in admin.watermarks(name).items()
                ],
            }
            for name in admin.names()
        ]
    }


def _delete(args: argparse.Namespace) -> dict[str, Any]:
    _admin(args).delete(args.topic)
    return {"deleted": args.topic}


def _records(args: argparse.Namespace) -> Iterator[Any]:
    from airflow_provider_eventlog.core.kafka.producer import Record

    if args.value:
        lines: Any = args.value
    elif args.file and args.file != "-":
        lines = Path(args.file).read_text().splitlines()
    else:
        lines = (line.rstrip("\n") for line in sys.stdin)
    for line in lines:
        key, tab, value = line.partition("\t")
        yield Record(value.encode(), key.encode()) if tab else Record(line.encode())


def _produce(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.kafka.producer import produce

    if args.value and args.file:
        raise UsageError("Give --value or --file, not both.")
    if args.file and args.file != "-" and not Path(args.file).is_file():
        raise UsageError(f"There is no file {printable(args.file)}.")
    settings = client_settings(args, "kafka_default")
    sent = produce(args.topic, _records(args), settings, mode=args.mode.replace("-", "_"))
    receipts = [{"partition": r.partition, "offset": r.offset, "timestamp": r.timestamp} for r in sent.receipts]
    return {"topic": args.topic, "mode": args.mode, "sent": sent.sent, "failed": sent.failed, "receipts": receipts}


def _read(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.kafka.source import KafkaSource
    from airflow_provider_eventlog.core.offsets import parse_ranges

    if args.offsets and args.start:
        raise UsageError("Give --offsets or --from, not both.")
    source = KafkaSource(args.topic, client_settings(args, "kafka_default"))
    try:
        ranges = parse_ranges(args.offsets) if args.offsets else _to_the_end(args, source)
        records: list[dict[str, Any]] = []
        for wanted in ranges:
            for batch in source.read(wanted):
                records += [clean(row) for row in batch.to_pylist()]
                if len(records) >= args.limit:
                    break
            if len(records) >= args.limit:
                break
    finally:
        source.close()
    return {"topic": args.topic, "ranges": [str(r) for r in ranges], "records": records[: args.limit]}


def _to_the_end(args: argparse.Namespace, source: Any) -> Any:
    from airflow_provider_eventlog.core.errors import OffsetRangeError
    from airflow_provider_eventlog.core.offsets import OffsetRange

    starts, ends = source.log_starts(), source.log_ends()
    if not args.start:
        return tuple(OffsetRange(p, starts[p], ends[p]) for p in sorted(ends))
    partition, _, offset = args.start.partition(":")
    if not partition.isdecimal() or not offset.isdecimal():
        raise UsageError(f"--from {printable(args.start, 40)} is not PARTITION:OFFSET.")
    if int(partition) not in ends:
        raise OffsetRangeError(f"Topic {args.topic!r} has {len(ends)} partitions, not one numbered {partition}.")
    if int(offset) > ends[int(partition)]:
        raise OffsetRangeError(f"Partition {partition} of topic {args.topic!r} ends at {ends[int(partition)]}.")
    return (OffsetRange(int(partition), int(offset), ends[int(partition)]),)


def _consume(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.kafka.groups import consume

    assigned: list[list[int]] = []
    records = []
    settings = client_settings(args, "kafka_default")
    for message in consume(
        args.topic, args.group, settings, idle_s=args.idle, limit=args.limit, on_assign=assigned.append
    ):
        kind, stamp = message.timestamp()
        records.append(
            {
                "partition": message.partition(),
                "offset": message.offset(),
                "timestamp": stamp if kind else None,
                "key": clean(message.key()),
                "value": clean(message.value()),
            }
        )
    return {"topic": args.topic, "group": args.group, "assigned": assigned, "records": records}


def _show_list(document: dict[str, Any]) -> None:
    rows = [
        [t["topic"], p["partition"], p["start"], p["end"], p["end"] - p["start"]]
        for t in document["topics"]
        for p in t["partitions"]
    ]
    render.table(["topic", "partition", "start", "end", "offsets"], rows)


def _show_produced(document: dict[str, Any]) -> None:
    print(f"{document['sent']:,} sent to {document['topic']} ({document['mode']}), {document['failed']:,} failed")
    if document["receipts"]:
        rows = [[r["partition"], r["offset"], str(r["timestamp"])] for r in document["receipts"]]
        render.table(["partition", "offset", "timestamp"], rows[:_LIMIT])


def _show_records(document: dict[str, Any]) -> None:
    if "group" in document:
        print(f"member of {document['group']}, partitions {document['assigned'] or 'none'}")
    rows = [
        [r["partition"], r["offset"], str(r["timestamp"]), r["key"], _short(r["value"])] for r in document["records"]
    ]
    render.table(["partition", "offset", "timestamp", "key", "value"], rows)


def _short(value: Any) -> Any:
    return value[:120] + "..." if isinstance(value, str) and len(value) > 120 else value
