"""A curve from its beginning in bounded memory: older points are thinned; pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """Points in the order they came, at most twice ``recent`` of them.

    The newest ``recent`` are all there. Of what was before, every second, fourth, eighth … is kept,
    evenly and the very first always, so that a curve of any length shows where it began.
    """

    def __init__(self, recent: int) -> None:
        self._limit = recent
        self._recent: deque[T] = deque()
        self._older: list[T] = []
        self._stride = 1
        self._left = 0
        """Points that have left ``_recent``; every ``_stride``-th of them is in ``_older``."""

    def add(self, point: T) -> None:
        """One more, the newest."""
        self._recent.append(point)
        if len(self._recent) <= self._limit:
            return
        leaving = self._recent.popleft()
        if self._left % self._stride == 0:
            if len(self._older) == self._limit:
                del self._older[1::2]
                self._stride *= 2
            if self._left % self._stride == 0:
                self._older.append(leaving)
        self._left += 1

    def points(self) -> list[T]:
        """All that are kept, oldest first."""
        return [*self._older, *self._recent]
