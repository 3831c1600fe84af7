"""Release 0: where a run begins, one checkpoint per shard, written before its shards start."""

from __future__ import annotations

from pathlib import Path

from gradmq.binding import Binding, Gradients
from gradmq.layout import Layout
from gradmq.ps import checkpoint
from gradmq.ps.state import ShardState


def write_release_0(state: Path, run: str, binding: Binding, shards: int) -> Layout:
    """Write a model's values as release 0, a checkpoint per shard; raises CheckpointError."""
    layout = Layout(binding.tensors, shards)
    vectors, _ = Gradients(layout, binding.read()).packed()
    for part, vector in zip(layout.parts, vectors, strict=True):
        state_0 = ShardState(
            parameters=vector, optimizer={}, version=0, lineage=((0, -1),), rows={}, release=0
        )
        checkpoint.save(state, run, layout, part.index, state_0)
    return layout
