"""The small model as a Ray Serve deployment: one replica behind Serve's own HTTP proxy."""

from __future__ import annotations

import os
import socket
from importlib import import_module
from typing import Any

from gradmq.bench.child import Parent, run
from gradmq.bench.infer import models

#: Requests that the replica may have at once; more clients than that are not measured.
ONGOING = 256


class Model:
    """The deployment."""

    def __init__(self) -> None:
        self._model = models.mlp_module().eval()

    async def __call__(self, request: Any) -> dict[str, Any]:
        import torch

        (tensor,) = (await request.json())["inputs"]
        x = torch.tensor(tensor["data"], dtype=torch.float32).reshape(tensor["shape"])
        with torch.inference_mode():
            y = self._model(x)
        return {"outputs": [{"name": "y", "shape": list(y.shape), "data": y.flatten().tolist()}]}


def main(parent: Parent, spec: dict[str, Any]) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a measurement reports to nobody
    ray, serve = import_module("ray"), import_module("ray.serve")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=spec["folder"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = serve.deployment(Model).options(max_ongoing_requests=ONGOING)
    serve.run(deployment.bind(), route_prefix=spec["path"])
    parent.say("up", port=port)
    parent.await_word("leave")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    from gradmq.bench.infer import ray_server

    run(ray_server.main)
