"""A shard's journal as a target: whole files, and records whose checksum fits whatever they say."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import crc32c
import numpy as np

from fuzz.mutate import Parts
from gradmq.errors import JournalError
from gradmq.layout import Layout, Tensor
from gradmq.ps.journal.records import (
    MAGIC,
    PREFIX_BYTES,
    Decided,
    Labelled,
    Opened,
    Record,
    RolledBack,
    Seeded,
    encode,
)
from gradmq.ps.journal.segments import journal_folder, segment_path
from gradmq.ps.recovery import recover
from gradmq.wire.codec import array_payload

#: A torn end is worth a line, but not to whoever tears thousands.
WARNINGS = logging.getLogger("gradmq.ps.journal.chain")

LAYOUT = Layout((Tensor("w", "float32", (2, 3)), Tensor("b", "bfloat16", (2,))), shards=1)


def _filled(value: float, size: int = 8) -> tuple[memoryview, ...]:
    return array_payload(np.full(size, value, np.float32))  # type: ignore[return-value]


def _decided(seq: int, outcome: str, version: int | None) -> Decided:
    return Decided(
        worker="Änne", session=16777217, seq=seq, base=(1, 0), outcome=outcome,  # type: ignore[arg-type]
        version=None if version is None else (1, version), weight=0.5, staleness=1,
        reason="" if version else "stale", lr=0.1, present=b"\x03", loss=0.25, samples=8,
        payload=() if version is None else _filled(1.0),
    )  # fmt: skip


OPENED = Opened(
    run="demo", shard=0, incarnation=1, layout=LAYOUT.to_bytes(),
    optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5}, lineage=((1, -1),),
)  # fmt: skip

HISTORY: Sequence[Record] = [
    Seeded(payload=_filled(3.0)),
    _decided(1, "applied", 1),
    _decided(2, "rejected", None),
    Labelled(release=1, version=(1, 1)),
    RolledBack(contents_of=1, version=(1, 2), optimizer=("momentum",), payload=_filled(4.0, 16)),
    _decided(3, "applied", 3),
]


def segment(records: Sequence[Record]) -> bytes:
    data, crc, durable = b"", 0, 0
    for position, record in enumerate([OPENED, *records]):
        buffers, new_crc = encode(record, max(1, position), crc, durable)
        crc = new_crc if position else 0
        durable = position
        data += b"".join(map(bytes, buffers))
    return data


@cache
def segments() -> Sequence[Parts]:
    return [[segment(HISTORY[:count])] for count in range(1, len(HISTORY) + 1)]


@cache
def records() -> Sequence[Parts]:
    """[what precedes it in its segment, its map, its payload] of every record."""
    found = []
    for count, record in enumerate([OPENED, *HISTORY]):
        whole, _ = encode(record, max(1, count), 0, 0)
        head = bytes(whole[2])
        before = segment(HISTORY[: count - 1]) if count else b""
        payload = b"".join(map(bytes, getattr(record, "payload", ())))
        found.append([head, payload, before])
    return found


class JournalTarget:
    """Reads what a mutated journal in this folder holds, as a shard does that starts there."""

    def __init__(self, folder: Path) -> None:
        self._state = folder
        self._path = segment_path(journal_folder(folder / "shard-0"), 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def read_segment(self, parts: Parts) -> bool:
        self._path.write_bytes(b"".join(parts))
        WARNINGS.disabled = True
        try:
            found = recover(self._state, 0, None, 1)
        except JournalError as error:
            return self.refused(error)
        finally:
            WARNINGS.disabled = False
        return found is not None

    @staticmethod
    def refused(error: JournalError) -> bool:
        """In one line, for a person."""
        assert len(str(error)) < 1000 and "\n" not in str(error), str(error)
        return False

    def read_record(self, parts: Parts) -> bool:
        """A record whose map says anything, behind a good beginning, under a crc that fits."""
        head, payload, before, *_ = [*parts, b"", b"", b""]
        if all(before != good for _, _, good in records()):
            return False  # what comes before it is the other target's to change
        position = max(1, _records_in(before))
        chained = _last_crc(before) if before else 0
        rest = struct.pack("<IIQQQ", chained, len(head), len(payload), position, 0)
        body = rest + head + payload
        body += bytes(-(PREFIX_BYTES + len(head) + len(payload)) % 8)
        data = before + MAGIC + struct.pack("<I", crc32c.crc32c(body)) + body
        return self.read_segment([data]) or not before


def _sizes(data: bytes) -> list[tuple[int, int]]:
    """(where it begins, its crc) of every record in a good segment."""
    found, at = [], 0
    while at < len(data):
        _, crc, _, head, payload, _, _ = struct.unpack_from("<4sIIIQQQ", data, at)
        found.append((at, crc))
        at += -(-(PREFIX_BYTES + head + payload) // 8) * 8
    return found


def _records_in(data: bytes) -> int:
    return len(_sizes(data))


def _last_crc(data: bytes) -> int:
    sizes = _sizes(data)
    return sizes[-1][1] if len(sizes) > 1 else 0
