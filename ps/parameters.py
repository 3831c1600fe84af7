"""The parameters of one shard and its optimizer's state, and the one way in which they change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import crc32c
import numpy as np

from gradmq.binding import is_finite, sum_of_squares
from gradmq.layout import Run
from gradmq.ps.optim import BLOCK, Optimizer, State, Vector
from gradmq.ring import RingWriter


@dataclass(frozen=True, slots=True)
class Gradient:
    """The payload of a push where it lies, still to be checked."""

    chunks: tuple[Vector, ...] = field(repr=False)
    """Back to back they are the gradient; nobody writes to them meanwhile."""
    crc: int | None
    """Of all chunks; None: it came through shared memory."""

    def is_damaged(self) -> bool:
        """Whether the chunks are not those that were summed."""
        crc = 0
        for chunk in self.chunks:
            crc = crc32c.crc32c(chunk.data, crc)
        return self.crc is not None and crc != self.crc


class Damaged(Exception):
    """A payload is not what its worker summed: the way here changed it; nothing was changed."""


class NotFinite(Exception):
    """A gradient holds NaN or infinity; nothing was changed."""


class NormAboveLimit(Exception):
    """A gradient is longer than it may be; nothing was changed."""


class Parameters:
    """Every change makes a new version in another slot of the ring; readers see whole ones only."""

    def __init__(
        self, size: int, optimizer: Optimizer, ring: RingWriter, max_norm: float | None = None
    ) -> None:
        """``max_norm`` limits the Euclidean norm of what one push holds for this shard."""
        self._max_squares = None if max_norm is None else max_norm * max_norm
        self._size = size
        self.optimizer = optimizer
        self._ring = ring
        self.state = optimizer.state(size)
        self.version: int | None = None
        self.lent: set[int] = set()
        """Slots that are being sent from: not to be written to."""

    @property
    def values(self) -> Vector:
        """The present version; whoever keeps it longer copies it."""
        return self._ring.values

    @property
    def slot(self) -> int:
        """Where the present version lies."""
        return self._ring.newest

    def install(self, values: Vector, state: State, version: int) -> None:
        """First parameters, or those of a rollback; what ``state`` lacks begins fresh."""
        self._ring.begin(self.lent)[:] = values
        fresh = self.optimizer.state(self._size)
        self.state = {k: np.array(state.get(k, v), np.float32) for k, v in fresh.items()}
        self._commit(version)

    def apply(self, gradient: Gradient, runs: Sequence[Run], weight: float) -> None:
        """Make the next version.

        Raises Damaged, NotFinite or NormAboveLimit; it is then the old one.
        The gradient is read once: each block is checked, applied and left while it is in the cache.
        Only an optimizer with a state, which is changed in place, needs to know all of it first.
        """
        assert self.version is not None
        try:
            self._apply(gradient, runs, weight)
        except (NotFinite, NormAboveLimit):
            # A bit that was changed on the way can make any number: that is nobody's poison.
            if gradient.is_damaged():
                raise Damaged from None
            raise
        self._commit(self.version + 1)

    def _apply(self, gradient: Gradient, runs: Sequence[Run], weight: float) -> None:
        if self.state:
            for _ in self._checked(gradient):
                pass
            gradient = Gradient(gradient.chunks, None)
        old, new = self.values, self._ring.begin(self.lent)
        done = 0
        for offset, values, is_buffer in _placed(self._checked(gradient, not self.state), runs):
            _copy(old, new, done, offset)
            done = offset + values.size
            now = slice(offset, done)
            if is_buffer:
                # A buffer travels as what a step took away from it, at full weight: a running
                # mean has its own rate, and the optimizer's has no place in it.
                np.subtract(old[now], values, out=new[now])
            else:
                state = {name: vector[now] for name, vector in self.state.items()}
                self.optimizer.apply(old[now], new[now], values, state, weight)
        _copy(old, new, done, self._size)

    def _checked(self, gradient: Gradient, values: bool = True) -> Iterator[Vector]:
        """The gradient, block by block; raises at the block, or at the end, that is wrong.

        ``values`` False: only its crc, if it has one.
        """
        crc, squares, limit = 0, 0.0, self._max_squares
        for chunk in gradient.chunks:
            if gradient.crc is not None:
                crc = crc32c.crc32c(chunk.data, crc)
            for at in range(0, chunk.size, BLOCK):
                block = chunk[at : at + BLOCK]
                if values and limit is None:
                    if not is_finite(block):
                        raise NotFinite
                elif values and limit is not None:
                    squares += sum_of_squares(block)
                    if not (squares <= limit and math.isfinite(squares)):
                        raise NormAboveLimit if is_finite(block) else NotFinite
                yield block
        if gradient.crc is not None and crc != gradient.crc:
            raise Damaged

    def _commit(self, version: int) -> None:
        self._ring.commit(version)
        self.version = version


def _copy(old: Vector, new: Vector, start: int, stop: int) -> None:
    """What a push does not touch is the same in the next version."""
    for at in range(start, stop, BLOCK):
        now = slice(at, min(at + BLOCK, stop))
        new[now] = old[now]


def _placed(blocks: Iterator[Vector], runs: Sequence[Run]) -> Iterator[tuple[int, Vector, bool]]:
    """(offset in the shard, values, is_buffer) of each block, cut where a run ends."""
    index, used = 0, 0
    for block in blocks:
        at = 0
        while at < block.size:
            offset, _, size, is_buffer = runs[index]
            take = min(size - used, block.size - at)
            yield offset + used, block[at : at + take], is_buffer
            at, used = at + take, used + take
            if used == size:
                index, used = index + 1, 0
