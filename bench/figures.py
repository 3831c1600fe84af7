"""The arithmetic of figures, and the names they go by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """The measured stretch of time, in seconds of the clock that all processes here share."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def share_of(self, start: float, end: float) -> float:
        """How much of the stretch from ``start`` to ``end`` lies within, 0 to 1.

        Work that lies across an edge counts by this share: a window may hold but a few pushes.
        """
        if end <= start:
            return float(self.start <= start < self.end)
        return max(0.0, min(end, self.end) - max(start, self.start)) / (end - start)


@dataclass(frozen=True)
class EchoFigures:
    """What ps-echo came to, in gradmq or in a peer."""

    grads_per_s: float
    gb_per_s: float
    """Gradient bytes applied, of all workers; 1 GB is 1e9 bytes."""
    p50_ms: float
    p99_ms: float
    """From handing over a gradient to holding parameters that include it."""
    server_cpu_s_per_gb: float
    total_cpu_s_per_gb: float
    """User and system, in the measured window; the server alone, and every process."""
    server_rss_mb: float
    """Largest resident size that the server's processes had, summed."""
    correct: bool
    """At the end every parameter equals the closed form, bit for bit."""
    start_s: float
    join_s: float
    """Until the server is ready; then until all workers, already running, have joined."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of all are not above; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(value: float, limit: float) -> float:
    """``value`` as a part of ``limit``; NaN where there is no limit."""
    return value / limit if limit else math.nan
