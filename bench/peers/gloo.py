"""ps-echo without a server: gloo sums the gradients of all workers, and each applies the sum.

Synchronous: all wait for the slowest. A round counts as one applied gradient of every worker.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import numpy as np

from gradmq.bench import workload
from gradmq.bench.child import Parent, run
from gradmq.bench.echo import worker_result
from gradmq.bench.figures import Window

os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import torch
import torch.distributed as dist

ROUND_S = 60.0


class Replica:
    """One worker's parameters and gradient, each flat, as DistributedDataParallel sends them."""

    def __init__(self, mb: float, index: int) -> None:
        self._mb = mb
        self._index = index
        self._parameters = torch.zeros(sum(workload.sizes(mb)))
        vectors = list(workload.gradients(mb, index).values())
        self._gradient = torch.from_numpy(np.concatenate(vectors))
        # One element more: whoever sets it ends all at the end of the same round.
        self._sum = torch.zeros(len(self._gradient) + 1)

    def echo(self, window: Window) -> dict[str, Any]:
        """Sum and apply until the window has ended for one of the workers."""
        times = []
        while not self._sum[-1]:
            started = time.monotonic()
            self._sum[:-1].copy_(self._gradient)
            self._sum[-1] = float(started >= window.end)
            dist.all_reduce(self._sum)
            self._parameters.add_(self._sum[:-1], alpha=-workload.LR)
            times.append((started, time.monotonic()))
        return worker_result(self._index, times, window)

    def agrees(self, applied: dict[int, int]) -> bool:
        flat = self._parameters.numpy()
        bounds = np.cumsum(workload.sizes(self._mb))[:-1]
        named = {f"tensor{row}": part for row, part in enumerate(np.split(flat, bounds))}
        return workload.agrees(self._mb, applied, named)


def main(parent: Parent, spec: dict[str, Any]) -> None:
    rank = spec["rank"]
    replica = Replica(spec["mb"], rank)
    parent.say("up")
    parent.await_word("join")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{spec['rendezvous']}",
        rank=rank,
        world_size=spec["workers"],
        timeout=timedelta(seconds=ROUND_S),
    )
    parent.say("joined")
    go = parent.await_word("go")
    parent.say("done", workers=[replica.echo(Window(go["start"], go["end"]))])
    applied = {int(k): v for k, v in parent.await_word("check")["applied"].items()}
    parent.say("checked", agrees=replica.agrees(applied))
    parent.await_word("leave")
    dist.destroy_process_group()


if __name__ == "__main__":
    run(main)
