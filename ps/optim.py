"""Optimizers on a shard's flat vector, in blocks that stay in the processor's cache.

Only what a push holds is touched, optimizer state included: the rest of the vector keeps its
momentum as if the step had not happened, as torch does for a parameter whose ``grad`` is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gradmq.errors import SettingsError

Vector = npt.NDArray[np.float32]
State = dict[str, Vector]

#: 256 KiB of float32: parameters, gradient and momentum of one block fit in a core's L2 cache.
BLOCK = 65_536


class Optimizer(Protocol):
    """Applies a gradient to a part of a shard."""

    def state(self, size: int) -> State:
        """Fresh state for ``size`` elements."""
        ...

    def apply(self, parameters: Vector, gradient: Vector, state: State, weight: float) -> None:
        """Update in place; all vectors are views of the same elements."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as ``torch.optim.SGD`` computes it (dampening 0).

    With g the gradient times the policy's weight, p the parameter, b the momentum buffer:
    g ← g + weight_decay·p;  b ← momentum·b + g;  p ← p − lr·(g + momentum·b if nesterov else b).
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise SettingsError(f"optimizer.{name} is {value!r}; use a number from 0 on")
        if self.nesterov and not self.momentum:
            raise SettingsError("optimizer.nesterov needs a momentum above 0")

    def settings(self) -> dict[str, Any]:
        return {"name": "sgd", **asdict(self)}

    def state(self, size: int) -> State:
        return {"momentum": np.zeros(size, np.float32)} if self.momentum else {}

    def apply(self, parameters: Vector, gradient: Vector, state: State, weight: float) -> None:
        scratch = np.empty(min(BLOCK, parameters.size), np.float32)
        momentum = state.get("momentum")
        for start in range(0, parameters.size, BLOCK):
            stop = min(start + BLOCK, parameters.size)
            self._apply_block(
                parameters[start:stop],
                gradient[start:stop],
                None if momentum is None else momentum[start:stop],
                weight,
                scratch[: stop - start],
            )

    def _apply_block(
        self, p: Vector, g: Vector, b: Vector | None, weight: float, scratch: Vector
    ) -> None:
        if weight != 1.0:
            g = g * np.float32(weight)
        if self.weight_decay:
            np.multiply(p, np.float32(self.weight_decay), out=scratch)
            g = scratch + g
        if b is None:
            step = g
        else:
            np.multiply(b, np.float32(self.momentum), out=b)
            np.add(b, g, out=b)
            step = g + np.float32(self.momentum) * b if self.nesterov else b
        np.multiply(step, np.float32(self.lr), out=scratch)
        np.subtract(p, scratch, out=p)


def optimizer_from(settings: Mapping[str, Any]) -> SGD:
    """The optimizer that ``settings`` (from the broker) names."""
    values = dict(settings)
    name = values.pop("name", "sgd")
    if name != "sgd":
        raise SettingsError(f"optimizer {name!r} is unknown; use sgd")
    try:
        return SGD(**values)
    except TypeError:
        raise SettingsError(
            f"optimizer settings {sorted(values)}; known are lr, momentum, nesterov, weight_decay"
        ) from None


def is_finite(vector: Vector) -> bool:
    """True if no element is NaN or infinite; a dot product is the fastest pass over memory."""
    with np.errstate(over="ignore"):
        if np.isfinite(np.dot(vector, vector)):
            return True
    return bool(np.isfinite(vector).all())  # finite, but its squares overflow
