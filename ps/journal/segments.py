"""The segments of a journal on disk: ``shard-I/journal/NNNNNNNNNNNN.seg``, read, cut and dropped.

A segment is named after the position of its first record, and is never written again once another
one has begun: it is synced before, by its writer or by the life that found it as the last one. So
only the end of the last one may be torn.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from gradmq.durable import sync_path
from gradmq.ps.journal.chain import Records, superseded


def journal_folder(shard_folder: Path) -> Path:
    return shard_folder / "journal"


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:012d}.seg"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """(position of its first record, path) of every segment, in order."""
    paths = [path for path in folder.glob("*.seg") if path.stem.isdigit()]
    return sorted((int(path.stem), path) for path in paths)


class SegmentFile:
    """A segment's file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return str(self._path)

    def data(self) -> memoryview:
        """A map of the file."""
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def keep(self, nbytes: int) -> None:
        if nbytes == 0:
            self._path.unlink()
        else:
            with self._path.open("r+b") as file:
                file.truncate(nbytes)
                os.fsync(file.fileno())
        sync_path(self._path.parent)


class Journal(Records):
    """The records in a folder."""

    def __init__(self, folder: Path) -> None:
        known = [(first, SegmentFile(path)) for first, path in segments(folder)]
        super().__init__(str(folder), known)


def drop_before(folder: Path, position: int) -> None:
    """Remove the segments whose records are all up to this position; raises OSError."""
    for first in superseded([first for first, _ in segments(folder)], position):
        segment_path(folder, first).unlink()


def set_aside(folder: Path, incarnation: int) -> None:
    """Give up a journal without destroying it; raises OSError."""
    if segments(folder):
        os.rename(folder, folder.with_name(f"journal.given-up-by-{incarnation}"))
