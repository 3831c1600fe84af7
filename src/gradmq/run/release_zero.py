"""Release 0: where a run begins, one checkpoint per shard, written before its shards start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradmq.binding import Binding, Gradients
from gradmq.layout import Layout
from gradmq.ps import checkpoint
from gradmq.ps.state import ShardState


def write_release_0(state: Path, run: str, binding: Binding, shards: int) -> Layout:
    """Write a model's values as release 0, a checkpoint per shard; raises CheckpointError."""
    layout = Layout(binding.tensors, shards)
    values = Gradients(layout, binding.read())
    for part, payload in zip(layout.parts, values.payloads, strict=True):
        vector = np.frombuffer(payload[0], np.float32) if payload else np.empty(0, np.float32)
        state_0 = ShardState(
            parameters=vector, optimizer={}, version=0, lineage=((0, -1),), rows={}, release=0
        )
        checkpoint.save(state, run, layout, part.index, state_0)
    return layout
