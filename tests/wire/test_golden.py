"""The bytes of every message are those of the golden files; a change of the wire is seen here.

``python tests/wire/regenerate_golden.py`` writes the files anew after a deliberate change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from gradmq.errors import RemoteProtocolError, WireVersionMismatch
from gradmq.layout import Layout
from gradmq.wire.codec import (
    MAX_HEADER_BYTES,
    PART_BYTES,
    decode,
    encode,
    joined,
    payload_array,
    payload_crc,
)
from gradmq.wire.messages import (
    WIRE_VERSION,
    Detach,
    Directory,
    Hello,
    Message,
    Payload,
    Publication,
    Renew,
)

FOLDER = Path(__file__).parent / "golden"


def header_of(frames: list[bytes]) -> dict[str, Any]:
    header: dict[str, Any] = msgpack.unpackb(frames[0], strict_map_key=False)
    return header


def with_header(frames: list[bytes], **changes: Any) -> list[bytes]:
    """The same message with some keys of its header changed or added."""
    return [msgpack.packb({**header_of(frames), **changes}), *frames[1:]]


# -- the files ------------------------------------------------------------------------------------


def test_a_message_encodes_to_its_golden_bytes(
    golden_message: Message, golden_frames: list[bytes]
) -> None:
    assert [bytes(frame) for frame in encode(golden_message)] == golden_frames


def test_golden_bytes_decode_to_their_message(
    golden_message: Message, golden_frames: list[bytes]
) -> None:
    assert decode(golden_frames) == golden_message


def test_every_kind_has_a_golden_file_and_every_file_a_message(
    all_golden_frames: dict[str, list[bytes]],
) -> None:
    files = {path.stem for path in FOLDER.glob("*.bin")}
    assert files == {*all_golden_frames, "layout"}
    kinds = {header_of(frames)["k"] for frames in all_golden_frames.values()}
    assert kinds == {message.KIND for message in Message.__args__}


def test_the_layout_has_its_golden_bytes_and_hash(golden_layout: tuple[Layout, str]) -> None:
    layout, golden_hash = golden_layout
    golden = (FOLDER / "layout.bin").read_bytes()
    assert layout.to_bytes() == golden
    assert Layout.from_bytes(golden) == layout
    assert layout.hash == golden_hash == hashlib.sha256(golden).hexdigest()[:16]


# -- other releases -------------------------------------------------------------------------------


def test_keys_that_nobody_knows_are_ignored(
    golden_message: Message, golden_frames: list[bytes]
) -> None:
    later = with_header(golden_frames, colour="red", nested={"deep": [1, {"x": b"y"}]})
    assert decode(later) == golden_message


def test_unknown_keys_are_ignored_inside_structures_too(
    all_golden_frames: dict[str, list[bytes]],
) -> None:
    frames = all_golden_frames["verdicts"]
    verdicts = [{**v, "colour": "red"} for v in header_of(frames)["verdicts"]]
    assert decode(with_header(frames, verdicts=verdicts)) == decode(frames)


def test_a_field_with_a_default_may_be_absent() -> None:
    hello = {"w": WIRE_VERSION, "k": "hello", "role": "infer", "name": "", "host": "h", "pid": 1}
    assert decode([msgpack.packb(hello)]) == Hello(role="infer", name="", host="h", pid=1)


@pytest.mark.parametrize(
    ("kind", "later"),
    [("push", ["slot"]), ("attach", ["segment"]), ("attached", ["ring", "not_shared"])],
)
def test_who_says_nothing_of_shared_memory_uses_tcp(
    kind: str, later: list[str], all_golden_frames: dict[str, list[bytes]]
) -> None:
    header = header_of(all_golden_frames[kind])
    for key in later:
        del header[key]
    message = decode([msgpack.packb(header), *all_golden_frames[kind][1:]])
    assert [getattr(message, key) for key in later] in ([None], [None, ""])


def test_a_field_without_a_default_may_not(all_golden_frames: dict[str, list[bytes]]) -> None:
    header = header_of(all_golden_frames["query"])
    del header["seq"]
    with pytest.raises(RemoteProtocolError, match="query without 'seq'"):
        decode([msgpack.packb(header)])


@pytest.mark.parametrize("other", [0, 2, 900])
def test_another_wire_version_is_refused_with_both_numbers(
    other: int, golden_frames: list[bytes]
) -> None:
    with pytest.raises(WireVersionMismatch, match=rf"\b{other}\b.*\b{WIRE_VERSION}\b"):
        decode(with_header(golden_frames, w=other))


@pytest.mark.parametrize("other", [None, True, 1.0, "1", [1]])
def test_only_the_integer_is_a_wire_version(other: Any) -> None:
    with pytest.raises(WireVersionMismatch):
        decode([msgpack.packb({"w": other, "k": "goodbye"})])


@pytest.mark.parametrize("kind", ["push2", "", None, 7, ["push"], "Push"])
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown message kind"):
        decode([msgpack.packb({"w": WIRE_VERSION, "k": kind})])


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [-1, 1 << 63, 1.0, "1", True, None, [1]])
def test_a_count_is_an_integer_from_zero_to_two_to_the_63(seq: Any) -> None:
    header = {"w": WIRE_VERSION, "k": "query", "session": 1, "seq": seq}
    with pytest.raises(RemoteProtocolError, match=r"query\.seq: .* is not a count"):
        decode([msgpack.packb(header)])


@pytest.mark.parametrize("version", [[1], [1, 2, 3], [1, -2], ["1", 2], {"1": 2}, 12, None])
def test_a_version_is_a_pair_of_counts(
    version: Any, all_golden_frames: dict[str, list[bytes]]
) -> None:
    with pytest.raises(RemoteProtocolError, match=r"beacon\.version"):
        decode(with_header(all_golden_frames["beacon"], version=version))


@pytest.mark.parametrize(
    "address",
    ["", "localhost:5", "tcp://a b:1", "tcp://*:5", "tcp://h:x", "ipc:///tmp/x", "tcp://h:1\n", 5],
)
def test_an_address_is_one_that_a_socket_can_connect_to(
    address: Any, all_golden_frames: dict[str, list[bytes]]
) -> None:
    with pytest.raises(RemoteProtocolError, match=r"hello\.addresses"):
        decode(with_header(all_golden_frames["hello"], addresses=[address]))


@pytest.mark.parametrize(
    "report",
    [
        {"version": "many"},
        {"loss": "low"},
        {"workers": {"worker-1": {"applied": 3}}},
        {"workers": {"worker-1": {**dict.fromkeys(("applied", "samples"), 1), "rejected": 1}}},
        {"ready": 1},
        {7: 7},
    ],
)
def test_a_report_is_free_but_for_the_keys_that_mean_something(report: dict[Any, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"renew\.report"):
        decode(encode(Renew(report=report)))


def test_a_free_value_nests_sixteen_deep_and_no_deeper() -> None:
    deepest: Any = "x"
    for _ in range(16):
        deepest = [deepest]
    assert decode(encode(Renew(report={"free": deepest}))) == Renew(report={"free": deepest})
    with pytest.raises(RemoteProtocolError, match="nested deeper than 16"):
        decode(encode(Renew(report={"free": {"one more": deepest}})))


# -- frames and payloads --------------------------------------------------------------------------


def test_parts_of_a_message_without_payload_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="a detach with 1 parts where none belong"):
        decode([*encode(Detach(session=1)), b""])


def test_a_message_needs_a_header() -> None:
    with pytest.raises(RemoteProtocolError, match="without a header"):
        decode([])


def test_a_header_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(RemoteProtocolError, match=f"a header of {MAX_HEADER_BYTES + 1} bytes"):
        decode([bytes(MAX_HEADER_BYTES + 1)])


def test_a_part_over_its_limit_is_refused(all_golden_frames: dict[str, list[bytes]]) -> None:
    header = all_golden_frames["publication"][0]
    with pytest.raises(RemoteProtocolError, match=f"a part of {PART_BYTES + 1} bytes"):
        decode([header, b"", bytes(PART_BYTES + 1)])


@pytest.mark.parametrize(
    ("payload_bytes", "parts"),
    [
        (0, []),
        (4, [4]),
        (PART_BYTES, [PART_BYTES]),
        (2 * PART_BYTES + 4, [PART_BYTES, PART_BYTES, 4]),
    ],
)
def test_a_payload_travels_in_parts_of_at_most_a_mebibyte(
    payload_bytes: int, parts: list[int]
) -> None:
    message = Directory(
        serial=1,
        run="demo",
        phase="open",
        shards=(),
        sessions=(),
        horizon=0,
        seeder=0,
        payload=(bytes(range(256)) * (payload_bytes // 256) + bytes(payload_bytes % 256),),
    )
    frames = encode(message)
    assert [len(frame) for frame in frames[1:]] == parts
    received = decode(frames)
    assert isinstance(received, Directory)
    assert b"".join(received.payload) == message.payload[0]


def test_the_crc_is_castagnolis() -> None:
    assert payload_crc([b"123456789"]) == payload_crc([b"1234", b"", b"56789"]) == 0xE3069283
    assert payload_crc([]) == 0


def publication(payload: Payload, crc: int, codec: str = "f32") -> Publication:
    return Publication(
        run="demo", shard=0, version=(1, 1), layout="x", codec=codec, crc=crc, payload=payload
    )


VALUES = np.arange(6, dtype="<f4")
BYTES = VALUES.tobytes()
CRC = payload_crc([BYTES])


@pytest.mark.parametrize("cuts", [[24], [4, 20], [1, 2, 21], [0, 24, 0], [23, 1]])
def test_where_a_payload_is_cut_means_nothing(cuts: list[int]) -> None:
    ends = np.cumsum(cuts)
    payload = tuple(BYTES[end - cut : end] for cut, end in zip(cuts, ends, strict=True))
    np.testing.assert_array_equal(payload_array(payload, 6, CRC, "f32"), VALUES)
    whole = joined(publication(payload, CRC), 6)
    np.testing.assert_array_equal(np.frombuffer(whole.payload[0], "<f4"), VALUES)


def test_a_payload_that_is_not_aligned_in_memory_is_read_right() -> None:
    shifted = memoryview(b"x" + BYTES)[1:]
    np.testing.assert_array_equal(payload_array((shifted,), 6, CRC, "f32"), VALUES)


def test_a_joined_payload_is_memory_of_its_own() -> None:
    received = bytearray(BYTES)
    whole = joined(publication((received,), CRC), 6)
    received[:] = bytes(24)
    np.testing.assert_array_equal(np.frombuffer(whole.payload[0], "<f4"), VALUES)


@pytest.mark.parametrize("payload", [(), (b"",), (b"", b"")])
def test_an_empty_payload_is_an_empty_vector(payload: tuple[bytes, ...]) -> None:
    assert payload_array(payload, 0, 0, "f32").size == 0
    assert joined(publication(payload, 0), 0).payload == ()


@pytest.mark.parametrize(
    ("payload", "size", "crc", "codec", "why"),
    [
        ((BYTES,), 5, CRC, "f32", "24 bytes where 20 belong"),
        ((BYTES[:-1],), 6, CRC, "f32", "23 bytes where 24 belong"),
        ((), 6, 0, "f32", "0 bytes where 24 belong"),
        ((BYTES,), 0, CRC, "f32", "24 bytes where 0 belong"),
        ((BYTES,), 6, CRC + 1, "f32", "crc32c"),
        ((BYTES[:-1] + b"?",), 6, CRC, "f32", "crc32c"),
        ((BYTES,), 6, CRC, "zip", "unknown codec 'zip'"),
    ],
)
def test_a_payload_that_is_not_what_its_header_says_is_refused(
    payload: tuple[bytes, ...], size: int, crc: int, codec: str, why: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        payload_array(payload, size, crc, codec)
    with pytest.raises(RemoteProtocolError, match=why):
        joined(publication(payload, crc, codec), size)
