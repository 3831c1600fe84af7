"""Bindings: how a model's tensors become the flat vector of a layout, and back.

``ArrayBinding`` is for plain numpy; ``gradmq.torch_binding`` for torch modules. A binding is used
in the thread of the program that owns the model, and only there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import crc32c
import numpy as np
import numpy.typing as npt

from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Piece, Tensor

Vector = npt.NDArray[np.float32]

Chunks = Iterable[Vector]
"""The values of one shard, in as many pieces as they came."""


#: Copied and checked at once: in the cache for the second, and long enough for fast copying.
BLOCK = 1 << 18

#: What is at least this far from 0 becomes infinite in a tensor of this type.
_INFINITE_FROM = {"float16": 65520.0, "bfloat16": float.fromhex("0x1.ffp127")}

#: Of so few elements numpy's functions do not give up the interpreter's lock.
FEW = 500


class Gradients:
    """One gradient, cut along the shards of a layout."""

    def __init__(self, layout: Layout, flat: Mapping[int, Vector]) -> None:
        """``flat`` maps rows of the table to the flat float32 gradients of the tensors present."""
        self._flat = flat
        self._pieces: list[Sequence[Piece]] = [part.pieces for part in layout.parts]
        self.present: bytes | None = None
        self.sizes = tuple([part.size for part in layout.parts])
        """Elements per shard."""
        if len(flat) < len(layout.tensors):
            rows = frozenset(flat)
            self.present = _bitmap(rows, len(layout.tensors))
            self._pieces = [tuple(part.select(rows)) for part in layout.parts]
            self.sizes = tuple([sum(piece.size for piece in pieces) for pieces in self._pieces])

    def pack(self, slots: Sequence[Vector], summed: Sequence[bool] = ()) -> list[int] | None:
        """Write each shard's pieces, back to back, into its slot; None if some are not finite.

        Returns their crc32c, of those shards that are to be ``summed``, else 0. What already lies
        in its place in a slot is not copied.
        """
        crcs = []
        for shard, (pieces, slot) in enumerate(zip(self._pieces, slots, strict=True)):
            crc = _pack(pieces, self._flat, slot, bool(summed) and summed[shard])
            if crc is None:
                return None
            crcs.append(crc)
        return crcs

    def packed(self) -> tuple[list[Vector], bool]:
        """The same in new memory, and whether all of it is finite."""
        slots = [np.empty(size, np.float32) for size in self.sizes]
        return slots, self.pack(slots) is not None


class Binding(Protocol):
    """What a worker or follower needs of a model."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The table, in the model's own order."""
        ...

    def read(self) -> dict[int, Vector]:
        """The values of all tensors by row, flat and as float32."""
        ...

    def install(self, layout: Layout, shards: Sequence[Chunks]) -> None:
        """Write the values of each shard into the model; of one without chunks, nothing."""
        ...

    def named(self, values: Mapping[str, Any]) -> dict[int, Vector]:
        """Gradients given by name as flat float32 vectors by row; raises LayoutMismatch."""
        ...


