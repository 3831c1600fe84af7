"""A job: the model, the data and the loss of one training run, all as lazy callables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from gradmq.serve import TensorModel, TextModel


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a job may need to know about the process that asks it for data."""

    seed: int = 0
    """A seed of this worker alone: the run's seed mixed with the worker's session."""
    data: str | None = None
    """The folder given with ``--data``, or None."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything gradmq needs to train, judge and serve one model.

    All fields but ``name`` and ``settings`` are callables that run only in the processes that need
    them: importing a job file must not load data or build a model.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    batches: Callable[[JobContext], Iterable[tuple[Any, Any]]]
    """Yields (input, target) for ever, or until the worker should stop."""
    loss: Callable[[Any, Any], torch.Tensor] | str
    """Of (model(input), target); or the name of a function in ``torch.nn.functional``."""
    evaluate: Callable[[torch.nn.Module, JobContext], Mapping[str, float]] | None = None
    """Metrics of a model in eval mode, in ``torch.inference_mode``; the first is the headline."""
    serve: Callable[[], TensorModel | TextModel] | None = None
    """How requests become inputs of the model and its outputs answers."""
    score: Callable[[torch.nn.Module], float] | None = None
    """Of a model in eval mode, on a few held-out inputs; higher is better, and quick.

    With ``infer.max_score_drop`` an inference node asks it of each release before serving it.
    """
    stop: Callable[[Mapping[str, float]], bool] | None = None
    """Asked after each evaluation with its metrics; True ends the run."""
    higher_is_better: bool = False
    """Of the headline metric; decides what the best release is."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of this job for the run's settings, by dotted key: ``{"optimizer.lr": 0.1}``."""
