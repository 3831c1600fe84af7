"""Where a session's gradients lie until every shard has answered: a few slots per shard, reused.

They are shared memory where that is to be had, so that a shard of this host reads them in place;
to all others they are sent from there. Every session has its own: a shard that does not know yet
that a session is over must not find the next one's gradients in it.
"""

from __future__ import annotations

import logging

import numpy as np

from gradmq.errors import JoinRefused
from gradmq.layout import Layout
from gradmq.ring import Vector, memory_bytes, slot_vectors
from gradmq.shared_memory import NotShared, SharedMemory
from gradmq.wire.messages import Segment

log = logging.getLogger(__name__)


class GradientSlots:
    """``count`` slots for each shard of a layout; memory is taken when a slot is first written."""

    def __init__(self, layout: Layout, count: int, transport: str) -> None:
        """``transport``: auto, tcp, or shm, which raises JoinRefused where there is none."""
        self._shared: list[SharedMemory | None] = []
        self._vectors: list[tuple[Vector, ...]] = []
        for part in layout.parts:
            nbytes = memory_bytes(part.size, count)
            shared = None if transport == "tcp" else _share(nbytes, transport)
            memory = shared.memory if shared else np.empty(nbytes, np.uint8)
            self._shared.append(shared)
            self._vectors.append(slot_vectors(memory, part.size, count))

    @property
    def segments(self) -> tuple[Segment | None, ...]:
        """What each shard needs to find its slots, if they are shared."""
        return tuple(shared.segment if shared else None for shared in self._shared)

    def of(self, slot: int) -> list[Vector]:
        """One slot of every shard."""
        return [vectors[slot] for vectors in self._vectors]


def _share(nbytes: int, transport: str) -> SharedMemory | None:
    try:
        return SharedMemory("gradients", nbytes)
    except NotShared as error:
        if transport == "shm":
            raise JoinRefused(f"network.transport is shm: {error}") from None
        log.info("gradients travel over TCP: %s", error)
        return None
