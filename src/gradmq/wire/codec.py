"""Messages to frames and back: ``[header, part, part, …]``; the only decoder of gradmq.

The header is a msgpack map with the wire version ``w``, the kind ``k`` and the fields of the
message by name. Parts are raw little-endian bytes of at most PART_BYTES each. Everything is checked
before anything is believed: lengths before parsing, types before use, the crc before the payload.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

import crc32c
import msgpack
import numpy as np
import numpy.typing as npt

from gradmq.errors import RemoteProtocolError, WireVersionMismatch
from gradmq.wire import messages
from gradmq.wire.checks import fields_reader, show
from gradmq.wire.messages import WIRE_VERSION, Buffer, Message, Payload, Publication

#: libzmq allocates per part: small enough for its allocator to reuse pages, large enough to make
#: the cost per part vanish. One part of 100 MB moves at half the rate.
PART_BYTES = 1 << 20

#: Far above any header gradmq makes; refused before msgpack sees it.
MAX_HEADER_BYTES = 1 << 20

#: Of a list or map, and the bytes of a string or binary, in a header.
MAX_ITEMS = 65_536

Vector = npt.NDArray[np.float32]


def encode(message: Message) -> list[Buffer]:
    """The frames of a message; payload buffers are cut into parts, not copied."""
    header: dict[str, Any] = {"w": WIRE_VERSION, "k": message.KIND}
    for name, plain in _WRITERS[type(message)]:
        value = getattr(message, name)
        header[name] = value if plain is None else plain(value)
    frames: list[Buffer] = [msgpack.packb(header)]
    for buffer in getattr(message, "payload", ()):
        frames.extend(_parts(buffer))
    return frames


def decode(frames: Sequence[Buffer]) -> Message:
    """The message in these frames; raises RemoteProtocolError and nothing else."""
    if not frames:
        raise RemoteProtocolError("a message without a header")
    head = frames[0]
    if len(head) > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"a header of {len(head)} bytes, at most {MAX_HEADER_BYTES}")
    header = _unpack(head)
    version = header.get("w")
    if type(version) is not int or version != WIRE_VERSION:
        raise WireVersionMismatch(
            f"wire version {show(version)}, this side speaks {WIRE_VERSION}: run the same release"
        )
    kind = header.get("k")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise RemoteProtocolError(f"unknown message kind {show(kind)}")
    longest = max(map(len, frames[1:]), default=0)
    if longest > PART_BYTES:
        raise RemoteProtocolError(f"a part of {longest} bytes, at most {PART_BYTES}")
    return reader(header, tuple(frames[1:]))


def payload_crc(payload: Iterable[Buffer]) -> int:
    """crc32c over all parts, in order."""
    crc = 0
    for part in payload:
        crc = crc32c.crc32c(part, crc)
    return crc


def payload_array(payload: Payload, size: int, crc: int, codec: str) -> Vector:
    """A float32 vector of ``size`` elements out of checked parts; raises RemoteProtocolError.

    Shares memory with a single part; not to be written to.
    """
    check_payload(payload, size, crc, codec)
    chunks = payload_chunks(payload)
    return chunks[0] if len(chunks) == 1 else _joined(payload, size)


def joined(publication: Publication, size: int) -> Publication:
    """The same publication with its payload checked and in one piece of its own memory.

    Raises RemoteProtocolError if it has not ``size`` elements or does not match its crc.
    """
    check_payload(publication.payload, size, publication.crc, publication.codec)
    return replace(publication, payload=array_payload(_joined(publication.payload, size)))


def check_payload(payload: Payload, size: int, crc: int, codec: str) -> None:
    """Raise RemoteProtocolError unless this is ``size`` elements that match their crc."""
    check_size(payload, size, codec)
    if payload_crc(payload) != crc:
        raise RemoteProtocolError("the payload does not match its crc32c: it was damaged")


def check_size(payload: Payload, size: int, codec: str) -> None:
    """Raise RemoteProtocolError unless this is as long as ``size`` elements are."""
    if codec != "f32":
        raise RemoteProtocolError(f"unknown codec {show(codec)}, this side knows 'f32'")
    got = sum(len(part) for part in payload)
    if got != 4 * size:
        raise RemoteProtocolError(f"a payload of {got} bytes where {4 * size} belong")


def payload_chunks(payload: Payload) -> tuple[Vector, ...]:
    """The elements of a payload where they lie, in order: a vector per part, not to be written to.

    Parts that are cut or lie across an element are put together in one new vector.
    """
    if all(len(part) % 4 == 0 for part in payload):
        chunks = tuple([np.frombuffer(part, "<f4") for part in payload])
        if all(chunk.flags.aligned for chunk in chunks):
            return chunks
    return (_joined(payload, sum(map(len, payload)) // 4),)


def _joined(payload: Payload, size: int) -> Vector:
    out = np.empty(size, dtype="<f4")
    raw = out.view(np.uint8)
    at = 0
    for part in payload:
        raw[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    return out


def array_payload(array: Vector) -> Payload:
    """The bytes of a contiguous float32 vector, by reference: it must not change any more."""
    return (array.data.cast("B"),) if array.size else ()


def _parts(buffer: Buffer) -> Iterable[Buffer]:
    if len(buffer) <= PART_BYTES:
        return (buffer,) if len(buffer) else ()
    view = memoryview(buffer)
    return (view[at : at + PART_BYTES] for at in range(0, len(view), PART_BYTES))


def _unpack(head: Buffer) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(
            head,
            strict_map_key=False,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_str_len=MAX_ITEMS,
            max_bin_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"not a msgpack header: {error}"[:200]) from None
    if not isinstance(header, dict):
        raise RemoteProtocolError(f"a header that is a {type(header).__name__}, not a map")
    return header


Plain = Callable[[Any], Any]
"""A value of a message as one that msgpack packs; None where it is one already."""


def _writers(cls: type) -> tuple[tuple[str, Plain | None], ...]:
    hints = get_type_hints(cls)
    names = (f.name for f in fields(cls) if f.name != "payload")
    return tuple((name, _plain_for(hints[name])) for name in names)


def _plain_for(hint: Any) -> Plain | None:
    """Only dataclasses, alone, optional, in tuples or in dicts, must be turned into maps."""
    if is_dataclass(hint):
        writers = _writers(typing.cast(type, hint))
        return lambda value: {
            name: getattr(value, name) if plain is None else plain(getattr(value, name))
            for name, plain in writers
        }
    inner = next(filter(None, map(_plain_for, get_args(hint))), None)
    if inner is None:
        return None
    if get_origin(hint) is tuple:
        return lambda value: [inner(item) for item in value]
    if get_origin(hint) is dict:
        return lambda value: {key: inner(item) for key, item in value.items()}
    return lambda value: None if value is None else inner(value)


def _reader(cls: type) -> Callable[[dict[str, Any], Payload], Message]:
    kind: str = cls.KIND  # type: ignore[attr-defined]
    read = fields_reader(cls, kind)
    with_payload = any(f.name == "payload" for f in fields(cls))

    def make(header: dict[str, Any], payload: Payload) -> Message:
        values = read(header)
        if with_payload:
            values["payload"] = payload
        elif payload:
            raise RemoteProtocolError(f"a {kind} with {len(payload)} parts where none belong")
        return typing.cast(Message, cls(**values))

    return make


_WRITERS = {cls: _writers(cls) for cls in get_args(messages.Message)}
_READERS = {cls.KIND: _reader(cls) for cls in get_args(messages.Message)}
