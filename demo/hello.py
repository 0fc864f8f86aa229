"""The hello test, with the product's own commands: topics, producing, reading, a consumer group."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from demo.show import say

_TOPIC = "hello"
_EVENTLOG = [sys.executable, "-m", "airflow_provider_eventlog.cli.main"]


def eventlog(*words: str, stdin: str | None = None) -> Any:
    """Run one command and return its JSON document; a failure ends the demo with what it said."""
    say("    $ eventlog " + " ".join(words))
    done = subprocess.run(
        [*_EVENTLOG, *words, "--output", "json"], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"eventlog {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def hello(servers: str) -> None:
    """Go through the whole test; raises where anything is not as it must be."""
    kafka = ("--bootstrap-servers", servers)
    eventlog("topics", "create", _TOPIC, "--partitions", "4", "--replication", "3", *kafka)
    names = [t["topic"] for t in eventlog("topics", "list", *kafka)["topics"]]
    _must(_TOPIC in names, f"the topic is listed: {names}")
    _produce(kafka)
    everything = eventlog("read", _TOPIC, "--limit", "100", *kafka)["records"]
    _must(len(everything) == 12, f"read from the beginning: {len(everything)} records")
    last = everything[-1]
    rest = eventlog("read", _TOPIC, "--from", f"{last['partition']}:{last['offset']}", *kafka)["records"]
    _must(rest[0]["offset"] == last["offset"], f"read from offset {last['offset']} of partition {last['partition']}")
    _group(kafka)


def _produce(kafka: tuple[str, ...]) -> None:
    for mode in ("fire-and-forget", "sync", "async"):
        lines = "".join(f"{mode}-{i}\thello {i}, {mode}\n" for i in range(4))
        sent = eventlog("produce", _TOPIC, "--mode", mode, *kafka, stdin=lines)
        _must(sent["sent"] == 4 and sent["failed"] == 0, f"{mode}: 4 sent, 0 failed")
        if mode != "fire-and-forget":
            where = ", ".join(f"{r['partition']}:{r['offset']}" for r in sent["receipts"])
            _must(len(sent["receipts"]) == 4, f"a receipt for each, at {where}")


def _group(kafka: tuple[str, ...]) -> None:
    """Two members, started together, share the partitions and between them read every record."""
    words = [*_EVENTLOG, "consume", _TOPIC, "--group", "hello", "--idle", "4", *kafka, "--output", "json"]
    say("    $ eventlog consume hello --group hello      (two members at once)")
    members = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(member.communicate(timeout=120)[0]) for member in members]
    # Whoever comes first has all partitions until the other joins, and again when the other has left.
    histories = [answer["assigned"] for answer in answers]
    shared = [(a, b) for a in histories[0] for b in histories[1] if a and b and sorted(a + b) == [0, 1, 2, 3]]
    _must(
        bool(shared), f"the members share the partitions: {' and '.join(map(str, shared[0] if shared else histories))}"
    )
    read = {(r["partition"], r["offset"]) for answer in answers for r in answer["records"]}
    _must(len(read) == 12, f"between them they read {len(read)} records")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"The hello test failed: {what}")
    say(f"      {what}")
