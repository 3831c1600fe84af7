"""Updates and bytes per second of one shard, over a sliding window; pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

#: Long enough that figures stand still enough to be read, short enough to show a change.
WINDOW_S = 5.0

#: A shard with fewer updates than this in the window is looked at over the long one; its rate would
#: otherwise jump between none and one.
FEW_UPDATES = 5
LONG_WINDOW_S = 30.0

#: Unless it was quicker before and has stopped: nothing for so many of its usual gaps.
STOPPED_AFTER_GAPS = 3


class _Sample(NamedTuple):
    at: float
    version: int
    pushed_bytes: int


class Rates:
    """Remembers what one shard reported within the long window, of its present incarnation only."""

    def __init__(self) -> None:
        self._incarnation = 0
        self._samples: deque[_Sample] = deque()

    def add(self, at: float, incarnation: int, version: int, pushed_bytes: int) -> None:
        """One report, later than those before."""
        if incarnation != self._incarnation:  # it counts from anew, from an older version perhaps
            self._incarnation = incarnation
            self._samples.clear()
        self._samples.append(_Sample(at, version, pushed_bytes))
        while len(self._samples) > 2 and at - self._samples[1].at >= LONG_WINDOW_S:
            self._samples.popleft()

    def per_s(self) -> tuple[float, float] | tuple[None, None]:
        """(updates, bytes) per second; None for both until two reports are there."""
        if len(self._samples) < 2:
            return None, None
        newest = self._samples[-1]
        recent = next(s for s in self._samples if newest.at - s.at <= WINDOW_S)
        if newest.version - recent.version >= FEW_UPDATES:
            return _between(recent, newest)
        if self._has_stopped():
            return 0.0, 0.0
        return _between(self._samples[0], newest)

    def _has_stopped(self) -> bool:
        oldest, newest = self._samples[0], self._samples[-1]
        last_change = next(s for s in self._samples if s.version == newest.version)
        if last_change is oldest:
            return True
        gap_s = (last_change.at - oldest.at) / (last_change.version - oldest.version)
        return newest.at - last_change.at > max(STOPPED_AFTER_GAPS * gap_s, WINDOW_S)


def _between(older: _Sample, newer: _Sample) -> tuple[float, float]:
    seconds = newer.at - older.at
    updates, nbytes = newer.version - older.version, newer.pushed_bytes - older.pushed_bytes
    return updates / seconds, nbytes / seconds
