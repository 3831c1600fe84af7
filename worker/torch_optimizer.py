"""An optimizer that pushes: what makes training loops written for torch run unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from gradmq.errors import JobError

if TYPE_CHECKING:
    from gradmq.worker.client import Step, Worker

log = logging.getLogger(__name__)


class PushOptimizer(torch.optim.Optimizer):
    """``step()`` pushes the gradients and installs the freshest parameters.

    All parameters of the model are in its one group, in the model's order; frozen ones too, so that
    they may be trained later. The server applies the updates and keeps their state: ``lr`` and the
    like are here for schedulers and loggers to read, and changing them has no effect (said once in
    the log). For the worker's thread.
    """

    def __init__(
        self,
        worker: Worker,
        parameters: Sequence[torch.Tensor],
        shown: Mapping[str, Any],
        samples_per_step: int,
        timeout_s: float,
    ) -> None:
        self._full = False
        super().__init__(parameters, dict(shown))
        self._full = True
        self._worker = worker
        self._shown = dict(shown)
        self._timeout_s = timeout_s
        self._warned = False
        self._loss: float | torch.Tensor | None = None
        self._samples: int | None = None
        self.samples_per_step = samples_per_step
        """What a step counts for in the run's figures; may be changed at any time."""
        self.last_step: Step | None = None
        """What the last ``step()`` did: its verdicts, versions and wait."""

    def report(self, loss: float | torch.Tensor | None = None, samples: int | None = None) -> None:
        """For the run's figures: the loss and the samples of the next ``step()`` alone.

        Without it they are what the closure returns, if there is one, and ``samples_per_step``.
        """
        self._loss, self._samples = loss, samples

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate ``closure`` if given, then ``Worker.step``; returns the closure's loss.

        Raises what ``Worker.step`` raises. Gradients stay until ``zero_grad()``, as torch's do;
        after ShardAway those that are under way are gone, and a second call does not push them
        again.
        """
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        self._warn_of_changes()
        parameters = self.param_groups[0]["params"]
        gradients = [parameter.grad for parameter in parameters]
        self.last_step = self._worker.step(
            loss=_scalar(returned) if self._loss is None else self._loss,
            samples=self.samples_per_step if self._samples is None else self._samples,
            timeout=self._timeout_s,
        )
        self._loss = self._samples = None
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return returned

    def load_state_dict(self, state_dict: Any) -> None:
        """Takes the learning rate to show; installs the server's parameters again.

        Who loads a checkpoint has loaded the model's values too, most likely. They are not the
        run's, and the next gradient must not be computed at them.
        """
        super().load_state_dict(state_dict)
        self._worker.reinstall()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises JobError: every parameter of the model is in the one group already."""
        if self._full:
            raise JobError(
                "a worker's optimizer has one group, of all parameters that the model had when the "
                "Worker was made: the settings are the server's, and new tensors cannot join a run"
            )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        raise JobError("a worker's optimizer cannot be copied or pickled; its state_dict() can")

    def _warn_of_changes(self) -> None:
        if self._warned:
            return
        group = self.param_groups[0]
        for name, value in self._shown.items():
            if group[name] != value:
                self._warned = True
                log.warning(
                    "%s was set to %g here; the server's stays %g", name, group[name], value
                )


def _scalar(loss: Any) -> float | torch.Tensor | None:
    if isinstance(loss, torch.Tensor):
        return loss if loss.numel() == 1 else None
    return loss if isinstance(loss, int | float) else None
