"""A job in one file: `gradmq run examples/regression.py` learns y = sin(3x) and serves it."""

import torch

import gradmq


def batches(context):
    chance = torch.Generator().manual_seed(context.seed)  # another one in every worker
    while True:
        x = 2 * torch.rand(256, 1, generator=chance) - 1
        yield x, torch.sin(3 * x) + 0.1 * torch.randn(256, 1, generator=chance)


def evaluate(model, context):
    x = torch.linspace(-1, 1, 201).unsqueeze(1)
    return {"rmse": (model(x) - torch.sin(3 * x)).square().mean().sqrt().item()}


job = gradmq.Job(
    name="regression",
    model=lambda: torch.nn.Sequential(
        torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
    ),
    batches=batches,
    loss="mse_loss",
    evaluate=evaluate,
    serve=lambda: gradmq.TensorModel(
        inputs=(gradmq.TensorSpec("x", "FP32", (-1, 1)),),
        outputs=(gradmq.TensorSpec("y", "FP32", (-1, 1)),),
    ),
    settings={"optimizer.lr": 0.02, "run.for": "20s"},
)
