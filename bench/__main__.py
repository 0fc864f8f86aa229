"""`python -m bench`: every figure, one after another; ends with 1 if one of them misses its bound."""

from __future__ import annotations

import subprocess
import sys

PARTS = ("bench.imports", "bench.small", "bench.land", "bench.plan", "bench.windows")


def main() -> int:
    """Run each part in a process of its own, so that none warms another's caches."""
    missed = []
    for part in PARTS:
        print(f"\n== {part}", flush=True)
        if subprocess.run([sys.executable, "-m", part], check=False).returncode:
            missed.append(part)
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nevery bound was kept")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
