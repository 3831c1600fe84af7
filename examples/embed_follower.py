"""A Follower beside training: another thread trains, this one evaluates every release as it comes.

Run: `python examples/embed_follower.py`.
"""

import copy
import threading

import torch
from torch import nn

import gradmq

torch.manual_seed(0)
true_weight = torch.randn(8, 2)
held_out = torch.randn(256, 8)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def train(model: nn.Module, address: str, updates: int) -> None:
    """All of a Worker belongs to one thread: it is opened, used and closed here."""
    with gradmq.Worker(model, address, name="trainer") as worker:
        for _ in range(updates):
            inputs = torch.randn(32, 8)
            loss = nn.functional.mse_loss(model(inputs), inputs @ true_weight)
            loss.backward()
            worker.step(loss=loss, samples=32)


with (
    gradmq.LocalCluster(
        model,
        shards=2,
        optimizer=gradmq.SGD(lr=0.1),
        settings={"run.release_every": "100ms"},
    ) as cluster,
    gradmq.Follower(model, cluster.address) as follower,
):
    training = threading.Thread(target=train, args=(copy.deepcopy(model), cluster.address, 300))
    training.start()
    losses = []
    while True:
        over = not training.is_alive()  # looked at first: the last release is still evaluated
        release = follower.update(timeout=1.0)
        with torch.inference_mode():
            loss = nn.functional.mse_loss(model(held_out), held_out @ true_weight).item()
        losses.append(loss)
        updates = release.versions[0][1]
        print(f"release {release.number}  after {updates:>3} updates  held-out loss {loss:.3f}")
        if over and release.versions == cluster.versions():
            break

print(f"loss fell from {losses[0]:.3f} to {losses[-1]:.3f} in {updates} updates")
