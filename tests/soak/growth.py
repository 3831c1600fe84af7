"""Does a row of measurements grow? Pure: a line through it, and how far it rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: What a process takes while it warms up is no growth: the first part of a soak is not looked at.
WARM_UP = 1 / 3

#: What a line may rise over the rest, however short: buffers, and where malloc puts things.
MAY_RISE_MB = 6.0
MAY_RISE_DESCRIPTORS = 6.0


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one figure of one process, after the warm-up."""

    first: float
    last: float
    most: float
    per_hour: float
    rise: float
    """Of the line, over what was looked at."""


def growth(times_s: Sequence[float], values: Sequence[float]) -> Growth:
    """Least squares through what comes after the warm-up; at least two moments."""
    begin = int(len(times_s) * WARM_UP)
    times, kept = times_s[begin:], values[begin:]
    middle_s, mean = sum(times) / len(times), sum(kept) / len(kept)
    spread = sum((at - middle_s) ** 2 for at in times)
    along = sum((at - middle_s) * (v - mean) for at, v in zip(times, kept, strict=True))
    slope = along / spread if spread else 0.0
    return Growth(kept[0], kept[-1], max(kept), 3600 * slope, slope * (times[-1] - times[0]))
