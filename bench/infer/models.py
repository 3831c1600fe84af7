"""The jobs whose models are asked here, each a function, so that a job file is one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradmq.job import Job, JobContext
from gradmq.jobs import fashion_mnist, lm
from gradmq.serve import TensorModel, TensorSpec

if TYPE_CHECKING:
    import torch

#: Of the small model: a picture of 28 x 28 in, a score for each of ten classes out.
INPUTS, HIDDEN, OUTPUTS = 784, 128, 10

#: Tensors of a model that is filled with its version.
TENSORS = 8

#: Rows of one step of a worker that is to be busy.
_BATCH = 256


def write_job(folder: Path, call: str) -> Path:
    """A job file of one of the functions here, as in ``"mlp()"``."""
    file = folder / f"{call.partition('(')[0]}.py"
    module, name = __name__, call.partition("(")[0]
    file.write_text(f"from {module} import {name}\n\njob = {call}\n")
    return file


def mlp_module() -> torch.nn.Module:
    """The small model, the same in every process."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(INPUTS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, OUTPUTS)
        )


def mlp() -> Job:
    """The small model, which learns from noise as fast as it can."""
    return Job(
        name="mlp",
        model=mlp_module,
        batches=_noise,
        loss="cross_entropy",
        serve=lambda: TensorModel(
            inputs=(TensorSpec("x", "FP32", (-1, INPUTS)),),
            outputs=(TensorSpec("y", "FP32", (-1, OUTPUTS)),),
        ),
        settings={"optimizer.lr": 0.01},
    )


def _noise(context: JobContext) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    chance = torch.Generator().manual_seed(context.seed)
    x = torch.rand(_BATCH, INPUTS, generator=chance)
    y = torch.randint(OUTPUTS, (_BATCH,), generator=chance)
    while True:
        yield x, y


def cnn_module() -> torch.nn.Module:
    """The network of the job fashion-mnist, the same in every process; it need not have learned."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fashion_mnist.model()
        scores = model[-1]  # type: ignore[index]
        torch.nn.init.normal_(scores.weight, std=0.1)
        return model


def cnn() -> Job:
    """The job fashion-mnist, to be served only: every request by itself, unless set otherwise."""
    return Job(
        name="cnn",
        model=cnn_module,
        batches=fashion_mnist.batches,
        loss="cross_entropy",
        serve=fashion_mnist.serve,
    )


def text_module() -> torch.nn.Module:
    """The model of the job lm, the same in every process; what it writes makes no sense."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lm.model()


def text(cached: bool) -> Job:
    """The job lm, to be served only, with its cache of keys and values or without."""
    spec = lm.serve()
    spec = spec if cached else replace(spec, cache=None)
    return replace(lm.job, name="text", model=text_module, evaluate=None, serve=lambda: spec)


def filled(mb: float, every: int) -> Job:
    """A model of so many megabytes whose every parameter is its version, if each update adds 1.

    It answers with the least and the largest of its parameters; with ``every`` above 1, of each
    ``every``-th one, which is quicker.
    """
    return Job(
        name="filled",
        model=lambda: filled_module(mb, every),
        batches=lambda context: iter(()),
        loss="mse_loss",
        serve=lambda: TensorModel(
            inputs=(TensorSpec("x", "FP32", (-1, 1)),),
            outputs=(TensorSpec("least", "FP32", (-1,)), TensorSpec("largest", "FP32", (-1,))),
        ),
    )


def filled_module(mb: float, every: int) -> torch.nn.Module:
    """The model of ``filled``, all zero: version 0."""
    import torch

    size = max(1, round(mb * 1e6 / 4 / TENSORS))

    class Filled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tensors = torch.nn.ParameterList(torch.zeros(size) for _ in range(TENSORS))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            ends = [torch.aminmax(tensor[::every]) for tensor in self.tensors]
            least = torch.stack([end.min for end in ends]).min()
            largest = torch.stack([end.max for end in ends]).max()
            return least.expand(len(x)), largest.expand(len(x))

    return Filled()
