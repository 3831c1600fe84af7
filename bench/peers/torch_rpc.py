"""ps-echo on torch.distributed.rpc: one server, workers that call it, TensorPipe in between.

The server applies under a lock and answers with a copy made under it: what a worker gets is never
half of one update and half of another.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from gradmq.bench import workload
from gradmq.bench.child import Parent, run
from gradmq.bench.echo import worker_result
from gradmq.bench.figures import Window

os.environ["TP_SOCKET_IFNAME"] = "lo"

import torch
import torch.distributed.rpc as rpc

#: A call that takes longer has failed.
CALL_S = 60.0

#: What TensorPipe is held to; where nothing is named it chooses, shared memory on one host.
ONLY: dict[str, dict[str, Any]] = {
    "shm": {},
    "tcp": {"_transports": ["uv"], "_channels": ["basic"]},
}


class Server:
    """The parameters, for calls in any thread."""

    def __init__(self, mb: float) -> None:
        self._lock = threading.Lock()
        self.parameters = [torch.from_numpy(vector) for vector in workload.model(mb).values()]

    def push(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Apply, and answer with a copy of the outcome."""
        with self._lock:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-workload.LR)
            return [parameter.clone() for parameter in self.parameters]


#: Calls name a function; this is what it works on, in the server's process.
_here: list[Server] = []


def push(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    return _here[0].push(gradients)


def agrees(mb: float, applied: dict[int, int], tensors: list[torch.Tensor]) -> bool:
    named = {f"tensor{row}": tensor.numpy() for row, tensor in enumerate(tensors)}
    return workload.agrees(mb, applied, named)


def echo(mb: float, index: int, window: Window) -> dict[str, Any]:
    """Call until the window ends."""
    gradients = [torch.from_numpy(vector) for vector in workload.gradients(mb, index).values()]
    times = []
    while (started := time.monotonic()) < window.end:
        rpc.rpc_sync("server", push, args=(gradients,), timeout=CALL_S)
        times.append((started, time.monotonic()))
    return worker_result(index, times, window)


def main(parent: Parent, spec: dict[str, Any]) -> None:
    mb, rank, workers = spec["mb"], spec["rank"], spec["workers"]
    if rank == 0:
        _here.append(Server(mb))
    parent.say("up")
    parent.await_word("join")
    options = rpc.TensorPipeRpcBackendOptions(
        init_method=f"file://{spec['rendezvous']}", rpc_timeout=CALL_S, **ONLY[spec["transport"]]
    )
    name = f"worker{rank - 1}" if rank else "server"
    rpc.init_rpc(  # type: ignore[no-untyped-call]
        name, rank=rank, world_size=workers + 1, rpc_backend_options=options
    )
    parent.say("joined")
    go = parent.await_word("go")
    window = Window(go["start"], go["end"])
    parent.say("done", workers=[echo(mb, rank - 1, window)] if rank else [])
    applied = {int(k): v for k, v in parent.await_word("check")["applied"].items()}
    zeros = [torch.from_numpy(vector) for vector in workload.model(mb).values()]
    held = rpc.rpc_sync("server", push, args=(zeros,), timeout=CALL_S)
    parent.say("checked", agrees=agrees(mb, applied, held))
    parent.await_word("leave")
    rpc.shutdown(timeout=int(CALL_S))


if __name__ == "__main__":
    from gradmq.bench.peers import torch_rpc

    run(torch_rpc.main)
