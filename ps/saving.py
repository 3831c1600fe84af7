"""The thread that writes checkpoints beside training, and lets go of what none of them needs."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gradmq.errors import CheckpointError, JournalError
from gradmq.exposition import Stage
from gradmq.layout import Layout
from gradmq.ps import checkpoint
from gradmq.ps.recovery import forget_journal
from gradmq.ps.state import ShardState
from gradmq.wire.messages import Saved

log = logging.getLogger(__name__)


class Saving:
    """Checkpoints of one shard, written one after the other."""

    def __init__(self, state_dir: Path, index: int, kept: int) -> None:
        """``kept``: how many of the newest stay, and the journal since then; 0: all."""
        self._state_dir = state_dir
        self._index = index
        self._kept = kept
        self._thread = ThreadPoolExecutor(1, "gradmq-checkpoint")
        self._under_way: list[tuple[int, int, Future[float]]] = []
        """Release, version, and in how many seconds it is written."""
        self.version = 0
        """The newest on disk."""
        self.written = Stage()
        self.failed = 0
        self.written_at_s = time.monotonic()
        """When the last one was; before the first of this life, when this began."""

    def write(self, run: str, layout: Layout, state: ShardState) -> None:
        """Have this on disk soon; ``finished`` tells when."""
        future = self._thread.submit(self._write, run, layout, state)
        self._under_way.append((state.release, state.version, future))

    def _write(self, run: str, layout: Layout, state: ShardState) -> float:
        began_s = time.monotonic()
        checkpoint.save(self._state_dir, run, layout, self._index, state, self._kept)
        if self._kept:
            forget_journal(self._state_dir, self._index)
        return time.monotonic() - began_s

    def finished(self) -> list[Saved]:
        """What was written since the last call, or could not be: that is logged too."""
        found = []
        for release, version, future in [save for save in self._under_way if save[2].done()]:
            self._under_way.remove((release, version, future))
            failure = future.exception()
            if isinstance(failure, CheckpointError | JournalError):
                self.failed += 1
                log.error("%s", failure)
            elif failure is not None:
                raise failure
            else:
                self.version = version
                self.written.add(future.result())
                self.written_at_s = time.monotonic()
            error = str(failure) if failure else ""
            found.append(Saved(release=release, shard=self._index, error=error))
        return found

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown(wait=True)
