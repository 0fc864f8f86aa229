"""`python -m bench.imports`: what the package's public names cost a DAG file over Airflow's own import."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

ROUNDS = 7
BOUND_MS = 50.0
_PROGRAM = """
import json, sys, time
from airflow.sdk import DAG, CronDataIntervalTimetable, task
airflows = set(sys.modules)
before = time.perf_counter()
import airflow_provider_eventlog as package
for name in package.__all__:
    getattr(package, name)
after = time.perf_counter()
ours = set(sys.modules) - airflows
heavy = sorted(ours & {"pyarrow", "duckdb", "pandas", "confluent_kafka", "sqlalchemy", "numpy"})
print(json.dumps([(after - before) * 1000, heavy]))
"""


def main() -> int:
    """Print the median over fresh processes; 1 if it is over the bound."""
    costs, heavy = [], set[str]()
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
        cost, loaded = json.loads(done.stdout.splitlines()[-1])
        costs.append(cost)
        heavy |= set(loaded)
    middle = statistics.median(costs)
    print(f"all public names over `import airflow.sdk`: median {middle:.1f} ms of {ROUNDS} (bound {BOUND_MS:g} ms)")
    print(f"heavy modules loaded by them: {', '.join(sorted(heavy)) or 'none'}")
    return 0 if middle < BOUND_MS else 1


if __name__ == "__main__":
    sys.exit(main())
