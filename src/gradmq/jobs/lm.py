"""The job ``lm``: a small byte-level GPT learns the text of Python's own standard library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from gradmq.job import Job, JobContext
from gradmq.jobs import lm_text
from gradmq.serve import TextModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Windows of text in one batch; a step takes about 17 ms of one core.
_BATCH = 4
#: Held-out windows that are judged, spread evenly over the text: half a second of one core.
_JUDGED = 256
_JUDGED_AT_ONCE = 32


def model() -> torch.nn.Module:
    """A new ``ByteGPT``, initialised from torch's global random state."""
    from gradmq.jobs.lm_model import ByteGPT

    return ByteGPT()


def batches(context: JobContext) -> Iterator[tuple[Tensor, Tensor]]:
    """Bytes (4, 128) int64 and, in the same shape, the byte after each, from random places."""
    import torch

    from gradmq.jobs.lm_model import CONTEXT_BYTES

    text = torch.from_numpy(lm_text.text("train").copy())
    places = np.random.default_rng(context.seed)
    window = torch.arange(CONTEXT_BYTES + 1)
    while True:
        starts = torch.from_numpy(places.integers(0, len(text) - CONTEXT_BYTES, _BATCH))
        windows = text[starts[:, None] + window].long()
        yield windows[:, :-1], windows[:, 1:]


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy in nats of logits (B, T, 256) for bytes (B, T)."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.flatten(0, 1), target.flatten())


def evaluate(model: torch.nn.Module, context: JobContext) -> dict[str, float]:
    """``bits_per_byte`` on a fixed sample of the held-out files; 8.0 is knowing nothing."""
    windows = _judged_windows()
    nats = 0.0
    for start in range(0, len(windows), _JUDGED_AT_ONCE):
        part = windows[start : start + _JUDGED_AT_ONCE]
        nats += float(loss(model(part[:, :-1]), part[:, 1:])) * len(part)
    return {"bits_per_byte": nats / len(windows) / math.log(2)}


@cache
def _judged_windows() -> Tensor:
    """Windows (256, 129) int64 of the held-out text; few overlap, and none is drawn by chance."""
    import torch

    from gradmq.jobs.lm_model import CONTEXT_BYTES

    text = torch.from_numpy(lm_text.text("held_out").copy())
    starts = torch.linspace(0, len(text) - CONTEXT_BYTES - 1, _JUDGED, dtype=torch.float64).long()
    return text[starts[:, None] + torch.arange(CONTEXT_BYTES + 1)].long()


def serve() -> TextModel:
    """Text as UTF-8 bytes."""
    from gradmq.jobs.lm_model import CONTEXT_BYTES, Cache

    return TextModel(
        encode=encode,
        decode=decode,
        context_tokens=CONTEXT_BYTES,
        sample_prompt="def ",
        cache=lambda model: Cache(),
    )


def encode(text: str) -> list[int]:
    """The UTF-8 bytes of a text; of the empty text a line feed, since the model needs something."""
    return list((text or "\n").encode("utf-8", errors="replace"))


def decode(tokens: Sequence[int]) -> str:
    """The text of UTF-8 bytes, with U+FFFD where they are none."""
    return bytes(tokens).decode("utf-8", errors="replace")


job = Job(
    name="lm",
    model=model,
    batches=batches,
    loss=loss,
    evaluate=evaluate,
    serve=serve,
    settings={
        # No momentum: staleness acts like momentum of its own, and more only costs stability.
        "optimizer.lr": 3.0,
        "optimizer.momentum": 0.0,
        "optimizer.nesterov": False,
        "staleness.bound": 8,
        "run.for": "90s",
    },
)
