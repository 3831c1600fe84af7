"""Records of a journal and their bytes: what a shard did, enough to do it again bit for bit.

A segment is one ``Opened`` record and then decisions. A record is a prefix, a msgpack map, its
payload and zeros up to a multiple of 8. The prefix, little-endian: the four bytes ``gmqJ``; crc32c
of all that follows; crc of the record before (0: the first of all); bytes of the map; bytes of the
payload; position, counted from 1 over all segments (of ``Opened``: that of the next record, and no
record is chained to it); and up to which position everything was on disk when this was written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import crc32c
import msgpack

from gradmq.errors import JournalError, RemoteProtocolError
from gradmq.layout import Layout
from gradmq.ps.state import ShardState
from gradmq.wire.checks import fields_reader
from gradmq.wire.codec import array_payload
from gradmq.wire.messages import Buffer, Outcome, Payload, Push, Verdict, Version

#: Changed when an older gradmq could misread a journal. Unknown keys are ignored.
FORMAT = 1

MAGIC = b"gmqJ"
ALIGNED_BYTES = 8

#: Far above any map that gradmq writes; what claims more is damage.
MAX_HEAD_BYTES = 1 << 24

#: A damaged segment is searched in pieces of this size, a multiple of ALIGNED_BYTES.
SEARCHED_BYTES = 1 << 24

_PREFIX = struct.Struct("<4sIIIQQQ")
_CRC_FROM = 8

PREFIX_BYTES = _PREFIX.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The first record of a segment: whose it is, and where this life of the shard began."""

    KIND: ClassVar = "opened"
    format: int = FORMAT
    run: str
    shard: int
    incarnation: int
    layout: bytes
    optimizer: dict[str, Any]
    lineage: Any
    """As in ShardState."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """The run got its first parameters; payload: they."""

    KIND: ClassVar = "seeded"
    payload: Payload = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A push was decided; payload: the gradient as it came, if it was applied."""

    KIND: ClassVar = "decided"
    worker: str
    session: int
    seq: int
    base: Version
    outcome: Outcome
    version: Version | None
    weight: float
    staleness: int
    reason: str
    lr: float
    present: bytes | None
    loss: float | None
    samples: int
    payload: Payload = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """The present version became this shard's part of a release."""

    KIND: ClassVar = "labelled"
    release: int
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """The contents of an older release became the next version; payload: they, then the optimizer's
    vectors in the order of their names."""

    KIND: ClassVar = "rolled_back"
    contents_of: int
    version: Version
    optimizer: tuple[str, ...]
    payload: Payload = field(default=(), repr=False)


def decision(worker: str, push: Push, verdict: Verdict, lr: float, payload: Payload) -> Decided:
    """What is kept of a push; no payload if it was not applied."""
    return Decided(
        worker=worker,
        session=push.session,
        seq=push.seq,
        base=push.base,
        outcome=verdict.outcome,
        version=verdict.version,
        weight=verdict.weight,
        staleness=verdict.staleness,
        reason=verdict.reason,
        lr=lr,
        present=push.present,
        loss=push.loss,
        samples=push.samples,
        payload=payload,
    )


def rollback(contents_of: int, version: Version, contents: ShardState) -> RolledBack:
    """What is kept of a way back: all that it brought."""
    names = tuple(sorted(contents.optimizer))
    vectors = [contents.parameters, *(contents.optimizer[name] for name in names)]
    payload = tuple(part for vector in vectors for part in array_payload(vector))
    return RolledBack(contents_of=contents_of, version=version, optimizer=names, payload=payload)


Record = Opened | Seeded | Decided | Labelled | RolledBack

_KINDS: tuple[type[Record], ...] = (Opened, Seeded, Decided, Labelled, RolledBack)
_FIELDS = {cls: tuple(f.name for f in fields(cls) if f.name != "payload") for cls in _KINDS}
_READERS = {cls.KIND: (cls, fields_reader(cls, cls.KIND)) for cls in _KINDS}


class Damaged(JournalError):
    """These bytes are no record, or not all of one."""


