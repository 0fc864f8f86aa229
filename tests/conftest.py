"""What all tests share: how property tests run."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Tests assert causes, never seconds: how long an example takes says more about the machine than about the code.
# Every run draws the same examples, so that what passes here passes anywhere; EVENTLOG_RANDOM=1 looks for new ones.
settings.register_profile(
    "eventlog",
    deadline=None,
    derandomize="EVENTLOG_RANDOM" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("eventlog")
