"""The job ``fashion-mnist``: a small convolutional network sorts pictures of clothes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gradmq.job import Job, JobContext
from gradmq.jobs import fashion_data
from gradmq.jobs.fashion_picture import SIDE, inputs_of_picture
from gradmq.serve import TensorModel, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: By the numbers in the data.
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
#: Of all pixels of the training pictures, in units of full white.
_PIXEL_MEAN, _PIXEL_SPREAD = 0.286, 0.353
#: Pictures in one batch; a step takes about 18 ms of one core.
_BATCH = 128
_JUDGED_AT_ONCE = 500


def model() -> torch.nn.Module:
    """Maps pictures (N, 1, 28, 28) float32 to scores (N, 10); 81 thousand parameters.

    The norms keep it stable under stale gradients: without them it dies at a staleness of 6. The
    last layer begins at zero, so the first scores are equal.
    """
    from torch import nn

    layers = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=5, stride=2, padding=2),
        nn.ReLU(),
        nn.LayerNorm((16, 14, 14), elementwise_affine=False),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(32 * 7 * 7, elementwise_affine=False),
        nn.Linear(32 * 7 * 7, 48),
        nn.ReLU(),
        nn.LayerNorm(48, elementwise_affine=False),
    )
    scores = nn.Linear(48, len(CLASS_NAMES))
    nn.init.zeros_(scores.weight)
    nn.init.zeros_(scores.bias)
    return layers.append(scores)


def batches(context: JobContext) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures (128, 1, 28, 28) and labels (128,) int64, each epoch in a new order."""
    import torch

    images, labels = fashion_data.load("train", context.data)
    pictures, classes = torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))
    chance = torch.Generator().manual_seed(context.seed)
    while True:
        order = torch.randperm(len(pictures), generator=chance)
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH]
            yield scaled(pictures[chosen]), classes[chosen]


def scaled(pictures: Tensor) -> Tensor:
    """Pictures (N, 28, 28) uint8 as the model takes them: (N, 1, 28, 28), mean 0, spread 1."""
    return (pictures.unsqueeze(1).float() / 255 - _PIXEL_MEAN) / _PIXEL_SPREAD


def evaluate(model: torch.nn.Module, context: JobContext) -> dict[str, float]:
    """``accuracy`` and ``loss`` (mean cross entropy in nats) on the 10,000 test pictures."""
    import torch
    from torch.nn.functional import cross_entropy

    pictures, classes = _test_set(context.data)
    scores = torch.cat([model(scaled(part)) for part in torch.split(pictures, _JUDGED_AT_ONCE)])
    return {
        "accuracy": float((scores.argmax(1) == classes).float().mean()),
        "loss": float(cross_entropy(scores, classes)),
    }


@cache
def _test_set(data: str | None) -> tuple[Tensor, Tensor]:
    import torch

    images, labels = fashion_data.load("test", data)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def serve() -> TensorModel:
    """Pictures as in the data set, or one as a file, to a class, its name and probabilities."""
    return TensorModel(
        inputs=(TensorSpec("image", "UINT8", (-1, SIDE, SIDE)),),
        outputs=(
            TensorSpec("class", "INT64", (-1,)),
            TensorSpec("label", "BYTES", (-1,)),
            TensorSpec("probabilities", "FP32", (-1, len(CLASS_NAMES))),
        ),
        prepare=_prepare,
        finish=_finish,
        media={"image/png": inputs_of_picture, "image/jpeg": inputs_of_picture},
        class_names=CLASS_NAMES,
    )


def _prepare(inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Tensor]:
    import torch

    return (scaled(torch.from_numpy(inputs["image"])),)


def _finish(scores: Tensor) -> dict[str, Any]:
    classes = scores.argmax(1)
    labels = [CLASS_NAMES[number] for number in classes.tolist()]
    return {"class": classes, "label": labels, "probabilities": scores.softmax(1)}


job = Job(
    name="fashion-mnist",
    model=model,
    batches=batches,
    loss="cross_entropy",
    evaluate=evaluate,
    serve=serve,
    higher_is_better=True,
    settings={
        # No momentum: staleness acts like momentum of its own.
        "optimizer.lr": 0.05,
        "optimizer.momentum": 0.0,
        "optimizer.nesterov": False,
        "optimizer.weight_decay": 0.001,
        "staleness.bound": 8,
        "infer.max_batch_size": 64,
        "run.for": "120s",
        "run.evaluate_every": "10s",
    },
)
