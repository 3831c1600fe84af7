"""The tracer model: parameters from which one reads which pushes were applied, and how often.

Push number p adds one to digit p mod 12, in base 4, of element p div 12 of every shard: learning
rate 1, gradient −4^digit. An element stays below 2^24, where float32 holds every whole number. A
digit is 0 or 1; 2 is a push applied twice. Every shard holds the same elements ``copies`` times
over, so a vector made of two versions shows in copies that differ. And since each applied push is
one version more, the ones of a shard at version v are v in number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

DIGITS = 12
_POWERS = 4 ** np.arange(DIGITS)

#: Tensors of uneven sizes: their borders are not those of shards or copies.
_TENSORS = (1, 5, 3)


@dataclass(frozen=True, slots=True)
class Seen:
    """One shard's vector, read."""

    counts: Counts
    """How often each push was applied, from the first copy."""
    is_torn: bool
    """The copies differ, or hold what no push adds."""

    @property
    def total(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True)
class Tracer:
    """A model for at most ``pushes`` pushes on so many shards."""

    shards: int
    pushes: int
    copies: int

    @property
    def elements(self) -> int:
        """Of one copy in one shard."""
        return -(-self.pushes // DIGITS)

    def zeros(self) -> dict[str, Vector]:
        return self._tensors(np.zeros(self.shards * self.copies * self.elements, np.float32))

    def gradient(self, push: int) -> dict[str, Vector]:
        flat = np.zeros(self.shards * self.copies * self.elements, np.float32)
        flat[push // DIGITS :: self.elements] = -float(_POWERS[push % DIGITS])
        return self._tensors(flat)

    def read(self, arrays: Mapping[str, npt.NDArray[Any]]) -> list[Seen]:
        """What is in each shard's part of a whole model."""
        flat = np.concatenate([arrays[name].reshape(-1) for name in self.zeros()])
        return [self.read_shard(part) for part in flat.reshape(self.shards, -1)]

    def read_shard(self, vector: npt.NDArray[Any]) -> Seen:
        copies = vector.reshape(self.copies, self.elements)
        whole = copies[0].astype(np.int64)
        counts = (whole[:, None] // _POWERS) % 4
        is_torn = bool((copies != whole).any() or (whole < 0).any() or (whole >= 4**DIGITS).any())
        return Seen(counts.reshape(-1)[: self.pushes], is_torn)

    def _tensors(self, flat: Vector) -> dict[str, Vector]:
        cuts = np.cumsum(_TENSORS)[:-1] * len(flat) // sum(_TENSORS)
        return {f"tensor{row}": part for row, part in enumerate(np.split(flat, cuts))}
