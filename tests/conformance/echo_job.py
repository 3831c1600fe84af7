"""A job that answers what it is asked, in every datatype: what a client sent must come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import gradmq
from gradmq.serve import DATATYPES


class Echo(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name.replace("in_", "out_"): tensor for name, tensor in tensors.items()}


def serve() -> gradmq.TensorModel:
    def specs(prefix: str) -> tuple[gradmq.TensorSpec, ...]:
        return tuple(gradmq.TensorSpec(prefix + kind, kind, (-1, -1)) for kind in sorted(DATATYPES))

    return gradmq.TensorModel(
        inputs=specs("in_"),
        outputs=specs("out_"),
        prepare=lambda inputs: (inputs,),
        finish=lambda answer: answer,
    )


job = gradmq.Job(
    name="echo",
    model=Echo,
    batches=lambda context: iter(()),
    loss="mse_loss",
    serve=serve,
    settings={"infer.max_batch_size": 4},
)
