"""The tracer model: push i adds one in places that are its own, so parameters count applies.

With SGD at learning rate 1, starting from zeros, the gradient of push i is −1 at the places i and
``pushes`` + i of every shard and 0 elsewhere. A place of a shard is then 1 if the push was applied
there and 0 if not; 2 is a push applied twice. Two places that lie far apart, and in different
tensors more often than not, show a torn vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np

from gradmq.layout import Layout, Tensor
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Payload


@dataclass(frozen=True, slots=True)
class TracerGradient:
    """One gradient, cut into shards as a worker cuts it."""

    index: int
    payloads: tuple[Payload, ...]
    crcs: tuple[int, ...]
    present: bytes | None
    places: tuple[tuple[int, ...] | None, ...]
    """Per shard, what it adds one to; None: no tensor of it lies there, so no version counts."""


class Tracer:
    """A model of ``2 * pushes`` parameters per shard, for at most that many pushes."""

    def __init__(self, random: Random, shards: int, pushes: int) -> None:
        self.pushes = pushes
        self.layout = Layout(_tensors(random, 2 * pushes * shards), shards)

    def gradient(self, index: int, absent: frozenset[int]) -> TracerGradient:
        """The gradient of push ``index``, without the tensors (rows of the table) in ``absent``."""
        rows = frozenset(range(len(self.layout.tensors))) - absent
        cuts = [self._cut(shard, index, rows) for shard in range(self.layout.shards)]
        payloads = tuple(payload for payload, _ in cuts)
        return TracerGradient(
            index,
            payloads,
            tuple(payload_crc(payload) for payload in payloads),
            _bits(rows, len(self.layout.tensors)) if absent else None,
            tuple(places for _, places in cuts),
        )

    def _cut(
        self, shard: int, index: int, rows: frozenset[int]
    ) -> tuple[Payload, tuple[int, ...] | None]:
        part = self.layout.parts[shard]
        whole = np.zeros(part.size, np.float32)
        whole[[index, self.pushes + index]] = -1.0
        pieces = list(part.select(rows))
        if not pieces:
            return (), None
        if len(pieces) == len(part.pieces):
            return array_payload(whole), (index, self.pushes + index)
        spans = [whole[piece.offset : piece.offset + piece.size] for piece in pieces]
        places = tuple(
            place
            for place in (index, self.pushes + index)
            if any(piece.offset <= place < piece.offset + piece.size for piece in pieces)
        )
        return array_payload(np.concatenate(spans)), places


def _tensors(random: Random, size: int) -> tuple[Tensor, ...]:
    """Cut ``size`` elements into a few tensors of any sizes; the cuts need not fit the shards."""
    cuts = sorted(random.randrange(size + 1) for _ in range(random.randrange(4)))
    bounds: Sequence[int] = [0, *cuts, size]
    return tuple(
        Tensor(f"tensor-{row}", "float32", (stop - start,))
        for row, (start, stop) in enumerate(pairwise(bounds))
    )


def _bits(rows: frozenset[int], tensors: int) -> bytes:
    bits = sum(1 << row for row in rows)
    return bits.to_bytes((tensors + 7) // 8, "little")
