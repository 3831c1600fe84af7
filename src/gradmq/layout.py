"""The layout: the ordered tensor table of a model, cut into shards.

All tensors of a model, one after the other, form one flat float32 vector; shard *i* of *S* owns
the elements from ``size * i // S`` to ``size * (i + 1) // S``. A tensor may lie in several shards
and a shard may be empty, so any model fits any number of shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Literal

import msgpack

from gradmq.errors import LayoutMismatch, RemoteProtocolError

#: What a model may hold. The state of a shard is float32 whatever stands here; a float64
#: parameter would lose digits silently and is refused, as are integers and complex numbers.
DTYPES = ("float32", "float16", "bfloat16")

MAX_TENSORS = 65_536
MAX_ELEMENTS = 1 << 40
MAX_DIMENSIONS = 64
MAX_NAME_BYTES = 4096
MAX_SHARDS = 4096

Kind = Literal["parameter", "buffer"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the table."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: Kind = "parameter"

    @property
    def size(self) -> int:
        """Number of elements; 1 for a 0-dim tensor."""
        return prod(self.shape)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one tensor that lies in one shard; all offsets count elements."""

    tensor: int
    """Row of the table."""
    start: int
    """Where the piece begins in its tensor."""
    offset: int
    """Where it begins in the shard."""
    size: int
    is_buffer: bool


@dataclass(frozen=True)
class Part:
    """What one shard owns: ``size`` elements of the flat vector from ``start`` on."""

    index: int
    start: int
    size: int
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return 4 * self.size

    def select(self, present: frozenset[int]) -> Iterator[Piece]:
        """The pieces of the tensors (rows of the table) in ``present``, in order."""
        return (piece for piece in self.pieces if piece.tensor in present)


@dataclass(frozen=True)
class Layout:
    """The tensor table and its cut; equal layouts have equal hashes."""

    tensors: tuple[Tensor, ...]
    shards: int

    @cached_property
    def size(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        bounds = [self.size * i // self.shards for i in range(self.shards + 1)]
        return tuple(
            Part(i, start, stop - start, tuple(self._pieces(start, stop)))
            for i, (start, stop) in enumerate(pairwise(bounds))
        )

    def _pieces(self, start: int, stop: int) -> Iterator[Piece]:
        offset = 0
        for row, tensor in enumerate(self.tensors):
            low, high = max(start, offset), min(stop, offset + tensor.size)
            if low < high:
                yield Piece(row, low - offset, low - start, high - low, tensor.kind == "buffer")
            offset += tensor.size

    def runs(self, shard: int, present: bytes | None) -> tuple[list[Run], int]:
        """Where the elements of a push to this shard belong, and how many it must have.

        ``present`` has a bit per tensor, least significant first; None: all. Raises
        RemoteProtocolError if it is not as long as the table.
        """
        part = self.parts[shard]
        if present is None:
            return self._all_runs[shard], part.size
        if len(present) != (len(self.tensors) + 7) // 8:
            raise RemoteProtocolError(f"{len(present)} bytes for {len(self.tensors)} tensors")
        runs = contiguous_runs(part.select(_rows_of(present)))
        return runs, sum(run[2] for run in runs)

    @cached_property
    def _all_runs(self) -> tuple[list[Run], ...]:
        return tuple(contiguous_runs(part.pieces) for part in self.parts)

    def to_bytes(self) -> bytes:
        """The canonical form: what is hashed, sent and stored."""
        rows = [[t.name, t.dtype, list(t.shape), t.kind] for t in self.tensors]
        packed: bytes = msgpack.packb([self.shards, rows])
        return packed

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Layout:
        """Read the canonical form; raises RemoteProtocolError on anything else."""
        try:
            shards, rows = msgpack.unpackb(
                data,
                max_array_len=MAX_TENSORS,
                max_str_len=MAX_NAME_BYTES,
                max_map_len=0,
                max_bin_len=0,
                max_ext_len=0,
            )
            if not isinstance(rows, list):
                raise RemoteProtocolError(f"no table of tensors but a {type(rows).__name__}")
            return _checked(cls(tuple(_row(*row) for row in rows), _shard_count(shards)))
        except RemoteProtocolError:
            raise
        except Exception as error:  # noqa: BLE001  (msgpack alone has four families of them)
            raise RemoteProtocolError(f"not a layout: {error}") from None

    def require_equal(self, other: Layout, mine: str, theirs: str) -> None:
        """Raise LayoutMismatch that names the first difference between this and ``other``."""
        if self == other:
            return
        raise LayoutMismatch(f"{mine} does not match {theirs}: {_difference(self, other)}")


def _row(name: object, dtype: object, shape: object, kind: object) -> Tensor:
    if not (isinstance(name, str) and dtype in DTYPES and kind in ("parameter", "buffer")):
        raise RemoteProtocolError(f"not a row of a layout: {(name, dtype, kind)!r:.200}")
    if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
        raise RemoteProtocolError(f"not a shape: {shape!r:.200}")
    if len(shape) > MAX_DIMENSIONS:
        raise RemoteProtocolError(f"tensor {name!r:.100} has {len(shape)} dimensions")
    return Tensor(name, str(dtype), tuple(shape), kind)


def _checked(layout: Layout) -> Layout:
    if layout.size > MAX_ELEMENTS:
        raise RemoteProtocolError(f"a layout of {layout.size} elements, at most {MAX_ELEMENTS}")
    if len({tensor.name for tensor in layout.tensors}) < len(layout.tensors):
        raise RemoteProtocolError("a layout with two tensors of one name")
    return layout


def _shard_count(shards: object) -> int:
    if type(shards) is not int or not 1 <= shards <= MAX_SHARDS:
        raise RemoteProtocolError(f"a layout of {shards!r} shards")
    return shards


def _rows_of(present: bytes) -> frozenset[int]:
    return frozenset(
        8 * i + bit for i, byte in enumerate(present) for bit in range(8) if byte >> bit & 1
    )


def _difference(one: Layout, two: Layout) -> str:
    if one.shards != two.shards:
        return f"it is cut into {one.shards} shards, the other into {two.shards}"
    for a, b in zip(one.tensors, two.tensors, strict=False):
        if a != b:
            return f"it has {a} where the other has {b}"
    missing: Iterable[Tensor] = two.tensors[len(one.tensors) :] or one.tensors[len(two.tensors) :]
    which = "lacks" if len(one.tensors) < len(two.tensors) else "has besides"
    return f"it {which} {next(iter(missing))}"


Run = tuple[int, int, int, bool]
"""(offset in the shard, offset in the push, size, is_buffer)."""


def contiguous_runs(pieces: Iterable[Piece]) -> list[Run]:
    """Merge neighbouring pieces.

    A push carries the present pieces back to back, so a run is contiguous in both.
    """
    runs: list[Run] = []
    packed = 0
    for piece in pieces:
        if runs:
            offset, start, size, is_buffer = runs[-1]
            if offset + size == piece.offset and is_buffer == piece.is_buffer:
                runs[-1] = (offset, start, size + piece.size, is_buffer)
                packed += piece.size
                continue
        runs.append((piece.offset, packed, piece.size, piece.is_buffer))
        packed += piece.size
    return runs
