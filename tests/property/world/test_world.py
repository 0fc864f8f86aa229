"""A simulated world under random rules: whatever happens in whatever order, every promise holds after every step."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import run_state_machine_as_test

from tests.property.world.attempts import FAULTS
from tests.property.world.machine import COUNTS, SimulatedWorld

EXAMPLES = int(os.environ.get("EVENTLOG_WORLD_EXAMPLES", "4"))
STEPS = int(os.environ.get("EVENTLOG_WORLD_STEPS", "25"))
# What has to have happened beside the faults of attempts; a run in which one of them did not proves less than it says.
HAPPENINGS = (
    "expired before it was landed",
    "ledger lost",
    "partition added",
    "rotten file refused",
    "topic created again",
    "transaction aborted",
    "two attempts at once",
    "zombie woken",
)
# A long search shrinks when it is told to; what it found is kept whole either way.
PHASES = [Phase.reuse, Phase.generate, *([] if "EVENTLOG_WORLD_RAW" in os.environ else [Phase.shrink])]
# Failing examples are kept here and tried first the next time.
KEPT = Path(__file__).parents[3] / ".hypothesis" / "world"


def the_seed() -> int:
    """The same for everybody, unless another one is named or a random one is asked for."""
    if "EVENTLOG_WORLD_SEED" in os.environ:
        return int(os.environ["EVENTLOG_WORLD_SEED"])
    return random.SystemRandom().randrange(2**32) if "EVENTLOG_RANDOM" in os.environ else 0


@pytest.mark.timeout(120 + 20 * EXAMPLES)
def test_promises_in_a_simulated_world(shared_sessions: None) -> None:
    """Safety after every step, and liveness at the end of every world; and every fault was really injected."""
    COUNTS.clear()
    number = the_seed()
    print(f"world: EVENTLOG_WORLD_SEED={number} EVENTLOG_WORLD_EXAMPLES={EXAMPLES} EVENTLOG_WORLD_STEPS={STEPS}")
    first = SimulatedWorld()
    try:
        first.everything_once()
    finally:
        first.teardown()
    run_state_machine_as_test(
        seed(number)(SimulatedWorld),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=False,
            database=DirectoryBasedExampleDatabase(KEPT),
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
        ),
    )
    print({name: COUNTS[name] for name in sorted(COUNTS)})
    missing = [name for name in (*FAULTS, *HAPPENINGS) if not COUNTS[name]]
    assert missing == [], "these faults were never injected: run more examples"
