"""Virtual time: a heap of what happens when; nothing here looks at a real clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

#: Where virtual time begins. Not 0: a core must not take "never" and "at the start" for the same.
BEGIN_S = 100.0


class Schedule:
    """What is to happen, in order of time; of two things at one time the first planned is first."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the beginning."""
        return self.now - BEGIN_S

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action`` at this time, or at once if it has passed."""
        self._planned += 1
        heapq.heappush(self._heap, (max(time, self.now), self._planned, action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action`` after this many virtual seconds."""
        self.at(self.now + delay_s, action, *arguments)

    def run_until(self, time: float) -> None:
        """Let everything happen that is due until then."""
        heap = self._heap
        while heap and heap[0][0] <= time:
            self.now, _, action, arguments = heapq.heappop(heap)
            action(*arguments)
        self.now = max(self.now, time)
