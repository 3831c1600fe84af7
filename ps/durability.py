"""What a shard may say at once, and what it holds back until its journal has it.

Pure. A position is that of a record in the journal, counted from 1; without a journal nothing is
held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gradmq.ps.effects import Append, Effect, TellBroker
from gradmq.ps.journal.records import Record
from gradmq.wire.messages import AskRelease

#: A checkpoint is asked for once the journal holds so many times the parameters since the last one,
#: and no less than this many bytes: a restart reads and applies them again.
REPLAYED_AT_MOST = 16
SAVE_AFTER_BYTES = 64 << 20


class Durability:
    """The order in which a shard's decisions reach the disk, then its peers."""

    def __init__(self, journalled: bool, parameter_bytes: int) -> None:
        self.journalled = journalled
        self.position = 0
        """Of the last record; it may not be on disk yet."""
        self._held: deque[tuple[int, list[Effect]]] = deque()
        self._save_after_bytes = max(REPLAYED_AT_MOST * parameter_bytes, SAVE_AFTER_BYTES)
        self._unsaved_bytes = 0

    def record(self, make: Callable[[], Record]) -> list[Effect]:
        """Have this written; it is only made where there is a journal."""
        if not self.journalled:
            return []
        self.position += 1
        return [Append(self.position, make())]

    def hold(self, effects: list[Effect]) -> list[Effect]:
        """These, now or once all that was recorded until now is on disk."""
        if not self.journalled:
            return effects
        self._held.append((self.position, effects))
        return []

    def on_durable(self, position: int) -> list[Effect]:
        """The journal is on disk up to there: what waited for it."""
        effects: list[Effect] = []
        while self._held and self._held[0][0] <= position:
            effects += self._held.popleft()[1]
        return effects

    def on_applied(self, nbytes: int) -> list[Effect]:
        """So much more would have to be done again: ask for a checkpoint, once, if it is a lot."""
        self._unsaved_bytes += nbytes
        if not self.journalled or self._unsaved_bytes < self._save_after_bytes:
            return []
        self._unsaved_bytes = 0
        return [TellBroker(AskRelease(save=True))]

    def on_saved(self) -> None:
        """A checkpoint is being written."""
        self._unsaved_bytes = 0
