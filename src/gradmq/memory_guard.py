"""A bound on what peers can make a process hold, where ZeroMQ has none.

libzmq keeps the frames of a message until the last one has come, counts none of them and tells
nobody: who sends frames without end uses up the memory behind the port, and can be neither seen
nor refused. What can be seen is the memory of this process; what helps is to close the sockets.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from types import TracebackType

from gradmq.exposition import Family, one

#: Sockets are closed by libzmq's own threads, which take a moment to free what lay in them.
FREED_WITHIN_S = 0.5

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryGuard:
    """Knows how much this process holds, and how much it may; for one thread.

    Shared memory does not count: peers cannot make it grow. Where there is no /proc it knows
    nothing, and never says that it is too much.
    """

    def __init__(self, allowed_bytes: int) -> None:
        """``allowed_bytes`` on top of what it holds when the guard is entered."""
        self._allowed_bytes = allowed_bytes
        self._statm: int | None = None
        self._drops = 0

    def __enter__(self) -> MemoryGuard:
        # Open for good: when descriptors have run out too, it must still be readable.
        try:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._statm = None
        self._limit_bytes = self.held_bytes() + self._allowed_bytes
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._statm is not None:
            os.close(self._statm)

    def held_bytes(self) -> int:
        """Resident memory that is this process's own."""
        if self._statm is None:
            return 0
        _, resident, shared, *_ = os.pread(self._statm, 256, 0).split()
        return (int(resident) - int(shared)) * _PAGE_BYTES

    def is_too_much(self) -> bool:
        """True if the process holds more than it may."""
        return self.held_bytes() > self._limit_bytes

    def trouble(self) -> str:
        """What is wrong, in words."""
        held, limit = self.held_bytes() >> 20, self._limit_bytes >> 20
        return f"holds {held} MiB of memory where {limit} are allowed"

    def families(self, **labels: str) -> Iterator[Family]:
        """For Prometheus."""
        text = "Resident memory that is this process's own."
        yield one("gradmq_memory_held_bytes", "gauge", text, self.held_bytes(), **labels)
        text = "Above this, all connections are dropped."
        yield one("gradmq_memory_limit_bytes", "gauge", text, self._limit_bytes, **labels)
        text = "How often all connections were dropped because too much was held."
        yield one("gradmq_memory_drops_total", "counter", text, self._drops, **labels)

    def recover(self) -> bool:
        """After sockets were closed: have what lay in them given back, in a moment.

        False if that did not help: then it was something else, and counts as allowed from now on.
        """
        self._drops += 1
        deadline = time.monotonic() + FREED_WITHIN_S
        while True:
            _give_back()
            if not self.is_too_much():
                return True
            if time.monotonic() > deadline:
                self._limit_bytes = self.held_bytes() + self._allowed_bytes
                return False
            time.sleep(0.01)


def _give_back() -> None:
    """What ``keep_memory`` keeps, malloc gives to the system when it is told to."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
