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

#: 1 MiB of float32, as a part on the wire: what is checked, applied and written while it is in the
#: cache. Smaller ones cost more in calls and prefetching than they save.
BLOCK = 1 << 18


class Optimizer(Protocol):
    """Applies a gradient to a part of a shard."""

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        ...

    def settings(self) -> dict[str, Any]:
        """What ``optimizer_from`` makes the same optimizer from."""
        ...

    def state(self, size: int) -> State:
        """Fresh state for ``size`` elements; empty if there is nothing to remember."""
        ...

    def apply(
        self, old: Vector, new: Vector, gradient: Vector, state: State, weight: float
    ) -> None:
        """Write into ``new`` what ``old`` becomes, and update ``state`` in place.

        All are views of the same at most BLOCK elements.
        """
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

    def apply(
        self, old: Vector, new: Vector, gradient: Vector, state: State, weight: float
    ) -> None:
        g = gradient if weight == 1.0 else gradient * np.float32(weight)
        if self.weight_decay:
            g = old * np.float32(self.weight_decay) + g
        if self.momentum:
            b = state["momentum"]
            np.multiply(b, np.float32(self.momentum), out=b)
            np.add(b, g, out=b)
            g = g + np.float32(self.momentum) * b if self.nesterov else b
        # The step lies in ``new`` for a moment: a block is small enough to be still in the cache.
        np.multiply(g, np.float32(self.lr), out=new)
        np.subtract(old, new, out=new)


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
