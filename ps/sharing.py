"""What a shard and the workers of its host have in common memory."""

from __future__ import annotations

import logging

from gradmq.ps.sessions import NOTHING_SHARED, SharedSlots
from gradmq.ring import SLOTS, memory_bytes, slot_vectors
from gradmq.shared_memory import NotShared, SharedMemory, open_segment
from gradmq.wire.messages import MAX_WINDOW, Attach

log = logging.getLogger(__name__)


def shared_ring(size: int, transport: str) -> SharedMemory | None:
    """Memory for the parameters that workers of this host can read; None: they use TCP."""
    if transport == "tcp":
        return None
    try:
        return SharedMemory("parameters", memory_bytes(size, SLOTS))
    except NotShared as error:
        log.info("workers use TCP: %s", error)
        return None


def slots_of(attach: Attach, size: int) -> SharedSlots:
    """The slots of a worker on this host; nothing if it offers none or is on another."""
    if attach.segment is None:
        return NOTHING_SHARED
    slots = min(attach.window, MAX_WINDOW)
    try:
        memory = open_segment(attach.segment, memory_bytes(size, slots))
    except NotShared as error:
        log.info("%s pushes over TCP: %s", attach.name, error)
        return SharedSlots(reason=str(error))
    return SharedSlots(slot_vectors(memory, size, slots))
