"""Commands that look after what stands: fsck and gc."""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from typing import Any

from airflow_provider_eventlog.cli import render
from airflow_provider_eventlog.cli.common import (
    UsageError,
    add_client,
    add_stores,
    add_who,
    client_settings,
    load_pipeline,
    stores,
    who,
)
from airflow_provider_eventlog.cli.pipelines import interruptible

_SHOWN = 100


def register(commands: Any) -> None:
    """Add fsck and gc."""
    fsck = commands.add_parser(
        "fsck", help="prove that everything that was promised is there; say how to mend the rest"
    )
    fsck.add_argument(
        "--deep",
        action="store_true",
        help="recompute the digests of all rows too, and hold tables of windows against their change-sets",
    )
    fsck.add_argument("--repair", action="store_true", help="mend what is damaged and can be made again")
    fsck.add_argument(
        "--restore",
        metavar="BATCH",
        action="append",
        default=[],
        help="bring back a batch's files that retention let go; may be given several times",
    )
    fsck.add_argument("--dry-run", action="store_true", help="with --repair or --restore: only say what would be done")
    fsck.add_argument(
        "--pipeline",
        metavar="FILE.py:VARIABLE",
        action="append",
        default=[],
        help="where a pipeline is declared, to derive its parts again; may be given several times",
    )
    add_client(fsck)
    fsck.set_defaults(call=_fsck, show=_show_fsck, code=_fsck_code)
    gc = commands.add_parser("gc", help="remove what killed attempts left behind, and what retention lets go")
    gc.add_argument("--grace", metavar="DURATION", default="1 day", help="longer than any attempt runs; default: 1 day")
    gc.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    gc.set_defaults(call=_gc, show=_show_gc)
    for command in (fsck, gc):
        command.add_argument("--stream", metavar="NAME", action="append", help="only this stream; default: all")
        add_who(command)
        add_stores(command)


def _streams(args: argparse.Namespace) -> dict[str, str]:
    """Registered streams with their declarations: those that were named, or all."""
    from airflow_provider_eventlog.core.engine import open_ledger_at

    where = stores(args)
    ledger = open_ledger_at(where["home"], where["ledger_url"], keep=False)
    try:
        known = dict(ledger.streams())
    finally:
        ledger.close()
    for name in args.stream or ():
        if name not in known:
            raise UsageError(f"No stream {name!r} is registered; known are {', '.join(known) or 'none'}.")
    return {name: text for name, text in known.items() if not args.stream or name in args.stream}


def _open(args: argparse.Namespace, declaration: str, **more: Any) -> Any:
    """The engine of a registered stream; Kafka is reached only when something asks for it."""
    from airflow_provider_eventlog.core.engine import open_engine
    from airflow_provider_eventlog.core.fsck import stream_of

    stream = stream_of(declaration)

    def client() -> dict[str, Any]:
        return client_settings(args, stream.kafka_conn_id)

    return open_engine(stream, client=client, **stores(args), **more)


