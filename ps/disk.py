"""What a shard has on disk: the count of its lives, its checkpoints, its journal."""

from __future__ import annotations

import socket as sockets
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

from gradmq.durable import exclusive, next_incarnation, remove_unfinished
from gradmq.layout import Layout
from gradmq.ps import checkpoint
from gradmq.ps.journal.chain import End
from gradmq.ps.journal.records import Opened
from gradmq.ps.journal.segments import journal_folder
from gradmq.ps.journal.writer import JournalWriter
from gradmq.ps.recovery import Recovered, recover
from gradmq.ps.saving import Saving
from gradmq.ps.shard import Shard


class Disk:
    """One shard's folder during one of its lives; for one thread."""

    saving: Saving
    incarnation: int
    newest_saved: int
    """The newest release that was here when this life began; 0: none."""

    def __init__(self, state: Path, index: int, kept: int) -> None:
        """``kept``: how many of the newest checkpoints stay, and the journal since; 0: all."""
        self._state = state
        self._index = index
        self._kept = kept
        self._folder = checkpoint.shard_folder(state, index)
        self._end = End()
        self.journal: JournalWriter | None = None
        """None: decisions are in memory only."""
        self._news: sockets.socket | None = None

    def lock(self, stack: ExitStack) -> None:
        """Nobody else uses it until the stack closes; raises CheckpointError if somebody does."""
        stack.enter_context(exclusive(self._folder))
        remove_unfinished(self._folder)

    def begin_life(self, stack: ExitStack, restore_release: int | None) -> Recovered | None:
        """Count it, and read what the last one left; None if there never were parameters.

        Raises CheckpointError or JournalError.
        """
        self.incarnation = next_incarnation(self._folder / "incarnation")
        self.newest_saved = max(self.saved, default=0)
        found = recover(self._state, self._index, restore_release, self.incarnation)
        self.saving = Saving(self._state, self._index, self._kept)
        stack.callback(self.saving.close)
        if found is not None:
            self._end, self.saving.version = found.end, found.state.version
        return found

    @property
    def saved(self) -> list[int]:
        """The releases whose checkpoints are here."""
        return checkpoint.saved_releases(self._state, self._index)

    def open_journal(self, stack: ExitStack, shard: Shard, layout: Layout) -> sockets.socket:
        """Go on where the last life's ends; what is returned can be read when there is news."""
        opened = Opened(
            run=shard.run,
            shard=self._index,
            incarnation=self.incarnation,
            layout=layout.to_bytes(),
            optimizer=shard.optimizer_settings,
            lineage=shard.lineage,
        )
        self._news, write = sockets.socketpair()
        for end in (self._news, write):
            stack.enter_context(end).setblocking(False)

        def wake() -> None:
            with suppress(BlockingIOError):  # full: it will wake anyway
                write.send(b"w")

        self.journal = JournalWriter(journal_folder(self._folder), opened, self._end, wake)
        return self._news

    def has_news(self, ready: Collection[object]) -> bool:
        """True if the journal has written something, or cannot."""
        if self._news is None or self._news.fileno() not in ready:
            return False
        self._news.recv(4096)
        return True
