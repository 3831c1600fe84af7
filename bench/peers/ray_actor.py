"""ps-echo on Ray: an actor holds the parameters, actors push; arrays travel in its object store.

What is returned from the server is copied into the store before the next call begins, so workers
get whole versions, which they read in place and may not write to.
"""

from __future__ import annotations

import os
import time
from importlib import import_module
from typing import Any

import numpy as np

from gradmq.bench import workload
from gradmq.bench.child import Parent, run
from gradmq.bench.echo import worker_result
from gradmq.bench.figures import Window
from gradmq.bench.workload import Arrays

CALL_S = 60.0

#: The store holds what is under way: of each worker some gradients and answers.
STORE_MODELS_PER_WORKER = 8
STORE_AT_LEAST_BYTES = 500_000_000


class Server:
    """The actor that holds the parameters; Ray calls it from one thread."""

    def __init__(self, mb: float) -> None:
        self._mb = mb
        self._parameters = workload.model(mb)

    def pid(self) -> int:
        return os.getpid()

    def push(self, gradients: Arrays) -> Arrays:
        for name, gradient in gradients.items():
            parameter = self._parameters[name]
            for start in range(0, parameter.size, 1 << 16):
                block = slice(start, start + (1 << 16))
                parameter[block] -= np.float32(workload.LR) * gradient[block]
        return self._parameters

    def agrees(self, applied: dict[int, int]) -> bool:
        return workload.agrees(self._mb, applied, self._parameters)


class Worker:
    """An actor that pushes."""

    def __init__(self, mb: float, index: int, server: Any) -> None:
        self._index = index
        self._server = server
        self._gradients = workload.gradients(mb, index)

    def ready(self) -> bool:
        return True

    def echo(self, start: float, end: float) -> dict[str, Any]:
        """Push until the window ends; every answer is held before the next push."""
        ray = import_module("ray")
        window = Window(start, end)
        times = []
        while (started := time.monotonic()) < window.end:
            ray.get(self._server.push.remote(self._gradients), timeout=CALL_S)
            times.append((started, time.monotonic()))
        return worker_result(self._index, times, window)


def main(parent: Parent, spec: dict[str, Any]) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a measurement reports to nobody
    ray = import_module("ray")
    mb, workers = spec["mb"], range(spec["workers"])
    store = int(STORE_MODELS_PER_WORKER * len(workers) * mb * 1e6)
    parent.say("up")
    parent.await_word("join")
    ray.init(
        num_cpus=len(workers) + 1,
        object_store_memory=max(STORE_AT_LEAST_BYTES, store),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=spec["folder"],
    )
    server = ray.remote(Server).options(num_cpus=1, max_concurrency=1).remote(mb)
    actors = [ray.remote(Worker).options(num_cpus=1).remote(mb, i, server) for i in workers]
    ray.get([actor.ready.remote() for actor in actors], timeout=CALL_S)
    parent.say("joined", server=ray.get(server.pid.remote(), timeout=CALL_S))
    go = parent.await_word("go")
    calls = [actor.echo.remote(go["start"], go["end"]) for actor in actors]
    left_s = go["end"] - time.monotonic()
    parent.say("done", workers=ray.get(calls, timeout=left_s + CALL_S))
    applied = {int(k): v for k, v in parent.await_word("check")["applied"].items()}
    parent.say("checked", agrees=ray.get(server.agrees.remote(applied), timeout=CALL_S))
    parent.await_word("leave")
    ray.shutdown()


if __name__ == "__main__":
    run(main)