class NotUnderstood(JournalError):
    """A whole record, as it was written, that this gradmq has no use for."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the fixed part of a record says of the rest."""

    crc: int
    previous: int
    head_bytes: int
    payload_bytes: int
    position: int
    durable: int

    @property
    def nbytes(self) -> int:
        """Of the whole record."""
        unpadded = PREFIX_BYTES + self.head_bytes + self.payload_bytes
        return -(-unpadded // ALIGNED_BYTES) * ALIGNED_BYTES


def encode(record: Record, position: int, previous: int, durable: int) -> tuple[list[Buffer], int]:
    """The buffers of a record, the payload by reference, and its crc."""
    values = {name: getattr(record, name) for name in _FIELDS[type(record)]}
    head: bytes = msgpack.packb({"k": record.KIND, **values})
    payload = getattr(record, "payload", ())
    payload_bytes = sum(map(len, payload))
    rest = _PREFIX.pack(MAGIC, 0, previous, len(head), payload_bytes, position, durable)[_CRC_FROM:]
    body: list[Buffer] = [rest, head, *payload]
    body.append(bytes(-(PREFIX_BYTES + len(head) + payload_bytes) % ALIGNED_BYTES))
    crc = 0
    for buffer in body:
        crc = crc32c.crc32c(buffer, crc)
    return [struct.pack("<4sI", MAGIC, crc), *body], crc


def read_prefix(data: memoryview) -> Prefix:
    """The prefix at the start of these bytes; raises Damaged."""
    if len(data) < PREFIX_BYTES:
        raise Damaged(f"{len(data)} bytes where a record of at least {PREFIX_BYTES} begins")
    magic, *values = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("no record begins here")
    prefix = Prefix(*values)
    if prefix.head_bytes > MAX_HEAD_BYTES or prefix.nbytes > len(data):
        raise Damaged(f"a record of {prefix.nbytes} bytes where {len(data)} are left")
    return prefix


def read_whole(data: memoryview) -> Prefix:
    """The prefix at the start of these bytes, if a whole record follows; raises Damaged."""
    prefix = read_prefix(data)
    if crc32c.crc32c(data[_CRC_FROM : prefix.nbytes]) != prefix.crc:
        raise Damaged("a record does not match its crc32c")
    return prefix


def read(data: memoryview, with_payload: bool = True) -> tuple[Prefix, Record]:
    """The record at the start of these bytes, its payload by reference.

    Everything is summed, also where the payload is not wanted. Raises Damaged or NotUnderstood.
    """
    prefix = read_whole(data)
    body_at = PREFIX_BYTES + prefix.head_bytes
    payload = data[body_at : body_at + prefix.payload_bytes]
    return prefix, _record(data[PREFIX_BYTES:body_at], payload if with_payload else payload[:0])


def _record(head: memoryview, payload: memoryview) -> Record:
    try:
        values = msgpack.unpackb(head, strict_map_key=False, max_ext_len=0)
        if not isinstance(values, dict) or values.get("k") not in _READERS:
            raise RemoteProtocolError("a kind of record that this gradmq does not know")
        cls, read_fields = _READERS[values["k"]]
        record = cls(**read_fields(values))
    except (ValueError, TypeError, msgpack.UnpackException, RemoteProtocolError) as error:
        raise NotUnderstood(f"what it says is not understood: {error}"[:200]) from None
    if isinstance(record, Opened) and record.format != FORMAT:
        raise NotUnderstood(f"it is of format {record.format}, this gradmq reads {FORMAT}")
    if payload and isinstance(record, Seeded | Decided | RolledBack):
        return replace(record, payload=(payload,))
    return record


def lineage_of(opened: Opened) -> tuple[tuple[int, int], ...]:
    """Of ShardState; raises NotUnderstood."""
    try:
        return tuple((int(incarnation), int(version)) for incarnation, version in opened.lineage)
    except (TypeError, ValueError):
        raise NotUnderstood(f"a lineage that is none: {opened.lineage!r}"[:200]) from None


def layout_of(opened: Opened) -> Layout:
    """Of the run; raises NotUnderstood."""
    try:
        layout = Layout.from_bytes(opened.layout)
    except RemoteProtocolError as error:
        raise NotUnderstood(f"{error}"[:200]) from None
    if opened.shard >= layout.shards:
        raise NotUnderstood(f"shard {opened.shard} of {layout.shards}")
    return layout


def later_records(data: memoryview) -> Iterator[Prefix]:
    """Whole records somewhere behind a damaged one; what only looks like one is passed over."""
    at = ALIGNED_BYTES
    while (at := _find_magic(data, at)) >= 0:
        try:
            prefix = read_whole(data[at:])
        except Damaged:
            at += ALIGNED_BYTES
        else:
            yield prefix
            at += prefix.nbytes


def _find_magic(data: memoryview, at: int) -> int:
    """Where, at a multiple of 8, a record may begin next; −1: nowhere."""
    while at < len(data):
        window = bytes(data[at : at + SEARCHED_BYTES])
        found = window.find(MAGIC)
        while found >= 0 and found % ALIGNED_BYTES:
            found = window.find(MAGIC, found + 1)
        if found >= 0:
            return at + found
        at += SEARCHED_BYTES
    return -1
