"""Whatever bytes come, the decoder answers with a message or with RemoteProtocolError, quickly."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmq.errors import RemoteProtocolError
from gradmq.layout import Layout
from gradmq.wire.codec import decode, encode, joined, payload_array
from gradmq.wire.messages import WIRE_VERSION, Message, Publication, Push, Renew, Seed

#: A hostile message takes microseconds to milliseconds; one that takes this long has won.
QUICKLY = pytest.mark.timeout(10)

MUTATIONS_PER_MESSAGE = 2_000


def outcome(frames: list[Any]) -> Message | None:
    """The message in these frames, None if it is refused; any other exception fails the test."""
    try:
        message = decode(frames)
        if isinstance(message, Push | Seed | Publication):
            payload_array(message.payload, 6, message.crc, "f32")
        if isinstance(message, Publication):
            joined(message, 6)
        return message
    except RemoteProtocolError as error:
        text = str(error)
    assert len(text) < 400
    assert "\n" not in text
    return None


# -- bytes ----------------------------------------------------------------------------------------


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_bytes_are_no_message(frames: list[bytes]) -> None:
    assert outcome(frames) is None


def mutations(frames: list[bytes], chance: random.Random) -> Iterator[list[bytes]]:
    """Flipped, cut, repeated, exchanged and inserted bytes and frames, a few at once."""
    for _ in range(MUTATIONS_PER_MESSAGE):
        mutated = [bytearray(frame) for frame in frames]
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            frame = chance.choice(mutated)
            at = chance.randrange(len(frame) + 1)
            match chance.randrange(7):
                case 0 if frame:
                    frame[at - 1] ^= 1 << chance.randrange(8)
                case 1 if frame:
                    frame[at - 1] = chance.choice((0, 0x7F, 0x80, 0xC0, 0xC1, 0xD9, 0xFF))
                case 2:
                    del frame[at:]
                case 3:
                    frame[at:at] = chance.randbytes(chance.randrange(1, 9))
                case 4:
                    frame[at:at] = frame[at : at + chance.randrange(1, 30)]
                case 5:
                    mutated.insert(chance.randrange(len(mutated) + 1), bytearray(frame))
                case _:
                    chance.shuffle(mutated)
        yield [bytes(frame) for frame in mutated]


def test_no_mutation_of_a_golden_message_breaks_the_decoder(
    golden_name: str, golden_frames: list[bytes]
) -> None:
    for frames in mutations(golden_frames, random.Random(golden_name)):
        outcome(frames)


@pytest.mark.parametrize("seed", range(3))
def test_no_mutation_of_a_layout_breaks_its_reader(
    seed: int, golden_layout: tuple[Layout, str]
) -> None:
    for (data,) in (m[:1] for m in mutations([golden_layout[0].to_bytes()], random.Random(seed))):
        with contextlib.suppress(RemoteProtocolError):
            layout = Layout.from_bytes(data)
            assert Layout.from_bytes(layout.to_bytes()) == layout


# -- values ---------------------------------------------------------------------------------------

WRONG: list[Any] = [
    None,
    True,
    -1,
    1 << 63,
    (1 << 64) - 1,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 1000,
    b"\x00\xff",
    [],
    [[]],
    [1, 2, 3],
    ["a", None],
    {},
    {1: 2},
    {"a": [1]},
    [[[[[[[[[1]]]]]]]]],
    msgpack.ExtType(5, b""),
]


def test_a_wrong_type_in_any_field_is_refused_or_harmless(golden_frames: list[bytes]) -> None:
    header = msgpack.unpackb(golden_frames[0], strict_map_key=False)
    for key in header:
        for value in WRONG:
            message = outcome([msgpack.packb({**header, key: value}), *golden_frames[1:]])
            assert message is None or outcome([bytes(f) for f in encode(message)]) is not None


def plain_values() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 64) - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=4)
        ),
        max_leaves=8,
    )


@settings(max_examples=150)
@given(data=st.data())
def test_any_plain_value_in_any_field_is_refused_or_harmless(
    data: st.DataObject, all_golden_frames: dict[str, list[bytes]]
) -> None:
    frames = all_golden_frames[data.draw(st.sampled_from(sorted(all_golden_frames)))]
    header = msgpack.unpackb(frames[0], strict_map_key=False)
    key = data.draw(st.sampled_from(sorted(header)))
    message = outcome([msgpack.packb({**header, key: data.draw(plain_values())}), *frames[1:]])
    assert message is None or decode([bytes(f) for f in encode(message)]).KIND == message.KIND


# -- claims, and what costs time or memory --------------------------------------------------------

HEAD: bytes = b"\x83" + msgpack.packb({"w": WIRE_VERSION, "k": "renew"})[1:] + b"\xa6report"


def header_with(value: bytes) -> bytes:
    """A renewal whose report is these bytes of msgpack."""
    return HEAD + value


MEBIBYTE = 1 << 20

EXPENSIVE: dict[str, Callable[[], bytes]] = {
    "a map of four billion keys": lambda: b"\xdf\xff\xff\xff\xff",
    "a list of four billion items": lambda: header_with(b"\xdd\xff\xff\xff\xff"),
    "a string of four gigabytes": lambda: header_with(b"\xdb\xff\xff\xff\xff"),
    "a binary of four gigabytes": lambda: header_with(b"\xc6\xff\xff\xff\xff"),
    "an extension of four gigabytes": lambda: header_with(b"\xc9\xff\xff\xff\xff\x01"),
    "a timestamp": lambda: header_with(b"\x81\xa1a\xd6\xff\x00\x00\x00\x00"),
    "an empty extension": lambda: header_with(b"\x81\xa1a\xc7\x00\x05"),
    "lists in lists, some": lambda: header_with(b"\x81\xa1a" + b"\x91" * 500 + b"\x01"),
    "lists in lists, many": lambda: header_with(b"\x81\xa1a" + b"\x91" * 1_000 + b"\x01"),
    "lists in lists, to the end": lambda: header_with(b"\x91" * (MEBIBYTE - 100)),
    "maps in maps": lambda: header_with(b"\x81\xa1a" * 900 + b"\x01"),
    "a wire version of lists in lists": lambda: b"\x81\xa1w" + b"\x91" * 1_000 + b"\x01",
    "a kind of lists in lists": lambda: b"\x82\xa1w\x01\xa1k" + b"\x91" * 1_000 + b"\x01",
    "a kind of a mebibyte": lambda: msgpack.packb({"w": 1, "k": "k" * 65_536}),
    "lists for keys": lambda: b"\x81\x91\x01\x01",
    "a quarter of a million empty lists": lambda: header_with(
        b"\x94" + (b"\xdc\xff\xff" + b"\x90" * 65_535) * 4
    ),
    "a header of one byte": lambda: b"\xc1",
    "two headers": lambda: 2 * msgpack.packb({"w": 1, "k": "goodbye"}),
    "no header but a list": lambda: msgpack.packb(["w", 1, "k", "goodbye"]),
    "text that is no UTF-8": lambda: header_with(b"\x81\xa2\xff\xfe\x01"),
    "a mebibyte of zeros": lambda: bytes(MEBIBYTE),
}


def test_a_header_made_by_hand_is_a_message() -> None:
    assert outcome([header_with(b"\x80")]) == Renew(report={})


@QUICKLY
@pytest.mark.parametrize("name", EXPENSIVE)
def test_a_message_that_claims_or_costs_much_is_refused_quickly(name: str) -> None:
    assert outcome([EXPENSIVE[name]()]) is None


@QUICKLY
@pytest.mark.parametrize(
    "rows",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5_000,
        msgpack.packb([["w", "float32", [1 << 63] * 60_000, "parameter"]]),
        msgpack.packb([["w", "float32", [1 << 41], "parameter"]]),
        msgpack.packb([[f"w{i}", "float32", [1 << 30], "parameter"] for i in range(1_025)]),
        msgpack.packb([["w" * 5_000, "float32", [1], "parameter"]]),
        msgpack.packb([["w", "float64", [1], "parameter"]]),
        msgpack.packb([["w", "float32", [-1], "parameter"]]),
        msgpack.packb([["w", "float32", [True], "parameter"]]),
        msgpack.packb([["w", "float32", [1], "parameter"]] * 2),
        msgpack.packb([["w", "float32", [1]]]),
        msgpack.packb({}),
        msgpack.packb(None),
    ],
)
def test_a_layout_that_claims_much_or_is_none_is_refused_quickly(rows: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        Layout.from_bytes(b"\x92\x01" + rows)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("shards", [0, -1, 4_097, True, 1.0, None, "1"])
def test_a_layout_has_from_one_shard_to_the_limit(shards: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="shards"):
        Layout.from_bytes(msgpack.packb([shards, []]))


def test_a_repeated_key_is_no_trouble() -> None:
    query = {"w": WIRE_VERSION, "k": "query", "session": 1, "seq": 2}
    twice = b"\x85" + msgpack.packb(query)[1:] + msgpack.packb("seq") + msgpack.packb(3)
    assert getattr(outcome([twice]), "seq", None) in (2, 3)
