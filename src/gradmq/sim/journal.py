"""The simulated thread that writes a journal: ``ps/journal/writer.py`` on a simulated disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gradmq.ps.journal.chain import Chain, End
from gradmq.ps.journal.records import Opened, Record
from gradmq.sim.disk import SimDisk, SimFile

if TYPE_CHECKING:
    from gradmq.sim.shard import SimShard


class SimJournal:
    """Writes what gathers, syncs, and wakes the shard; between any two it may die."""

    def __init__(self, shard: SimShard, disk: SimDisk, opened: Opened, end: End) -> None:
        self._shard = shard
        self._disk = disk
        self._chain = Chain(opened, end)
        self._waiting: list[tuple[int, Record]] = []
        self._is_writing = False
        self._file = self._open_segment()

    @property
    def durable(self) -> int:
        return self._chain.durable

    @property
    def is_idle(self) -> bool:
        return not self._is_writing

    def append(self, position: int, record: Record) -> None:
        self._waiting.append((position, record))
        if not self._is_writing:
            self._is_writing = True
            self._later(self._write)

    def _later(self, action: Callable[[], None]) -> None:
        world = self._shard.world
        delay_s = self._disk.random.expovariate(1.0) * world.plan.sync_s
        world.schedule.after(delay_s, self._shard.alone, action)

    def _write(self) -> None:
        """Where the disk belongs to a later life, it fails, and the process with it."""
        shard = self._shard
        if self._disk.owner != shard.incarnation:
            shard.lose_disk()
            return
        batch, self._waiting = self._waiting, []
        written = b"".join(self._chain.add(batch))
        half = len(written) // 2
        self._file.content += written[:half]
        shard.step("half written")
        self._file.content += written[half:]
        shard.step("written")
        self._later(lambda: self._sync(batch[-1][0]))

    def _sync(self, position: int) -> None:
        shard = self._shard
        if self._disk.owner != shard.incarnation:
            shard.lose_disk()
            return
        self._file.sync()
        self._disk.on_synced(position)
        shard.step("synced")
        self._chain.on_synced()
        if len(self._file.content) >= shard.world.plan.segment_bytes:
            self._file = self._open_segment()
        self._is_writing = bool(self._waiting)
        if self._waiting:
            self._later(self._write)
        shard.on_journal_news()

    def _open_segment(self) -> SimFile:
        first, buffers = self._chain.open_segment()
        file = self._disk.create(first)
        self._shard.step("segment named")
        file.content += b"".join(buffers)
        self._shard.step("segment written")
        file.sync()
        file.is_named = True
        return file
