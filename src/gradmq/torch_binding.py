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

from gradmq.binding import BLOCK, Chunks, Vector, scatter, vectors_by_row, whole_tensors
from gradmq.errors import LayoutMismatch
from gradmq.layout import Layout, Tensor

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
        self.parameters: list[torch.Tensor] = list(parameters.values())
        self._first_buffer = len(parameters)
        self.tensors = tuple(
            _entry(name, tensor, "parameter" if row < self._first_buffer else "buffer")
            for row, (name, tensor) in enumerate({**parameters, **buffers}.items())
        )
        self._buffers_before: dict[int, Vector] = {}
        """What the buffers were when they were last installed or told of."""

    def _tensor_of(self, row: int) -> torch.Tensor:
        """A buffer is looked up by name: a module may put another tensor in its place."""
        if row < self._first_buffer:
            return self.parameters[row]
        return self.model.get_buffer(self.tensors[row].name)

    def read(self) -> dict[int, Vector]:
        return {row: _flat(self._tensor_of(row)) for row in range(len(self.tensors))}

    def gradients(self) -> dict[int, Vector]:
        """What ``backward`` left in ``.grad``, and how far the buffers have moved, by row."""
        flat = {}
        for row, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                flat[row] = _flat(parameter.grad)
            else:
                self._require_in_model(row)
        for row, before in self._buffers_before.items():
            moved = before - _flat(self._tensor_of(row))
            if moved.any():
                flat[row] = moved
        return flat

    def _require_in_model(self, row: int) -> None:
        """A parameter that is not the model's any more gets no gradients, and nobody would know."""
        name = self.tensors[row].name
        try:
            in_model = self.model.get_parameter(name) is self.parameters[row]
        except AttributeError:
            in_model = False
        if not in_model:
            raise LayoutMismatch(
                f"parameter {name!r} was replaced after the Worker was made, and a run's tensors "
                "stay the same: copy values into it instead, or change the model before"
            )

    def clear_gradients(self) -> None:
        """Forget what ``gradients`` told: the next ones tell of the next step alone.

        A buffer that is not finite any more goes back to what it was, or it would never be again.
        """
        for parameter in self.parameters:
            parameter.grad = None
        for row, before in self._buffers_before.items():
            now = _flat(self._tensor_of(row))
            if np.isfinite(now).all():
                self._buffers_before[row] = now.copy()
            else:
                self._tensor_of(row).copy_(_tensor(before, self.tensors[row].shape))

    def install(self, layout: Layout, shards: Sequence[Chunks]) -> None:
        with torch.no_grad():
            scatter(layout, shards, self._write)
            for parameter in self.parameters:
                # Written to behind autograd's back: a graph that needs the old values must notice.
                torch.autograd.graph.increment_version(parameter)
        for row in range(self._first_buffer, len(self.tensors)):
            self._buffers_before[row] = _flat(self._tensor_of(row)).copy()

    def _write(self, row: int, start: int, values: Vector) -> None:
        tensor = self._tensor_of(row)
        if tensor.is_contiguous():
            _write_flat(tensor.view(-1), start, values)
        else:
            flat = tensor.reshape(-1)  # a copy in logical order
            _write_flat(flat, start, values)
            tensor.copy_(flat.view(tensor.shape))

    def named(self, values: Mapping[str, Any]) -> dict[int, Vector]:
        arrays = {
            name: _flat(value).reshape(tuple(value.shape)) if torch.is_tensor(value) else value
            for name, value in values.items()
        }
        return vectors_by_row(self.tensors, arrays)

    def with_values(self, layout: Layout, shards: Sequence[Chunks]) -> torch.nn.Module:
        """A second module like this one, in eval mode, whose tensors are those of a release."""
        replaced: dict[int, Any] = {}
        for row, vector in whole_tensors(layout, shards).items():
            old = self._tensor_of(row)
            values = _tensor(vector, self.tensors[row].shape).to(old.device, old.dtype)
            is_parameter = row < self._first_buffer
            new = torch.nn.Parameter(values, requires_grad=False) if is_parameter else values
            replaced[id(old)] = new
        # deepcopy asks this memo first: the new tensors take the place of copies, tied ones once.
        return copy.deepcopy(self.model, replaced).eval()


def hollow(model: torch.nn.Module) -> None:
    """Give up the memory of what a release brings: a bound model is only a mould from now on."""
    for tensor in (*model.parameters(), *_travelling_buffers(model).values()):
        tensor.data = tensor.data.new_empty(0)


def _travelling_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    persistent = model.state_dict(keep_vars=True)
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in persistent and buffer.is_floating_point()
    }


def _entry(name: str, tensor: torch.Tensor, kind: Any) -> Tensor:
    if tensor.is_meta or torch.nn.parameter.is_lazy(tensor):
        raise LayoutMismatch(f"{kind} {name!r} has no values yet: run one batch through the model")
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


def _write_flat(flat: torch.Tensor, start: int, values: Vector) -> None:
    if flat.device.type == "cpu" and flat.dtype == torch.float32:
        flat.detach().numpy()[start : start + values.size] = values  # twice as fast as copy_
        return
    for at in range(0, values.size, BLOCK):
        block = values[at : at + BLOCK].copy()  # torch takes no memory that it may not write to
        flat[start + at : start + at + block.size].copy_(torch.from_numpy(block))


def _tensor(vector: Vector, shape: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(vector).reshape(tuple(shape))
