"""The disk of one shard: it keeps what was synced, and of the rest whatever a real one might.

A process that is killed leaves all that it wrote; a host that loses power leaves any beginning of
it, or pieces with zeros between them. Whoever starts as the shard's next life takes the disk over:
a life that is still there can write to it no more, as with a lock or a volume that was moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random

from gradmq.errors import JournalError
from gradmq.layout import Layout
from gradmq.ps.journal.chain import End, Records, Stored, superseded
from gradmq.ps.journal.records import Damaged, Prefix, read
from gradmq.ps.recovery import Recovered, replayed
from gradmq.ps.state import ShardState
from gradmq.sim.violation import Violation
from gradmq.wire.messages import Version

#: What a disk writes as one, in these small journals.
SECTOR_BYTES = 64


class SimFile:
    """A segment of a journal."""

    def __init__(self, disk: SimDisk, first: int, before: bytes | None) -> None:
        """``before``: what was on disk under this name, until the next sync."""
        self._disk = disk
        self.first = first
        self.name = f"segment {first}"
        self.content = bytearray()
        self.synced = 0
        self.is_named = False
        """Its folder was synced: the file will be found after a loss of power."""
        self._before = before

    def data(self) -> memoryview:
        return memoryview(bytes(self.content))

    def records(self) -> Iterator[tuple[int, Prefix]]:
        """Where each whole record begins, and its prefix."""
        at, data = 0, self.data()
        with suppress(Damaged):
            while at < len(data):
                prefix, _ = read(data[at:], with_payload=False)
                yield at, prefix
                at += prefix.nbytes

    def keep(self, nbytes: int) -> None:
        del self.content[nbytes:]
        if nbytes == 0:
            del self._disk.segments[self.first]
        self.sync()
        self.is_named = True

    def sync(self) -> None:
        self.synced = len(self.content)
        self._before = None

    @property
    def platter(self) -> bytes | None:
        """What is under this name for sure; None: it may not be there."""
        if self.is_named:
            return bytes(self.content[: self.synced]) if self._before is None else self._before
        return self._before

    def lose_power(self, random: Random) -> None:
        """Keep what is on disk, and of the rest what chance leaves."""
        if not self.is_named and self._before is None and random.random() < 0.5:
            del self._disk.segments[self.first]
            return
        if self._before is not None and random.random() < 0.5:
            self.content = bytearray(self._before)
        else:
            self.content[self.synced :] = _torn(bytes(self.content), self.synced, random)
        self.sync()
        self.is_named = True


def _torn(content: bytes, synced: int, random: Random) -> bytes:
    """What is left of that which stands behind the synced part."""
    tail = content[synced:]
    match random.randrange(4):
        case 0:
            return b""
        case 1:
            return tail[: random.randrange(len(tail) + 1)]
        case 2:
            return tail
    pieces = bytearray(tail)
    for at in range(synced - synced % SECTOR_BYTES, len(content), SECTOR_BYTES):
        if random.random() < 0.5:
            start, stop = max(at, synced) - synced, min(at + SECTOR_BYTES, len(content)) - synced
            pieces[start:stop] = bytes(stop - start)
    return bytes(pieces)


class SimDisk:
    """Checkpoints and journal of one shard, over all its lives."""

    def __init__(self, index: int, random: Random, kept_checkpoints: int) -> None:
        self.index = index
        self.random = random
        self.owner = 0
        """The incarnation that may write."""
        self.checkpoints: list[ShardState] = []
        """Those that can be read, oldest first."""
        self._damaged: list[int] = []
        """Releases whose file is there and cannot be read."""
        self._is_name_synced = True
        """Of the newest checkpoint."""
        self.segments: dict[int, SimFile] = {}
        self.dropped: dict[int, SimFile] = {}
        """What no checkpoint needs any more; kept here to be looked at once all is over."""
        self.durable = 0
        """Records up to this position are on disk for sure."""
        self.decided: dict[tuple[int, int], tuple[int, str, Version | None]] = {}
        """By (session, seq): the position of the record, and the verdict in it."""
        self.labels: dict[int, int] = {}
        """By release: the position of the record."""
        self._kept = kept_checkpoints
        self._begun_anew: list[int] = [0]
        """Where lives began that found a checkpoint and no journal: nothing ties their records to
        the ones before."""

    # -- writing ----------------------------------------------------------------------------------

    def create(self, first: int) -> SimFile:
        """Begin a segment; one that was begun by a life that wrote nothing more goes."""
        known = self.segments.pop(first, None)
        file = self.segments[first] = SimFile(self, first, known.platter if known else None)
        return file

    def on_synced(self, position: int) -> None:
        self.durable = position

    def save(self, state: ShardState) -> None:
        """A checkpoint has its name, in a folder that is not synced yet."""
        self.checkpoints.append(state)
        self._is_name_synced = False

    def forget(self) -> None:
        """Sync the folder; drop what is too old, and the segments that only it needed."""
        self._is_name_synced = True
        if self._kept == 0:
            return
        newer = [state for state in self.checkpoints if state.release > 0]
        old = {state.release for state in newer[: -self._kept]}
        self.checkpoints = [state for state in self.checkpoints if state.release not in old]
        for first in superseded(sorted(self.segments), newer[-self._kept :][0].position):
            self.dropped[first] = self.segments.pop(first)

    # -- loss and recovery ------------------------------------------------------------------------

    def lose_power(self) -> None:
        """What was not synced may be lost."""
        for file in list(self.segments.values()):
            file.lose_power(self.random)
        if not self._is_name_synced and self.random.random() < 0.5:
            self.checkpoints.pop()
        self._is_name_synced = True

    def rot_checkpoint(self) -> bool:
        """Damage the newest checkpoint, where there is one before it, and all records since."""
        if len(self.checkpoints) < 2 or self.checkpoints[-2].position + 1 < min(
            self.segments, default=0
        ):
            return False
        self._damaged.append(self.checkpoints.pop().release)
        return True

    def rot(self) -> Callable[[], None] | None:
        """Damage a record of which a later one says that it is on disk; returns what mends it.

        None if there is none such that a recovery would look at.
        """
        files = self._since_checkpoint()
        found = [(file, at, prefix) for file in files for at, prefix in file.records()]
        newest_durable, candidates = -1, []
        for file, at, prefix in reversed(found):
            if file is not files[-1] or newest_durable >= prefix.position:
                candidates.append((file, at, prefix))
            newest_durable = max(newest_durable, prefix.durable)
        if not candidates:
            return None
        file, at, prefix = self.random.choice(candidates)
        good, synced = bytes(file.content), file.synced
        file.content[at + self.random.randrange(prefix.nbytes)] ^= 1 << self.random.randrange(8)

        def mend() -> None:
            file.content, file.synced = bytearray(good), synced
            self.segments[file.first] = file

        return mend

    def _since_checkpoint(self) -> list[SimFile]:
        position = self.checkpoints[-1].position if self.checkpoints else 0
        gone = superseded(sorted(self.segments), position)
        return [self.segments[first] for first in sorted(self.segments) if first not in gone]

    def recover(self, run: str, layout: Layout) -> Recovered | None:
        """What a new life begins with; raises JournalError as a shard that refuses to start."""
        newest = self.checkpoints[-1] if self.checkpoints else None
        found = (run, layout, newest) if newest else None
        if not self.segments:
            end = End(newest.position if newest else 0)
            return Recovered(run, layout, newest, end) if newest else None
        return replayed(self._records(self.segments), self.index, found)

    def begin_life(self, incarnation: int, run: str, layout: Layout) -> Recovered | None:
        """Recover, as the only life that may write from now on."""
        self.owner = incarnation
        self._is_name_synced = True  # counting incarnations syncs the folder
        try:
            recovered = self.recover(run, layout)
        except JournalError as error:
            raise Violation("journal", f"shard {self.index} refuses to start: {error}") from None
        end = recovered.end.position if recovered else 0
        if not self.segments:
            self._begun_anew.append(end)
        last = self.segments[max(self.segments)] if self.segments else None
        is_synced = last is None or last.synced == len(last.content)
        self.durable = end if is_synced else min(self.durable, end)
        self.decided = {push: at for push, at in self.decided.items() if at[0] <= end}
        self.labels = {release: at for release, at in self.labels.items() if at <= end}
        return recovered

    def whole_journal(self) -> Iterator[Stored]:
        """Every record from the first one on, those in dropped segments too."""
        known = {**self.dropped, **self.segments}
        ends = [*self._begun_anew[1:], float("inf")]
        for begin, end in zip(self._begun_anew, ends, strict=True):
            part = {first: file for first, file in known.items() if begin < first <= end}
            yield from self._records(part).after(begin)

    def _records(self, segments: dict[int, SimFile]) -> Records:
        return Records(f"the journal of shard {self.index}", _in_order(segments))

    def checkpoint(self, release: int) -> ShardState | None:
        """A copy of a saved release, if it is there."""
        found = [state for state in self.checkpoints if state.release == release]
        return replace(found[-1]) if found else None

    def saved(self) -> list[int]:
        return sorted([*self._damaged, *(state.release for state in self.checkpoints)])


def _in_order(segments: dict[int, SimFile]) -> Sequence[tuple[int, SimFile]]:
    return sorted(segments.items())