class ArrayBinding:
    """A dict of numpy float32 (or float16) arrays, written in place."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays: dict[str, npt.NDArray[Any]] = dict(arrays)
        self._flat: list[Any] = []
        """Each array as one sequence in logical order, to be written to."""
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise LayoutMismatch(
                    f"{name!r} is a {type(array).__name__}; give a numpy array, or a torch module"
                )
            if array.dtype not in (np.float32, np.float16):
                raise LayoutMismatch(
                    f"array {name!r} is {array.dtype}; gradmq keeps float32: .astype(np.float32)"
                )
            if not array.flags.writeable:
                raise LayoutMismatch(f"array {name!r} is read-only; give a writable copy")
            self._flat.append(array.reshape(-1) if array.flags.c_contiguous else array.flat)
        self.tensors = tuple(
            Tensor(name, str(array.dtype), array.shape) for name, array in self.arrays.items()
        )

    def read(self) -> dict[int, Vector]:
        arrays = self.arrays.values()
        return {row: np.ravel(array.astype(np.float32)) for row, array in enumerate(arrays)}

    def install(self, layout: Layout, shards: Sequence[Chunks]) -> None:
        def write(row: int, start: int, values: Vector) -> None:
            self._flat[row][start : start + values.size] = values

        scatter(layout, shards, write)

    def named(self, values: Mapping[str, Any]) -> dict[int, Vector]:
        return vectors_by_row(self.tensors, values)


def vectors_by_row(tensors: Sequence[Tensor], values: Mapping[str, Any]) -> dict[int, Vector]:
    """Gradients given by name as flat float32 vectors by row; raises LayoutMismatch."""
    rows = {tensor.name: row for row, tensor in enumerate(tensors)}
    out = {}
    for name, value in values.items():
        row = rows.get(name)
        if row is None:
            raise LayoutMismatch(f"no tensor is called {name!r}; there are {', '.join(rows):.300}")
        array = np.asarray(value)
        expected = tensors[row].shape
        if array.shape != expected:
            raise LayoutMismatch(
                f"the gradient of {name!r} has shape {list(array.shape)}, "
                f"the tensor {list(expected)}"
            )
        if array.dtype != np.float32:
            array = _as_float32(name, array)
        out[row] = array.reshape(-1)
    return out


def _as_float32(name: str, array: npt.NDArray[Any]) -> Vector:
    if array.dtype.kind not in "fiu":
        raise LayoutMismatch(f"the gradient of {name!r} is {array.dtype}; use float32")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
        return array.astype(np.float32)


def scatter(
    layout: Layout, shards: Sequence[Chunks], write: Callable[[int, int, Vector], None]
) -> None:
    """Call ``write(row, start, values)`` for every stretch of a tensor that lies in one chunk.

    The chunks of a shard are its values back to back. ``values`` is a view: not to be kept.
    """
    for part, chunks in zip(layout.parts, shards, strict=True):
        pieces = iter(part.pieces)
        piece, used = next(pieces, None), 0
        for chunk in chunks:
            at = 0
            while at < chunk.size:
                assert piece is not None, "more values than the shard has elements"
                take = min(piece.size - used, chunk.size - at)
                write(piece.tensor, piece.start + used, chunk[at : at + take])
                at, used = at + take, used + take
                if used == piece.size:
                    piece, used = next(pieces, None), 0


def whole_tensors(layout: Layout, shards: Sequence[Chunks]) -> dict[int, Vector]:
    """The flat values of every tensor by row, in memory of their own."""
    out = {row: np.empty(tensor.size, np.float32) for row, tensor in enumerate(layout.tensors)}

    def write(row: int, start: int, values: Vector) -> None:
        out[row][start : start + values.size] = values

    scatter(layout, shards, write)
    return out


def first_not_finite(layout: Layout, shards: Sequence[Chunks]) -> str:
    """The name of a tensor that would hold a value which is not finite; "" if none would."""
    found: list[str] = []

    def look(row: int, start: int, values: Vector) -> None:
        tensor = layout.tensors[row]
        bound = _INFINITE_FROM.get(tensor.dtype)
        fits = is_finite(values) if bound is None else bool((np.abs(values) < bound).all())
        if not fits:
            found.append(tensor.name)

    scatter(layout, shards, look)
    return found[0] if found else ""


def _pack(
    pieces: Sequence[Piece], flat: Mapping[int, Vector], slot: Vector, summed: bool
) -> int | None:
    """Copy, and look at each block of the slot once it is full: it is in the cache then."""
    if sum([piece.size for piece in pieces]) <= FEW:
        return _pack_few(pieces, flat, slot, summed)
    at, seen, crc = 0, 0, 0
    for last, piece in enumerate(pieces, 1 - len(pieces)):
        values = flat[piece.tensor][piece.start : piece.start + piece.size]
        lies_there = _address(values) == _address(slot[at:])
        for start in range(0, piece.size, BLOCK):
            block = values[start : start + BLOCK]
            if not lies_there:
                slot[at : at + block.size] = block
            at += block.size
            if at - seen >= BLOCK or (last == 0 and start + BLOCK >= piece.size):
                full, seen = slot[seen:at], at
                if not is_finite(full):
                    return None
                if summed:
                    crc = crc32c.crc32c(full.data, crc)
    return crc


def _pack_few(
    pieces: Sequence[Piece], flat: Mapping[int, Vector], slot: Vector, summed: bool
) -> int | None:
    """The same in one call: of so little, the calls are what costs."""
    if not pieces:
        return 0
    cut = [flat[p.tensor][p.start : p.start + p.size] for p in pieces]
    full = slot[: sum([p.size for p in pieces])]
    np.concatenate(cut, out=full)
    if not is_finite(full):
        return None
    return crc32c.crc32c(full.data) if summed else 0


def _address(vector: Vector) -> int:
    address: int = vector.__array_interface__["data"][0]
    return address


def is_finite(block: Vector) -> bool:
    """True if no element is NaN or infinite."""
    # A dot product is the fastest pass over memory; of few elements, one that keeps the
    # interpreter's lock is: giving it up invites the network's thread to take it.
    if block.size > FEW and math.isfinite(sum_of_squares(block)):
        return True
    return bool(np.isfinite(block).all())


def sum_of_squares(block: Vector) -> float:
    """Not finite if an element is not; nor if finite ones have squares too large for float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(block, block))


def _bitmap(rows: frozenset[int], count: int) -> bytes:
    bits = bytearray((count + 7) // 8)
    for row in rows:
        bits[row // 8] |= 1 << row % 8
    return bytes(bits)
