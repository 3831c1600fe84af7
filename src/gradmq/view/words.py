"""How numbers, durations and foreign text are written on a terminal, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gradmq.view.figures import Wait

#: Where there is no value yet.
NONE = "–"


def count(value: int) -> str:
    """A whole number, at most 9 characters up to a hundred thousand million."""
    return f"{value:,}" if abs(value) < 10_000_000 else f"{value / 1e6:,.1f} M"


def rate(per_s: float | None) -> str:
    """Something per second."""
    if per_s is None or not math.isfinite(per_s):
        return NONE
    if per_s >= 10_000_000:
        return count(round(per_s))
    if per_s >= 100:
        return f"{per_s:,.0f}"
    return f"{per_s:.1f}" if per_s >= 1 or per_s == 0 else f"{per_s:.2f}"


def reading(value: float | None) -> str:
    """A loss or a metric, with four figures; digits keep their places while it changes."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size and not 1e-3 <= size < 1e5:
        return f"{value:.1e}"
    return f"{value:,.{3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def percent(share: float) -> str:
    """A share of one; what is there but below half a percent is not called nothing."""
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """How long, to two units at most."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def reasons(counts: Mapping[str, int]) -> str:
    """Counts by reason, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count(n)} {printable(reason)}" for reason, n in ordered if n)


def median(counts: Mapping[int, int]) -> int:
    """The lower median of values given with how often each was counted; 0 of none."""
    half, seen = (sum(counts.values()) + 1) // 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    return 0


def waiting(wait: Wait, now: float) -> str:
    """A wait in words, how long first: what follows may be cut."""
    lasted = duration(now - wait.since)
    match wait.kind:
        case "absent":
            return f"not there yet, for {lasted}"
        case "away":
            return f"away for {lasted}"
        case "silent":
            return f"silent for {lasted}"
        case "quarantined":
            return f"in quarantine for {lasted}: {printable(wait.what)}"
        case "waits":
            return f"waits {lasted} for {printable(wait.what)}"


def printable(text: str, keep: str = "") -> str:
    """Text of another process or of a model, without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() or c in keep else "·" for c in text)
