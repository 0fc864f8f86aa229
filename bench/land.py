"""`python -m bench.land`: landing against the plain tuned loop that a careful user would write.

One topic is filled once (JSON of about 130 bytes, zstd); then both ways read it to Parquet in turns, each time in a
fresh process that is measured as a whole: wall clock, user and system time, greatest resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.declare import DuckDB, Pipeline, Raw, Rows, Stream
from airflow_provider_eventlog.devkafka import cluster

PARTITIONS = 4
COUNTRIES = ("DE", "FR", "US", "JP", "BR", "IN", "ZA", "AU")


def main() -> None:
    """Measure and print; exits 1 where a ratio is under its bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.land", description=__doc__)
    parser.add_argument("--messages", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--bootstrap-servers", help="a running broker; default: an embedded one")
    parser.add_argument("--topic", help="a filled topic to read; default: one is filled")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        WAYS[args.way](args.bootstrap_servers, args.topic, args.folder)
        return
    with contextlib.ExitStack() as stack:
        servers = args.bootstrap_servers or stack.enter_context(_broker())
        topic = args.topic or _fill(servers, args.messages)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-land-")))
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for turn in range(args.rounds):
            # Whoever goes first finds colder caches, so they take turns at it.
            for way in list(WAYS)[:: 1 if turn % 2 == 0 else -1]:
                runs[way].append(_measured(way, servers, topic, folder / f"{way}-{turn}"))
    sys.exit(0 if _report(runs) else 1)


def _report(runs: dict[str, list[dict[str, float]]]) -> bool:
    best: dict[str, dict[str, float]] = {}
    print(f"{'way':10} {'messages':>10} {'wall s':>8} {'cpu s':>8} {'per cpu-s':>10} {'peak MiB':>9}")
    for way, turns in runs.items():
        middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        middle["peak"] = max(turn["peak"] for turn in turns)
        best[way] = middle
        rate = middle["messages"] / middle["cpu"]
        print(
            f"{way:10} {middle['messages']:10,.0f} {middle['wall']:8.2f} {middle['cpu']:8.2f} {rate:10,.0f} "
            f"{middle['peak']:9.0f}"
        )
    cpu, wall = (best["plain"][key] / best["eventlog"][key] for key in ("cpu", "wall"))
    peak = best["eventlog"]["peak"]
    print(f"eventlog against plain: {cpu:.2f} messages per CPU-second, {wall:.2f} wall speed; at least 0.90 each")
    print(f"peak memory of eventlog: {peak:.0f} MiB; under 400")
    return cpu >= 0.9 and wall >= 0.9 and peak < 400


def _measured(way: str, servers: str, topic: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.land", "--way", way, "--bootstrap-servers", servers, "--topic", topic]
    folder.mkdir()
    _plan(servers, topic, folder)
    began = time.perf_counter()
    done = subprocess.run([*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    wall = time.perf_counter() - began
    found = json.loads(done.stdout)
    return {"wall": wall, **found}


def _say(messages: int) -> None:
    """Hand what this process took to the one that measures."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Not ru_maxrss, which a process inherits from the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"messages": messages, "cpu": cpu, "peak": int(peak.split()[1]) / 1024}))


def plain(servers: str, topic: str, folder: Path) -> None:
    """What a careful user writes: offsets assigned, errors looked at, columns, all partitions at once, one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "plain",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 10,
        }
    )
    partitions = sorted(consumer.list_topics(topic).topics[topic].partitions)
    bounds = {p: consumer.get_watermark_offsets(TopicPartition(topic, p)) for p in partitions}
    consumer.assign([TopicPartition(topic, p, start) for p, (start, _) in bounds.items()])
    left = total = sum(end - start for start, end in bounds.values())
    writer = None
    while left > 0:
        messages = consumer.consume(min(10_000, left), 1.0)
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
        if not messages:
            continue
        table = pa.table(
            {
                "partition": pa.array([m.partition() for m in messages], pa.int32()),
                "offset": pa.array([m.offset() for m in messages], pa.int64()),
                "timestamp": pa.array([m.timestamp()[1] for m in messages], pa.timestamp("ms")),
                "key": pa.array([m.key() for m in messages], pa.binary()),
                "value": pa.array([m.value() for m in messages], pa.binary()),
            }
        )
        if writer is None:
            writer = pq.ParquetWriter(folder / "plain.parquet", table.schema, compression="zstd", compression_level=1)
        writer.write_table(table)
        left -= len(messages)
    if writer is not None:
        writer.close()
    consumer.close()
    _say(total)


def _pipeline(topic: str) -> Pipeline:
    outputs = [Rows(DuckDB("bench.duckdb", table="bench"))]
    return Pipeline("bench", stream=Stream(topic, start="earliest"), decode=Raw(), outputs=outputs)


def _plan(servers: str, topic: str, folder: Path) -> None:
    """Plan the run in a home of its own: in Airflow it is a task, and a process, of its own."""
    from airflow_provider_eventlog.core import stages
    from airflow_provider_eventlog.core.engine import open_engine
    from airflow_provider_eventlog.core.requests import RunRequest

    pipeline = _pipeline(topic)
    with open_engine(pipeline.stream, client={"bootstrap.servers": servers}, home=folder) as engine:
        stages.plan(engine, pipeline, RunRequest("since_last", parallelism=1), "bench")


def eventlog(servers: str, topic: str, folder: Path) -> None:
    """The stage `land` of a planned run, at its default settings: ledger, checksums, digests and syncs included."""
    from airflow_provider_eventlog.core import stages
    from airflow_provider_eventlog.core.engine import open_engine

    pipeline = _pipeline(topic)
    with open_engine(pipeline.stream, client={"bootstrap.servers": servers}, home=folder) as engine:
        _say(stages.land(engine, pipeline, "bench", 0)["accounting"]["landed"])


WAYS: dict[str, Any] = {"plain": plain, "eventlog": eventlog}


def _fill(servers: str, messages: int) -> str:
    """A new topic of `messages` records; returns its name."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result()
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "compression.type": "zstd",
            "linger.ms": 50,
            "batch.num.messages": 20_000,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    rng, began = random.Random(7), 1_700_000_000_000
    for index in range(messages):
        value = (
            f'{{"id":{index},"user":"user-{rng.randrange(100_000):06d}","country":"{COUNTRIES[index % 8]}",'
            f'"amount":{rng.random() * 1000:.2f},"ts":"2026-01-{index % 28 + 1:02d}T00:00:00Z",'
            f'"note":"{rng.getrandbits(64):x}"}}'
        )
        while True:
            try:
                producer.produce(topic, value, partition=index % PARTITIONS, timestamp=began + index)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise SystemExit("the topic could not be filled within two minutes")
    return topic


@contextlib.contextmanager
def _broker() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder, cluster.start(1, data_dir=Path(folder)) as kafka:
        yield kafka.bootstrap_servers


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "default")
    main()
