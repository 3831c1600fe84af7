"""The segments of a journal on disk: ``shard-I/journal/NNNNNNNNNNNN.seg``, read, cut and dropped.

A segment is named after the position of its first record, and is never written again once another
one has begun: the writer syncs it before. So only the end of the last one may be torn.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gradmq.durable import sync_path
from gradmq.errors import JournalError
from gradmq.ps.journal.records import (
    Damaged,
    NotUnderstood,
    Opened,
    Prefix,
    Record,
    later_records,
    read,
    read_prefix,
)

log = logging.getLogger(__name__)


def journal_folder(shard_folder: Path) -> Path:
    return shard_folder / "journal"


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:012d}.seg"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """(position of its first record, path) of every segment, in order."""
    paths = [path for path in folder.glob("*.seg") if path.stem.isdigit()]
    return sorted((int(path.stem), path) for path in paths)


@dataclass(frozen=True, slots=True)
class Stored:
    """One record where it lies in a segment."""

    position: int
    record: Record
    """Its payload lies in a map of the file, which it keeps open."""
    nbytes: int


@dataclass(slots=True)
class End:
    """Where a journal ends: what the next record is chained to."""

    position: int = 0
    crc: int = 0


class Journal:
    """Reads the records of a shard's journal after some position, in order, and finds its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.end = End()
        """Known once ``after`` was gone through."""
        self.cut_bytes = 0
        """What stood at the end and was no whole record, or never on disk for sure."""

    def after(self, position: int, repair: bool = False) -> Iterator[Stored]:
        """All records behind this position, and before them what opened their segment.

        A torn end is left out, and with ``repair`` cut off. Raises JournalError if records are
        missing, or damaged although they were on disk for sure.
        """
        known = segments(self._folder)
        covering = [i for i, (first, _) in enumerate(known) if first <= position + 1]
        if known and not covering:
            raise JournalError(
                f"{self._folder} begins with record {known[0][0]}, but what the newest checkpoint "
                f"holds ends with {position}: segments are missing; restore them from a copy"
            )
        known = known[covering[-1] if covering else 0 :]
        self.end = End(position)
        chained = False
        for index, (first, path) in enumerate(known):
            if chained and first != self.end.position + 1:
                raise JournalError(
                    f"{path} begins with record {first}, the one before it ends with "
                    f"{self.end.position}: a segment is missing; restore it from a copy"
                )
            is_last = index == len(known) - 1
            yield from self._read(path, first, position, chained, is_last and repair, is_last)
            chained = True

    def _read(
        self, path: Path, first: int, after: int, chained: bool, repair: bool, is_last: bool
    ) -> Iterator[Stored]:
        data = _mapped(path)
        at, expected = 0, first
        previous = self.end.crc if chained else None
        while at < len(data):
            try:
                prefix, record = self._next(data[at:], after)
                if prefix.position != expected:
                    raise Damaged(f"record {prefix.position} where {expected} belongs")
                is_opening = isinstance(record, Opened)
                if is_opening != (at == 0):
                    raise Damaged("a segment that does not begin with what opened it")
                if previous is not None and prefix.previous != previous:
                    raise Damaged(f"record {expected} does not follow the one before it")
            except NotUnderstood as error:
                raise JournalError(
                    f"{path}, record {expected}: {error}; was it written by another gradmq?"
                ) from None
            except Damaged as error:
                self._on_damage(path, data, at, expected, is_last, error)
                if repair:
                    _cut(path, at)
                return
            if is_opening:
                previous = prefix.previous
                yield Stored(first - 1, record, prefix.nbytes)
            else:
                previous, expected = prefix.crc, expected + 1
                self.end = End(prefix.position, prefix.crc)
                if prefix.position > after:
                    yield Stored(prefix.position, record, prefix.nbytes)
            at += prefix.nbytes

    def _next(self, data: memoryview, after: int) -> tuple[Prefix, Record]:
        """What a checkpoint holds already need not be read again, only passed over."""
        return read(data, with_payload=read_prefix(data).position > after)

    def _on_damage(
        self, path: Path, data: memoryview, at: int, position: int, is_last: bool, error: Damaged
    ) -> None:
        """A torn end was never promised to anybody; anything else is refused."""
        later = list(later_records(data[at:]))
        if not is_last or any(prefix.durable >= position for prefix in later):
            raise JournalError(
                f"{path} is damaged at byte {at}, in record {position}, which was on disk: "
                f"{error}; restore the file from a copy, or give up what came after a release with "
                "--restore-release"
            ) from None
        self.cut_bytes = len(data) - at
        log.warning(
            "%s: the last %d bytes (from record %d on) are torn and left out: %s",
            path, self.cut_bytes, position, error,
        )  # fmt: skip


def drop_before(folder: Path, position: int) -> None:
    """Remove the segments whose records are all up to this position; raises OSError."""
    known = segments(folder)
    for (_, path), (next_first, _) in pairwise(known):
        if next_first <= position + 1:
            path.unlink()


def set_aside(folder: Path, incarnation: int) -> None:
    """Give up a journal without destroying it; raises OSError."""
    if segments(folder):
        os.rename(folder, folder.with_name(f"journal.given-up-by-{incarnation}"))


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _cut(path: Path, size: int) -> None:
    """On disk before anything is written behind it; an empty segment goes altogether."""
    if size == 0:
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
    sync_path(path.parent)
