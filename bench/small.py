"""`python -m bench.small`: the stage work of a batch of 100 messages, from plan to loaded, imports included."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MESSAGES = 100
ROUNDS = 5
BOUND_S = 1.0
# The clock starts with the interpreter's first line, so that every import of ours is in the figure.
_PROGRAM = """
import time
began = time.perf_counter()
import sys
from pathlib import Path
from airflow_provider_eventlog.declare import Check, DuckDB, Json, Pipeline, Rows, Stream
fields = {"id": "BIGINT", "amount": "DECIMAL(12,2)", "country": "VARCHAR", "ts": "TIMESTAMPTZ"}
pipeline = Pipeline("small", stream=Stream(sys.argv[2], start="earliest", decode=Json(fields), event_time="ts"),
                    transform="select id, amount, country, ts from batch where amount is not null",
                    checks=[Check("amount_not_negative", "amount >= 0")],
                    outputs=[Rows(DuckDB("small.duckdb", table="small"))])
marks = {"declare": time.perf_counter()}
from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.engine import open_engine
from airflow_provider_eventlog.core.requests import RunRequest
with open_engine(pipeline.stream, client={"bootstrap.servers": sys.argv[1]}, home=Path(sys.argv[3])) as engine:
    marks["open"] = time.perf_counter()
    stages.plan(engine, pipeline, RunRequest("since_last", parallelism=1), "r")
    marks["plan"] = time.perf_counter()
    stages.land(engine, pipeline, "r", 0)
    marks["land"] = time.perf_counter()
    stages.transform(engine, pipeline, "r", 0)
    marks["transform"] = time.perf_counter()
    stages.validate(engine, pipeline, "r")
    marks["validate"] = time.perf_counter()
    report = stages.load(engine, pipeline, "r")
    marks["load"] = time.perf_counter()
assert report["batches"][0]["outputs"]["small"]["rows"] == 100, report
previous, steps = began, {}
for name, mark in marks.items():
    steps[name], previous = mark - previous, mark
import json
print(json.dumps({"total": previous - began, **steps}))
"""


def main() -> int:
    """Print medians over fresh processes, each with a ledger, staging root and target of its own."""
    from airflow_provider_eventlog.core.kafka.admin import TopicAdmin
    from airflow_provider_eventlog.core.kafka.producer import Record, produce
    from airflow_provider_eventlog.devkafka import cluster

    with tempfile.TemporaryDirectory(prefix="bench-small-") as folder:
        # Bytecode is written once and kept, as an installed package has it.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        with cluster.start(1, data_dir=Path(folder) / "kafka") as kafka:
            settings = {"bootstrap.servers": kafka.bootstrap_servers}
            TopicAdmin(settings).create("small")
            value = json.dumps({"id": 1, "amount": 2.5, "country": "DE", "ts": "2026-01-01T00:00:00Z"}).encode()
            produce("small", [Record(value, b"k") for _ in range(MESSAGES)], settings)
            runs = []
            for turn in range(ROUNDS + 1):
                words = [sys.executable, "-c", _PROGRAM, kafka.bootstrap_servers, "small", f"{folder}/{turn}"]
                done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
                runs.append(json.loads(done.stdout))
    del runs[0]  # it compiled the bytecode
    print(f"{MESSAGES} messages, median of {ROUNDS} fresh processes, seconds of wall time:")
    for step in runs[0]:
        print(f"  {step:10} {statistics.median(run[step] for run in runs):6.3f}")
    total = statistics.median(run["total"] for run in runs)
    print(f"  bound      {BOUND_S:6.3f}")
    return 0 if total < BOUND_S else 1


if __name__ == "__main__":
    sys.exit(main())
