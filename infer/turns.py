"""Whose turn on the model it is, among completions that would each take long."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Gives turns in a round to at most ``max_running``; the others wait in order of arrival.

    Who has turns keeps what it needs between them in memory, which is why they are bounded. Every
    one that has turns gets one in each round, so none waits longer than all others take for one.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._running: deque[T] = deque()
        self._waiting: deque[T] = deque()
        self._last: T | None = None

    def add(self, what: T) -> None:
        """Let ``what`` have turns, last in the round, or wait until there is room."""
        self._waiting.append(what)
        self._fill()

    def next(self) -> T | None:
        """Who has the next turn, None if nobody is there; who had the last one goes to the end."""
        if self._running and self._running[0] is self._last:
            self._running.rotate(-1)
        self._last = self._running[0] if self._running else None
        return self._last

    def remove(self, what: T) -> None:
        """Forget ``what``, which may be gone already; who waited longest takes its place."""
        for those in (self._running, self._waiting):
            if what in those:
                those.remove(what)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            self._running.append(self._waiting.popleft())
