"""An optimizer that pushes: what makes training loops written for torch run unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gradmq.worker.client import Worker

log = logging.getLogger(__name__)


class PushOptimizer(torch.optim.Optimizer):
    """``step()`` pushes the gradients and installs the freshest parameters.

    The server applies the update: ``lr`` is here for schedulers and loggers to read, and changing
    it has no effect (said once in the log).
    """

    def __init__(
        self, worker: Worker, parameters: Sequence[torch.Tensor], lr: float, samples_per_step: int
    ) -> None:
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        super().__init__(trainable, {"lr": lr})
        self._worker = worker
        self._lr = lr
        self._samples_per_step = samples_per_step
        self._warned = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate ``closure`` if given, then ``Worker.step``; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._warned and any(group["lr"] != self._lr for group in self.param_groups):
            self._warned = True
            log.warning("the learning rate was changed here; the server's stays %g", self._lr)
        value = float(loss) if isinstance(loss, torch.Tensor) else None
        self._worker.step(loss=value, samples=self._samples_per_step)
        return loss
