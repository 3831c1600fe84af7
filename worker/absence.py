"""Whether a worker's program computes, or hangs; pure.

A loop that hangs leaves the network's thread alive, and so the worker's lease.
"""

from __future__ import annotations

#: A program that has not come back for so long, and for this many times the longest of its usual
#: absences, may hang: it is named as the one who is waited for.
PROGRAM_SILENT_S, TIMES_THE_USUAL = 1.5, 4.0

#: How many absences are usual.
KEPT = 16


class Absence:
    """From when the program goes off to compute until it is back; for its thread to tell."""

    def __init__(self) -> None:
        self._left_at: float | None = None
        """None while it is here."""
        self._last: tuple[float, ...] = (0.0,)
        """A new tuple each time, since the network's thread reads it."""

    def begin(self, now: float) -> None:
        self._left_at = now

    def end(self, now: float) -> None:
        self._last = (*self._last[1 - KEPT :], now - (self._left_at or now))
        self._left_at = None

    def waiting_for(self, now: float) -> str:
        """The program, in words, if it may hang; "" if not. From any thread."""
        silent_s = now - (self._left_at or now)
        if silent_s < max(PROGRAM_SILENT_S, TIMES_THE_USUAL * max(self._last)):
            return ""
        return f"its program: the next gradient, silent for {silent_s:.1f} s"
