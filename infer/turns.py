"""Whose turn on the model it is, among completions that would each take long."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Gives turns in a round to at most ``max_running``; the others wait in order of arrival.

    Who has turns keeps what it needs between them in memory, which is why they are bounded. Every
    one that has turns gets one in each round, so none waits longer than all others take for one.
    """

    def __init__(self, max_running: int, may_begin: Callable[[], bool] = lambda: True) -> None:
        """``may_begin`` is asked before one that waited gets turns, and counts on its beginning."""
        self._max_running = max_running
        self._may_begin = may_begin
        self._running: deque[T] = deque()
        self._waiting: deque[T] = deque()
        self._last: T | None = None

    def add(self, what: T) -> None:
        """Let ``what`` have turns, last in the round, or wait until there is room."""
        self._waiting.append(what)
        self.fill()

    def next(self) -> T | None:
        """Who has the next turn, None if nobody is there; who had the last one goes to the end."""
        if self._running and self._running[0] is self._last:
            self._running.rotate(-1)
        self._last = self._running[0] if self._running else None
        return self._last

    def remove(self, what: T) -> bool:
        """Forget ``what``, which may be gone already; who waited longest takes its place.

        True if it had turns.
        """
        had_turns = what in self._running
        for those in (self._running, self._waiting):
            if what in those:
                those.remove(what)
        self.fill()
        return had_turns

    def fill(self) -> None:
        """Let those who wait have turns, as long as there is room and they may begin."""
        room = self._max_running - len(self._running)
        while self._waiting and room > 0 and self._may_begin():
            self._running.append(self._waiting.popleft())
            room -= 1
