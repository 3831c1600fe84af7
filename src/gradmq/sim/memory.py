"""The shared memory of a simulated host: what a process made can be opened by the others."""

from __future__ import annotations

import numpy as np

from gradmq.ring import Vector, memory_bytes, slot_vectors
from gradmq.wire.messages import Segment


class Memory:
    """Segments by nonce; they outlive the process that made them, as mappings do."""

    def __init__(self) -> None:
        self._segments: dict[bytes, object] = {}

    def make(self, pid: int, size: int, slots: int) -> tuple[Segment, object]:
        nbytes = memory_bytes(size, slots)
        nonce = len(self._segments).to_bytes(16, "little")
        self._segments[nonce] = memory = np.zeros(nbytes, np.uint8)
        return Segment(pid=pid, fd=len(self._segments), nonce=nonce, nbytes=nbytes), memory

    def open(self, segment: Segment) -> object:
        return self._segments[segment.nonce]

    def slots(self, segment: Segment | None, size: int, count: int) -> tuple[Vector, ...]:
        return () if segment is None else slot_vectors(self.open(segment), size, count)
