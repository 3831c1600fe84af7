"""The model to oneself: what goes on over several turns ends first, what comes later waits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

#: How often a wait for what still runs looks whether the node is told to end.
_LOOK_EVERY_S = 0.25


class Standstill:
    """Between what takes turns on the model and one thread that now and then wants it alone.

    ``hold`` is that thread's; everything else is the event loop's.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted = False
        self._running = 0
        self.when_over: Callable[[], None] | None = None
        """Called in the other thread after each standstill: what waited may begin."""

    def begin(self) -> bool:
        """Whether what goes on over several turns may begin; then it counts as running."""
        with self._changed:
            if not self._wanted:
                self._running += 1
            return not self._wanted

    def end(self) -> None:
        """Something that was begun has ended."""
        with self._changed:
            self._running -= 1
            self._changed.notify()

    @contextlib.contextmanager
    def hold(self, stopped: Callable[[], bool]) -> Iterator[bool]:
        """True inside: nothing runs or begins; False if ``stopped`` before what ran has ended."""
        try:
            with self._changed:
                self._wanted = True
                while self._running and not stopped():
                    self._changed.wait(_LOOK_EVERY_S)
                still = self._running == 0
            yield still
        finally:
            with self._changed:
                self._wanted = False
            if self.when_over is not None:
                self.when_over()
