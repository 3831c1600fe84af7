"""Bindings: how a model's tensors become the flat vector of a layout, and back.

``ArrayBinding`` is for plain numpy; ``gradmq.torch_binding`` for torch modules. A binding is used
in the thread of the program that owns the model, and only there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Piece, Tensor
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import Payload, Publication

Vector = npt.NDArray[np.float32]


class Gradients:
    """One gradient, cut into a payload per shard; nothing writes to the payloads any more."""

    def __init__(self, layout: Layout, flat: Mapping[int, Vector]) -> None:
        """``flat`` maps rows of the table to the flat float32 gradients of the tensors present."""
        rows = frozenset(flat)
        everything = len(rows) == len(layout.tensors)
        self.present = None if everything else _bitmap(rows, len(layout.tensors))
        self.payloads: list[Payload] = []
        self.finite = all(_is_finite(vector) for vector in flat.values())
        if self.finite:
            for part in layout.parts:
                self.payloads.append(array_payload(_gather(list(part.select(rows)), flat)))
        self.crcs = [payload_crc(payload) for payload in self.payloads]


class Binding(Protocol):
    """What a worker or follower needs of a model."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The table, in the model's own order."""
        ...

    def read(self) -> dict[int, Vector]:
        """The values of all tensors by row, flat and as float32."""
        ...

    def install(self, layout: Layout, publications: Sequence[Publication]) -> None:
        """Write one publication per shard into the model."""
        ...

    def named(self, values: Mapping[str, Any]) -> dict[int, Vector]:
        """Gradients given by name as flat float32 vectors by row; raises LayoutMismatch."""
        ...


class ArrayBinding:
    """A dict of numpy float32 (or float16) arrays, written in place."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays: dict[str, npt.NDArray[Any]] = dict(arrays)
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
        self.tensors = tuple(
            Tensor(name, str(array.dtype), array.shape) for name, array in self.arrays.items()
        )

    def read(self) -> dict[int, Vector]:
        arrays = self.arrays.values()
        return {row: np.ravel(array).astype(np.float32) for row, array in enumerate(arrays)}

    def install(self, layout: Layout, publications: Sequence[Publication]) -> None:
        arrays = list(self.arrays.values())

        def write(row: int, vector: Vector) -> None:
            arrays[row][...] = vector.reshape(arrays[row].shape)

        scatter(layout, publications, write)

    def named(self, values: Mapping[str, Any]) -> dict[int, Vector]:
        return vectors_by_row(self.tensors, values)


def vectors_by_row(tensors: Sequence[Tensor], values: Mapping[str, Any]) -> dict[int, Vector]:
    """Gradients given by name as flat float32 vectors by row; raises LayoutMismatch."""
    rows = {tensor.name: row for row, tensor in enumerate(tensors)}
    out = {}
    for name, value in values.items():
        if name not in rows:
            raise LayoutMismatch(f"no tensor is called {name!r}; there are {', '.join(rows):.300}")
        array = np.asarray(value)
        expected = tensors[rows[name]].shape
        if array.shape != expected:
            raise LayoutMismatch(
                f"the gradient of {name!r} has shape {list(array.shape)}, "
                f"the tensor {list(expected)}"
            )
        if array.dtype.kind not in "fiu":
            raise LayoutMismatch(f"the gradient of {name!r} is {array.dtype}; use float32")
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
            out[rows[name]] = np.ravel(array).astype(np.float32)
    return out


def scatter(
    layout: Layout, publications: Sequence[Publication], write: Callable[[int, Vector], None]
) -> None:
    """Call ``write(row, flat values)`` for every tensor, from one publication per shard.

    The values of a tensor that lies in one shard are a view of the publication: not to be kept.
    """
    split: dict[int, Vector] = {}
    left: dict[int, int] = {}
    for part, publication in zip(layout.parts, publications, strict=True):
        values = vector_of(publication)
        for piece in part.pieces:
            size = layout.tensors[piece.tensor].size
            values_here = values[piece.offset : piece.offset + piece.size]
            if piece.size == size:
                write(piece.tensor, values_here)
                continue
            whole = split.setdefault(piece.tensor, np.empty(size, np.float32))
            whole[piece.start : piece.start + piece.size] = values_here
            left[piece.tensor] = left.get(piece.tensor, size) - piece.size
            if left[piece.tensor] == 0:
                write(piece.tensor, split.pop(piece.tensor))


def vector_of(publication: Publication) -> Vector:
    """The values of a publication that went through ``joined``; nobody writes to them."""
    if not publication.payload:
        return np.empty(0, np.float32)
    return np.frombuffer(publication.payload[0], np.float32)


def _gather(pieces: Sequence[Piece], flat: Mapping[int, Vector]) -> Vector:
    out = np.empty(sum(piece.size for piece in pieces), np.float32)
    at = 0
    for piece in pieces:
        out[at : at + piece.size] = flat[piece.tensor][piece.start : piece.start + piece.size]
        at += piece.size
    return out


def _bitmap(rows: frozenset[int], count: int) -> bytes:
    bits = bytearray((count + 7) // 8)
    for row in rows:
        bits[row // 8] |= 1 << row % 8
    return bytes(bits)


def _is_finite(vector: Vector) -> bool:
    with np.errstate(over="ignore"):  # finite elements may have squares that are not
        return bool(np.isfinite(np.dot(vector, vector))) or bool(np.isfinite(vector).all())
