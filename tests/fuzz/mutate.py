"""A plain mutator: fast, seeded, and knowing of the formats only a few suspicious numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

Parts = list[bytes]
"""One input: the frames of a message, or one part, the bytes of a file or a body."""

#: Ends of ranges, as msgpack, little- and big-endian numbers, and JSON have them.
SUSPICIOUS = (
    b"\x00", b"\x7f", b"\x80", b"\xc0", b"\xc1", b"\xd9", b"\xff", b"\xff\xff\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"-1", b"1e999", b"NaN", b"null",
    b"true", b"9" * 40, b"0.5", b'""', b"[]", b"{}", b'"\\ud800"', b"[" * 40,
)  # fmt: skip

#: Nothing that is mutated grows beyond this.
LONGEST_BYTES = 1 << 16


def mutations(corpus: Sequence[Parts], random: Random) -> Iterator[Parts]:
    """Without end: an input of the corpus, changed in one to a few places."""
    while True:
        parts = [bytearray(part) for part in random.choice(corpus)]
        for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
            _change(parts, corpus, random)
        yield [bytes(part[:LONGEST_BYTES]) for part in parts]


def _change(parts: list[bytearray], corpus: Sequence[Parts], random: Random) -> None:
    if not parts:
        parts.append(bytearray())
    part = random.choice(parts)
    at = random.randrange(len(part) + 1)
    match random.randrange(10):
        case 0 | 1 if part:
            part[at - 1] ^= 1 << random.randrange(8)
        case 2 if part:
            part[at - 1] = random.randrange(256)
        case 3:
            number = random.choice(SUSPICIOUS)
            part[at : at + random.choice((0, 1, len(number)))] = number
        case 4:
            del part[at : at + random.choice((1, 2, 8, len(part)))]
        case 5:
            part[at:at] = random.randbytes(random.randrange(1, 9))
        case 6:
            part[at:at] = part[at : at + random.randrange(1, 64)]
        case 7:
            other = random.choice(random.choice(corpus) or [b""])
            start = random.randrange(len(other) + 1)
            part[at : at + random.randrange(64)] = other[start : start + random.randrange(64)]
        case 8 if len(parts) > 1:
            random.shuffle(parts)
        case 9 if len(parts) > 1 or random.random() < 0.1:
            parts.insert(random.randrange(len(parts) + 1), bytearray(part))
        case _:
            part += random.randbytes(random.randrange(4))
