"""The thread that writes a journal: what gathers while one sync runs goes with the next.

The shard's thread never waits for the disk: it hands over records and goes on; ``durable`` tells
how far they are safe, and ``wake`` is called whenever that has changed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gradmq.durable import sync_path
from gradmq.errors import JournalError
from gradmq.exposition import Stage
from gradmq.failpoints import failpoint
from gradmq.ps.journal.chain import Chain, End
from gradmq.ps.journal.records import Opened, Record
from gradmq.ps.journal.segments import segment_path
from gradmq.wire.messages import Buffer

#: A segment that is longer is closed, and goes when no checkpoint needs it any more.
SEGMENT_BYTES = 64 << 20

#: Buffers in one call of the kernel; Linux takes 1024.
BUFFERS_PER_WRITE = 512


#: Without the times of the file, where the system can leave them out.
_sync = getattr(os, "fdatasync", os.fsync)


class JournalWriter:
    """Appends records; one thread hands them over, one of its own writes."""

    def __init__(self, folder: Path, opened: Opened, end: End, wake: Callable[[], None]) -> None:
        """``end``: of what is on disk already. Raises JournalError if the folder cannot be used."""
        self._folder = folder
        self._chain = Chain(opened, end)
        self._wake = wake
        self.error: JournalError | None = None
        """Set once, and then nothing more is written."""
        self._waiting: list[tuple[int, Record]] = []
        self.synced = Stage()
        """Writes of what had gathered, each with its sync; of the thread's."""
        self.written_bytes = 0
        self._last = end.position
        """Of those that were handed over."""
        self._closing = False
        self._changed = threading.Condition()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open_segment()
        except OSError as error:
            raise _cannot_write(folder, error) from None
        self._thread = threading.Thread(target=self._run, name="gradmq-journal", daemon=True)
        self._thread.start()

    @property
    def durable(self) -> int:
        """Everything up to this position is on disk."""
        return self._chain.durable

    @property
    def waiting(self) -> int:
        """Records that were handed over and are not on disk."""
        return self._last - self.durable

    def append(self, position: int, record: Record) -> None:
        """Have this written, soon; nobody may write to its payload before it is durable."""
        with self._changed:
            self._waiting.append((position, record))
            self._last = position
            self._changed.notify()

    def close(self, timeout_s: float) -> int:
        """Write what is waiting, to this deadline; returns how many are not on disk."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return self.waiting

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                self._write(batch)
                self._wake()
        except OSError as error:
            self.error = _cannot_write(self._folder, error)
            self._wake()
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody may wait for it in vain)
            self.error = JournalError(f"journal {self._folder} broke: {error!r}")
            self._wake()
        finally:
            with suppress(OSError):  # closed already, and no other could be opened
                os.close(self._file)

    def _take(self) -> list[tuple[int, Record]] | None:
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            batch, self._waiting = self._waiting, []
            return batch

    def _write(self, batch: list[tuple[int, Record]]) -> None:
        began_s = time.monotonic()
        buffers = self._chain.add(batch)
        failpoint("journal.before_write")
        nbytes = _write_all(self._file, buffers)
        self._size += nbytes
        failpoint("journal.after_write")
        _sync(self._file)
        failpoint("journal.after_sync")
        self._chain.on_synced()
        self.synced.add(time.monotonic() - began_s)
        self.written_bytes += nbytes
        if self._size >= SEGMENT_BYTES:
            os.close(self._file)
            self._open_segment()

    def _open_segment(self) -> None:
        """Named after its first record. The one before is on disk, and so is its name."""
        first, buffers = self._chain.open_segment()
        path = segment_path(self._folder, first)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        failpoint("journal.after_segment")
        self._size = _write_all(self._file, buffers)
        _sync(self._file)
        failpoint("journal.after_segment_sync")
        sync_path(self._folder)


def _write_all(file: int, buffers: list[Buffer]) -> int:
    """Write all of it, in as many calls as the kernel wants; returns how many bytes."""
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    total = 0
    while views:
        written = os.writev(file, views[:BUFFERS_PER_WRITE])
        total += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return total


def _cannot_write(folder: Path, error: OSError) -> JournalError:
    return JournalError(
        f"cannot write to journal {folder}: {error.strerror}; nothing that was answered is lost: "
        "mend that and start this again"
    )
