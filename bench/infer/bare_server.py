"""The small model behind a Starlette handler and nothing else: what the same libraries can do."""

from __future__ import annotations

import json
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gradmq.bench.child import Parent, run
from gradmq.bench.infer import models
from gradmq.bench.infer.uvicorn_peer import serve


def main(parent: Parent, spec: dict[str, Any]) -> None:
    model = models.mlp_module().eval()

    async def infer(request: Request) -> Response:
        (tensor,) = json.loads(await request.body())["inputs"]
        x = torch.tensor(tensor["data"], dtype=torch.float32).reshape(tensor["shape"])
        with torch.inference_mode():
            y = model(x)
        output = {"name": "y", "shape": list(y.shape), "data": y.flatten().tolist()}
        return Response(json.dumps({"outputs": [output]}), media_type="application/json")

    serve(parent, Starlette(routes=[Route(spec["path"], infer, methods=["POST"])]))


if __name__ == "__main__":
    run(main)
