"""Torch modules as tensors of a layout.

Parameters come first, in the order of ``named_parameters`` (a tied one once), then the floating
persistent buffers. A buffer such as BatchNorm's running mean travels as what a step took away from
it, and the shard takes that away at full weight: several workers' steps add up. Integer buffers
stay where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gradmq.binding import Vector, rows_by_name, scatter
from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Tensor
from gradmq.wire.messages import Publication

_DTYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


class TorchBinding:
    """A ``torch.nn.Module``, on any device."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        parameters = dict(model.named_parameters())
        buffers = _travelling_buffers(model)
        self._tensors: list[torch.Tensor] = [*parameters.values(), *buffers.values()]
        self._first_buffer = len(parameters)
        self.tensors = tuple(
            _entry(name, tensor, "parameter" if row < self._first_buffer else "buffer")
            for row, (name, tensor) in enumerate({**parameters, **buffers}.items())
        )
        self._installed_buffers: dict[int, Vector] = {}

    @property
    def parameters(self) -> list[torch.Tensor]:
        return self._tensors[: self._first_buffer]

    def read(self) -> dict[int, Vector]:
        return {row: _flat(tensor) for row, tensor in enumerate(self._tensors)}

    def gradients(self) -> dict[int, Vector]:
        """What ``backward`` left in ``.grad``, and how far the buffers have moved, by row."""
        flat = {}
        for row, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                flat[row] = _flat(parameter.grad)
        for row, before in self._installed_buffers.items():
            moved = before - _flat(self._tensors[row])
            if moved.any():
                flat[row] = moved
        return flat

    def clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def install(self, layout: Layout, publications: Sequence[Publication]) -> None:
        with torch.no_grad():
            scatter(layout, publications, self._write)

    def _write(self, row: int, vector: Vector) -> None:
        tensor = self._tensors[row]
        tensor.copy_(_tensor(vector, tensor.shape))
        if row >= self._first_buffer:
            self._installed_buffers[row] = _flat(tensor).copy()

    def named(self, values: Mapping[str, Any]) -> dict[int, Vector]:
        arrays = {
            name: _flat(value).reshape(tuple(value.shape)) if torch.is_tensor(value) else value
            for name, value in values.items()
        }
        return {
            row: np.ravel(array).astype(np.float32)
            for row, array in rows_by_name(self.tensors, arrays)
        }

    def with_values(self, layout: Layout, publications: Sequence[Publication]) -> torch.nn.Module:
        """A second module like this one, in eval mode, whose tensors are those of a release.

        Tensors that lie in one shard share memory with the publications; nothing writes to them.
        """
        replaced: dict[int, Any] = {}

        def write(row: int, vector: Vector) -> None:
            old = self._tensors[row]
            values = _tensor(vector, old.shape).to(old.device, old.dtype)
            is_parameter = row < self._first_buffer
            new = torch.nn.Parameter(values, requires_grad=False) if is_parameter else values
            replaced[id(old)] = new

        scatter(layout, publications, write)
        # deepcopy asks this memo first: the new tensors take the place of copies, tied ones once.
        return copy.deepcopy(self.model, replaced).eval()


def _travelling_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    persistent = model.state_dict(keep_vars=True)
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in persistent and buffer.is_floating_point()
    }


def _entry(name: str, tensor: torch.Tensor, kind: Any) -> Tensor:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        what = str(tensor.dtype).removeprefix("torch.")
        raise LayoutMismatch(
            f"{kind} {name!r} is {what}; gradmq trains float32, float16 and bfloat16: "
            "convert it, with model.float() for example"
        )
    return Tensor(name, dtype, tuple(tensor.shape), kind)


def _flat(tensor: torch.Tensor) -> Vector:
    """Values in logical order as float32; may share memory with a float32 tensor on the CPU."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    array: Vector = tensor.to("cpu", torch.float32).reshape(-1).numpy()
    return array


def _tensor(vector: Vector, shape: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(vector).reshape(tuple(shape))
