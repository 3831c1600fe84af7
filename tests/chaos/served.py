"""The job file of the tracer model: an inference node answers with what its release holds.

Its sizes are in the environment, as TRACER="SHARDS PUSHES COPIES": that is how a job file that is
given to ``gradmq infer`` can be told anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gradmq

SIZES = "TRACER"

REQUEST = {"inputs": [{"name": "ask", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}


def _model() -> Any:
    import torch

    from chaos.tracer import Tracer

    tracer = Tracer(*map(int, os.environ[SIZES].split()))

    class Traced(torch.nn.Module):
        """One answer: per shard the pushes in it, the most of one, and whether it is torn."""

        def __init__(self) -> None:
            super().__init__()
            for name, array in tracer.zeros().items():
                self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(array)))

        def forward(self, ask: torch.Tensor) -> torch.Tensor:
            seen = tracer.read({name: p.detach().numpy() for name, p in self.named_parameters()})
            found = [
                *(shard.total for shard in seen),
                *(int(shard.counts.max(initial=0)) for shard in seen),
                *(int(shard.is_torn) for shard in seen),
            ]
            return torch.tensor([found], dtype=torch.int64)

    return Traced()


def _batches(context: gradmq.JobContext) -> Iterator[Any]:
    raise NotImplementedError("the tracer model is trained by chaos.worker")


job = gradmq.Job(
    name="tracer",
    model=_model,
    batches=_batches,
    loss="mse_loss",
    serve=lambda: gradmq.TensorModel(
        inputs=(gradmq.TensorSpec("ask", "FP32", (-1, 1)),),
        outputs=(gradmq.TensorSpec("seen", "INT64", (-1, -1)),),
    ),
)
