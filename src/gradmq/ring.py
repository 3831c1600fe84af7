"""A ring: the newest versions of one shard's parameters, in memory that others may read.

An update is never made in place: it is written, from the newest version, into a slot of which
nobody has been told, and only then becomes the newest. So whatever can be found is whole. Of the
three slots one is the newest, one is being written, and one is left to readers that still copy the
version before. A reader that was overtaken all the same finds out by the stamps, and copies again.

The bytes, little-endian: one page of header, then the slots, each rounded up to whole pages. Of the
header, the first 16 bytes are the segment's nonce; then 64-bit words: at word 8 the index of the
newest slot, and at word 16 + 4·i of slot i how many writes had begun when the one that fills it
began (``begun``), the same once it is whole (``done``), and its version.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

#: One newest, one being written, one for those who are still reading.
SLOTS = 3

PAGE_BYTES = 4096

_NEWEST = 8
_FIRST_SLOT = 16
_BEGUN, _DONE, _VERSION = 0, 1, 2


def slot_bytes(size: int) -> int:
    """What ``size`` float32 elements take in whole pages."""
    return -(-4 * size // PAGE_BYTES) * PAGE_BYTES


def memory_bytes(size: int, slots: int) -> int:
    """A header and ``slots`` slots of ``size`` elements each."""
    return PAGE_BYTES + slots * slot_bytes(size)


def slot_vectors(memory: object, size: int, slots: int) -> tuple[Vector, ...]:
    """The slots in a buffer of ``memory_bytes(size, slots)``; the vectors keep it alive."""
    raw = np.frombuffer(memory, np.uint8)  # type: ignore[call-overload]
    starts = (PAGE_BYTES + i * slot_bytes(size) for i in range(slots))
    return tuple(raw[at : at + 4 * size].view(np.float32) for at in starts)


def own_memory(size: int) -> object:
    """A ring's memory that nobody else sees."""
    return np.zeros(memory_bytes(size, SLOTS), np.uint8)


def no_fence() -> None:
    """For memory that only one thread looks at."""


class RingWriter:
    """The one writer of a ring."""

    def __init__(self, memory: object, size: int, fence: Callable[[], None] = no_fence) -> None:
        """``fence`` orders what this thread writes before it ahead of what it writes after it."""
        self._slots = slot_vectors(memory, size, SLOTS)
        self._words = _words(memory)
        self._fence = fence
        self._writes = 0
        self._writing = 0
        self.newest = 0
        """The slot of the newest version."""

    @property
    def values(self) -> Vector:
        """The newest version; it stays until two more were written."""
        return self._slots[self.newest]

    def begin(self, lent: Container[int] = ()) -> Vector:
        """Where the next version is to be written; ``lent`` slots are not touched.

        A write that is never committed leaves the newest version what it is.
        """
        after = ((self.newest + 1) % SLOTS, (self.newest + 2) % SLOTS)
        self._writing = after[0] if after[0] not in lent else after[1]
        self._writes += 1
        self._words[_FIRST_SLOT + 4 * self._writing + _BEGUN] = self._writes
        self._fence()
        return self._slots[self._writing]

    def commit(self, version: int) -> None:
        """What was written since ``begin`` is whole: it is the newest version from now on."""
        at = _FIRST_SLOT + 4 * self._writing
        self._words[at + _VERSION] = version
        self._fence()
        self._words[at + _DONE] = self._writes
        self._words[_NEWEST] = self.newest = self._writing


@dataclass(frozen=True, slots=True)
class RingView:
    """One version where it lies; true only if the reader says so after it was used."""

    version: int
    values: Vector = field(repr=False)
    slot: int
    done: int


class RingReader:
    """A reader of somebody else's ring; any number of them, none known to the writer."""

    def __init__(self, memory: object, size: int, fence: Callable[[], None] = no_fence) -> None:
        """``fence`` orders what this thread reads before it ahead of what it reads after it."""
        self._slots = slot_vectors(memory, size, SLOTS)
        self._words = _words(memory)
        self._fence = fence

    @property
    def version(self) -> int:
        """The newest version, whatever it is by now."""
        return self.newest().version

    def newest(self) -> RingView:
        """The newest version; copy from it, then ask ``is_intact``."""
        slot = self._words[_NEWEST] % SLOTS
        at = _FIRST_SLOT + 4 * slot
        done, version = self._words[at + _DONE], self._words[at + _VERSION]
        self._fence()
        return RingView(version, self._slots[slot], slot, done)

    def is_intact(self, view: RingView) -> bool:
        """True if nothing was written over this view until now."""
        self._fence()
        return self._words[_FIRST_SLOT + 4 * view.slot + _BEGUN] == view.done


def _words(memory: object) -> memoryview:
    return memoryview(memory).cast("B")[:PAGE_BYTES].cast("Q")  # type: ignore[arg-type]
