"""How hypothesis runs in the tests of the pure objects."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples every time, however slow the machine is.
settings.register_profile(
    "gradmq", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gradmq")
