"""What may be given as a model, and the binding it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradmq.binding import ArrayBinding

if TYPE_CHECKING:
    from gradmq.torch_binding import TorchBinding


def bound(model: Any) -> ArrayBinding | TorchBinding:
    """A torch module or a dict of arrays, bound; torch is imported only for a module.

    Raises LayoutMismatch if it holds what gradmq cannot train.
    """
    if isinstance(model, Mapping):
        return ArrayBinding(model)
    from gradmq.torch_binding import TorchBinding

    return TorchBinding(model)
