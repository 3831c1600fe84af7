"""A value that only its owner's thread may make, for another thread that asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from gradmq.errors import Closed

T = TypeVar("T")


class Handover(Generic[T]):
    """Between one thread that asks and the owner, who looks at every turn whether it was asked.

    That look costs it one attribute; what it hands over is its own no more.
    """

    def __init__(self) -> None:
        self._asked = False
        self._closed = False
        self._given: list[T] = []
        self._changed = threading.Condition()

    def ask(self, timeout_s: float) -> T:
        """What the owner has to give now; raises TimeoutError if it does not come round, Closed."""
        with self._changed:
            self._given.clear()
            self._asked = True
            self._changed.wait_for(lambda: self._given or self._closed, timeout_s)
            self._asked = False
            if self._given:
                return self._given.pop()
        if self._closed:
            raise Closed("it is ending")
        raise TimeoutError

    def give_if_asked(self, make: Callable[[], T]) -> None:
        """For the owner, at every turn; ``make`` is called in its thread."""
        if not self._asked:
            return
        value = make()
        with self._changed:
            self._asked = False
            self._given = [value]
            self._changed.notify_all()

    def close(self) -> None:
        """The owner comes round no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
