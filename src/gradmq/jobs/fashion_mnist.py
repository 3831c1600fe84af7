"""The job ``fashion-mnist``: a small convolutional network tells ten kinds of clothes apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from gradmq.job import Job, JobContext
from gradmq.jobs import fashion_data
from gradmq.serve import TensorModel, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LABELS = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

_BATCH = 64
_JUDGED_AT_ONCE = 1000


def model() -> torch.nn.Module:
    """About 56,000 parameters; standardized images (N, 1, 28, 28) to logits (N, 10)."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def batches(context: JobContext) -> Iterator[tuple[Tensor, Tensor]]:
    """64 images and their labels at a time, each epoch in an order of its own; mirrored by chance.

    Raises JobError where the data is missing.
    """
    images, labels = _tensors("train", context.data)
    chance = np.random.default_rng(context.seed)
    while True:
        order = chance.permutation(len(labels))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            rows = order[start : start + _BATCH]
            batch = images[rows]
            yield (batch.flip(-1) if chance.random() < 0.5 else batch), labels[rows]


def evaluate(model: torch.nn.Module, context: JobContext) -> Mapping[str, float]:
    """``accuracy`` and ``loss`` on the 10,000 test images."""
    from torch.nn.functional import cross_entropy

    images, labels = _tensors("test", context.data)
    right, nats = 0, 0.0
    for start in range(0, len(labels), _JUDGED_AT_ONCE):
        part = slice(start, start + _JUDGED_AT_ONCE)
        logits = model(images[part])
        right += int((logits.argmax(1) == labels[part]).sum())
        nats += float(cross_entropy(logits, labels[part], reduction="sum"))
    return {"accuracy": right / len(labels), "loss": nats / len(labels)}


@cache
def _tensors(part: Literal["train", "test"], data: str | None) -> tuple[Tensor, Tensor]:
    import torch

    images, labels = fashion_data.load(part, data)
    return (
        _standardized(torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)),
        torch.from_numpy(labels.astype(np.int64)),
    )


def _standardized(images: Tensor) -> Tensor:
    """Pixels 0..1 with the training set's mean 0.286 and deviation 0.353 taken out."""
    return (images - 0.286) / 0.353


def serve() -> TensorModel:
    """Images (N, 1, 28, 28) FP32 in 0..1 to class probabilities (N, 10), in the order of LABELS."""
    import torch

    return TensorModel(
        inputs=(TensorSpec("image", "FP32", (-1, 1, 28, 28)),),
        outputs=(TensorSpec("probabilities", "FP32", (-1, 10)),),
        prepare=lambda arrays: (_standardized(torch.from_numpy(arrays["image"])),),
        finish=lambda logits: {"probabilities": logits.softmax(1)},
    )


job = Job(
    name="fashion-mnist",
    model=model,
    batches=batches,
    loss="cross_entropy",
    evaluate=evaluate,
    serve=serve,
    higher_is_better=True,
    settings={
        # Staleness acts like momentum of its own; with more, two workers diverge early.
        "optimizer.lr": 0.1,
        "staleness.bound": 8,
        "run.for": "240s",
    },
)
