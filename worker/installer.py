"""Writes the newest parameters into a worker's model, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable

from gradmq.binding import Binding
from gradmq.errors import ShardAway
from gradmq.replica import Source
from gradmq.wire.messages import Version
from gradmq.worker.node import WorkerThread

#: So often a version is copied out of a ring that overtakes the reader; then it is fetched.
RING_TRIES = 3


class Installer:
    """Belongs to the thread that computes on the model."""

    def __init__(self, binding: Binding, io: WorkerThread) -> None:
        self.versions: tuple[Version, ...] = ()
        """Of every shard as installed; empty until they are whole."""
        self.torn_reads = 0
        """How often a version was overwritten while it was copied."""
        self._binding = binding
        self._io = io

    def install(self, wait_for: Callable[[Callable[[], bool]], object]) -> None:
        """Write the newest parameters into the model, if they are newer than its own.

        They may be overwritten while they are copied out of a ring: what was torn is copied again,
        and after a few times fetched, which ``wait_for`` waits for. Raises what that raises, and
        ShardAway if parameters come damaged.
        """
        sources = self._sources()
        versions = [source.version for source in sources]
        if tuple(versions) == self.versions:
            return
        self.versions = ()
        torn = frozenset(range(len(sources)))
        layout = self._io.layout
        assert layout is not None
        for attempt in range(RING_TRIES + 1):
            chunks = [s.chunks if i in torn else () for i, s in enumerate(sources)]
            self._binding.install(layout, chunks)
            for shard in torn:
                versions[shard] = sources[shard].version
            torn = frozenset(shard for shard in torn if not sources[shard].is_intact())
            if not torn:
                break
            self.torn_reads += 1
            if attempt == RING_TRIES - 1:
                self._ask_for(torn)
                wait_for(self._is_whole)
            sources = self._sources()
        else:
            raise ShardAway(f"parameters of shards {sorted(torn)} came damaged, fetched ones too")
        self.versions = tuple(versions)
        with self._io.lock:
            self._io.on_installed()

    def _sources(self) -> list[Source]:
        with self._io.lock:
            assert self._io.replica is not None
            return self._io.replica.sources()

    def _ask_for(self, shards: frozenset[int]) -> None:
        """Have these shards send what could not be read."""
        replica = self._io.replica
        assert replica is not None
        with self._io.lock:
            for shard in shards:
                replica.on_torn(shard)
            self._io.fetch_asked = True
        self._io.wake()

    def _is_whole(self) -> bool:
        return self._io.replica is not None and self._io.replica.is_whole()
