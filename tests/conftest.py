"""What all tests share: how property tests run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Tests assert causes, never seconds: how long an example takes says more about the machine than about the code.
settings.register_profile("eventlog", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("eventlog")
