"""How the records of a journal follow each other over its segments: written, read, ended.

Pure: ``writer.py`` and ``segments.py`` are the thread and the files. A segment begins with a record
that no other is tied to; each decision is tied to the one before it, over segments too. So what is
missing or damaged is found, and a torn end is told from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from gradmq.errors import JournalError
from gradmq.ps.journal.records import (
    Damaged,
    NotUnderstood,
    Opened,
    Prefix,
    Record,
    encode,
    later_records,
    read,
    read_prefix,
)
from gradmq.wire.messages import Buffer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """One record where it lies in a segment."""

    position: int
    record: Record
    """Its payload lies in the segment's data, which it keeps open."""


@dataclass(slots=True)
class End:
    """Where a journal ends: what the next record is chained to."""

    position: int = 0
    crc: int = 0


class Chain:
    """The records of one life of a shard, in the order in which they are written."""

    def __init__(self, opened: Opened, end: End) -> None:
        """``end``: of what is on disk already."""
        self._opened = opened
        self._written, self._crc = end.position, end.crc
        self.durable = end.position
        """Everything up to this position is on disk."""

    def open_segment(self) -> tuple[int, list[Buffer]]:
        """The position of its first record, and the bytes that it begins with."""
        first = self._written + 1
        buffers, _ = encode(self._opened, first, self._crc, self.durable)
        return first, buffers

    def add(self, batch: Sequence[tuple[int, Record]]) -> list[Buffer]:
        """The bytes of these records, payloads by reference."""
        buffers: list[Buffer] = []
        for position, record in batch:
            assert position == self._written + 1, (position, self._written)
            encoded, self._crc = encode(record, position, self._crc, self.durable)
            buffers += encoded
            self._written = position
        return buffers

    def on_synced(self) -> None:
        """All that was added is on disk."""
        self.durable = self._written


class Segment(Protocol):
    """The bytes of a segment, on a disk that may forget what was not synced."""

    @property
    def name(self) -> str: ...

    def data(self) -> memoryview: ...

    def keep(self, nbytes: int) -> None:
        """Have so much of it on disk for good, and nothing behind; with 0 it goes altogether."""
        ...


class Records:
    """Goes through the records of a journal behind some position, in order, and finds its end."""

    def __init__(self, name: str, segments: Sequence[tuple[int, Segment]]) -> None:
        """``segments``: the position of the first record of each, in order."""
        self.name = name
        self._segments = segments
        self.end = End()
        """Known once ``after`` was gone through."""
        self.cut_bytes = 0
        """What stood at the end and was no whole record, or never on disk for sure."""

    def after(self, position: int, repair: bool = False) -> Iterator[Stored]:
        """All records behind this position, and before them what opened their segment.

        A torn end is left out. With ``repair`` it is cut off, and the rest is on disk for good: who
        wrote it may have been killed before it was synced. Raises JournalError if records are
        missing, or damaged although they were on disk for sure.
        """
        known = self._segments
        covering = [i for i, (first, _) in enumerate(known) if first <= position + 1]
        if known and not covering:
            raise JournalError(
                f"{self.name} begins with record {known[0][0]}, but what the newest checkpoint "
                f"holds ends with {position}: segments are missing; restore them from a copy"
            )
        begin = covering[-1] if covering else 0
        if begin and known[begin][0] == position + 1:
            begin -= 1  # should this one be torn from its beginning, the end is in the one before
        known = known[begin:]
        self.end = End(position)
        chained = False
        for index, (first, segment) in enumerate(known):
            if chained and first != self.end.position + 1:
                raise JournalError(
                    f"{segment.name} begins with record {first}, the one before it ends with "
                    f"{self.end.position}: a segment is missing; restore it from a copy"
                )
            is_last = index == len(known) - 1
            yield from self._read(segment, first, position, chained, is_last and repair, is_last)
            chained = True

    def _read(
        self,
        segment: Segment,
        first: int,
        after: int,
        chained: bool,
        repair: bool,
        is_last: bool,
    ) -> Iterator[Stored]:
        data = segment.data()
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
                    f"{segment.name}, record {expected}: {error}; was it written by another gradmq?"
                ) from None
            except Damaged as error:
                self._on_damage(segment.name, data, at, expected, is_last, error)
                break
            if is_opening:
                previous = prefix.previous
                if not chained:
                    self.end = End(first - 1, previous)  # which may be all: it is chained to, too
                yield Stored(first - 1, record)
            else:
                previous, expected = prefix.crc, expected + 1
                self.end = End(prefix.position, prefix.crc)
                if prefix.position > after:
                    yield Stored(prefix.position, record)
            at += prefix.nbytes
        if repair:
            segment.keep(at)

    def _next(self, data: memoryview, after: int) -> tuple[Prefix, Record]:
        """What a checkpoint holds already need not be read again, only passed over."""
        return read(data, with_payload=read_prefix(data).position > after)

    def _on_damage(
        self, name: str, data: memoryview, at: int, position: int, is_last: bool, error: Damaged
    ) -> None:
        """A torn end was never promised to anybody; anything else is refused."""
        later = list(later_records(data[at:]))
        if not is_last or any(prefix.durable >= position for prefix in later):
            raise JournalError(
                f"{name} is damaged at byte {at}, in record {position}, which was on disk: "
                f"{error}; restore the file from a copy, or give up what came after a release with "
                "--restore-release"
            ) from None
        self.cut_bytes = len(data) - at
        log.warning(
            "%s: the last %d bytes (from record %d on) are torn and left out: %s",
            name, self.cut_bytes, position, error,
        )  # fmt: skip


def superseded(firsts: Sequence[int], position: int) -> list[int]:
    """Of segments with these first positions, those whose records are all up to this one."""
    return [first for first, next_first in pairwise(firsts) if next_first <= position + 1]