def _fsck(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core.fsck import fsck

    if args.dry_run and not (args.repair or args.restore):
        raise UsageError("--dry-run goes with --repair or --restore; looking alone changes nothing.")
    given = [load_pipeline(reference) for reference in args.pipeline]
    streams = _streams(args)
    homes = _homes(args, streams) if args.restore else {}
    cancel, done = threading.Event(), []
    for name, declaration in streams.items():
        with render.progress() as progress, interruptible(cancel):
            with _open(args, declaration, progress=progress, cancel=cancel) as engine:
                done.append(
                    fsck(
                        engine,
                        name,
                        deep=args.deep,
                        repair=args.repair,
                        dry_run=args.dry_run,
                        pipelines=[p for p in given if p.stream.name == name],
                        restore=[batch_id for batch_id in args.restore if homes[batch_id] == name],
                        who=who(args),
                    )
                )
    return {
        "streams": done,
        "damaged": sum(d["damaged"] for d in done),
        "failed": sum(d["failed"] for d in done),
        "mended": sum(d["mended"] for d in done),
    }


def _homes(args: argparse.Namespace, streams: dict[str, str]) -> dict[str, str]:
    """The streams of the batches to restore."""
    from airflow_provider_eventlog.core.engine import open_ledger_at

    where = stores(args)
    ledger = open_ledger_at(where["home"], where["ledger_url"], keep=False)
    try:
        found = {batch_id: ledger.batch(batch_id)[0].stream for batch_id in args.restore}
    except KeyError as missing:
        raise UsageError(f"--restore: no batch {missing.args[0]!r} is known.") from None
    finally:
        ledger.close()
    for batch_id, stream in found.items():
        if stream not in streams:
            raise UsageError(f"--restore: batch {batch_id} is of stream {stream!r}, which --stream leaves out.")
    return found


def _fsck_code(document: dict[str, Any]) -> int:
    return 1 if document["damaged"] or document["failed"] else 0


def _show_fsck(document: dict[str, Any]) -> None:
    if not document["streams"]:
        print("no stream is registered: nothing to look at")
    for stream in document["streams"]:
        print(f"stream {stream['stream']}: {_damage(stream)}")
        render.lines({**stream["checked"], "verified bytes": stream["bytes"]})
        for name, states in stream["states"].items():
            said = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
            print(f"pipeline {name}: {said or 'no batches'}")
        for finding in stream["findings"][:_SHOWN]:
            _show_finding(finding)
        if len(stream["findings"]) > _SHOWN:
            codes = Counter(finding["code"] for finding in stream["findings"][_SHOWN:])
            more = ", ".join(f"{count:,} {code}" for code, count in codes.items())
            print(f"and {len(stream['findings']) - _SHOWN:,} more ({more}); --output json has them all")


def _damage(stream: dict[str, Any]) -> str:
    if not stream["damaged"]:
        return f"sound, {stream['mended']} mended" if stream["mended"] else "sound"
    return f"{stream['damaged']:,} damaged, {stream['mended']:,} mended"


def _show_finding(finding: dict[str, Any]) -> None:
    mark = "mended" if finding["mended"] else "DAMAGED" if finding["damaged"] else "note"
    print(f"{mark}: {finding['code']}: {render.cell(finding['where'])}")
    for text in (finding["what"], None if finding["mended"] else finding["mend"], finding["result"]):
        if text:
            print(f"    {render.cell(text)}")


def _gc(args: argparse.Namespace) -> dict[str, Any]:
    from airflow_provider_eventlog.core import gc
    from airflow_provider_eventlog.declare.duration import milliseconds

    grace = milliseconds("--grace", args.grace)
    streams = _streams(args)
    if not streams:
        return {"dry_run": args.dry_run, "grace_ms": grace, "temporary": None, "streams": [], "aside": None}
    cancel = threading.Event()
    # One ledger has one staging root, whichever stream it is opened for.
    with interruptible(cancel), _open(args, next(iter(streams.values())), cancel=cancel) as engine:
        found = gc.collect(engine, streams=list(streams), grace_ms=grace, dry_run=args.dry_run, who=who(args))
    return {**found, "grace_ms": grace}


def _show_gc(document: dict[str, Any]) -> None:
    if not document["streams"]:
        print("no stream is registered: nothing to collect")
        return
    verb = "would remove" if document["dry_run"] else "removed"
    rows = [[verb, "temporary files", "-", *_pile(document["temporary"]), "-"]]
    for stream in document["streams"]:
        rows.append([verb, f"orphans of {stream['stream']}", "-", *_pile(stream["orphans"]), "-"])
        rows.append(_expired(verb, f"raw files of {stream['stream']}", stream["raw"]))
        rows += [_expired(verb, f"parts of {p['pipeline']}", p) for p in stream["parts"]]
    render.table(["", "what", "batches", "files", "bytes", "decision"], rows)
    for stream in document["streams"]:
        for path in stream["orphans"]["paths"]:
            print(f"{verb} {render.cell(path)}")
        for kind in (stream["raw"], *stream["parts"]):
            for reason, count in kind["kept"].items():
                print(f"kept {count:,} batches of {stream['stream']}: {reason}")
    if document["aside"]["files"]:
        print(f"kept {document['aside']['files']:,} files that repairs set aside: {document['aside']['bytes']:,} bytes")


def _pile(pile: dict[str, Any]) -> list[Any]:
    return [pile["files"], pile["bytes"]]


def _expired(verb: str, what: str, kind: dict[str, Any]) -> list[Any]:
    return [verb, what, kind["batches"], *_pile(kind), kind["decision"]]
