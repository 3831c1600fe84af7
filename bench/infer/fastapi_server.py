"""The small model on FastAPI, with the request and the answer as pydantic models."""

from importlib import import_module
from typing import Any

import torch
from pydantic import BaseModel

from gradmq.bench.child import Parent, run
from gradmq.bench.infer import models
from gradmq.bench.infer.uvicorn_peer import serve


class Tensor(BaseModel):
    name: str
    shape: list[int]
    data: list[float]
    datatype: str = "FP32"


class Infer(BaseModel):
    inputs: list[Tensor]


class Inferred(BaseModel):
    outputs: list[Tensor]


def main(parent: Parent, spec: dict[str, Any]) -> None:
    app = import_module("fastapi").FastAPI()
    model = models.mlp_module().eval()

    # async: for a model as quick as this one, FastAPI's pool of threads costs more than it brings.
    async def infer(asked: Infer) -> Inferred:
        (tensor,) = asked.inputs
        x = torch.tensor(tensor.data, dtype=torch.float32).reshape(tensor.shape)
        with torch.inference_mode():
            y = model(x)
        output = Tensor(name="y", shape=list(y.shape), data=y.flatten().tolist())
        return Inferred(outputs=[output])

    app.add_api_route(spec["path"], infer, methods=["POST"])
    serve(parent, app)


if __name__ == "__main__":
    run(main)
