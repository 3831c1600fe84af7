"""A training loop of your own with a Worker in it: ``worker.step()`` in the place of an optimizer.

Run: `python examples/embed_plain_loop.py`.
"""

import torch
from torch import nn

import gradmq

BATCH = 32

torch.manual_seed(0)
inputs = torch.randn(512, 8)
targets = inputs @ torch.randn(8, 2)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))

with (
    # A broker and two shards on this machine. To join a run that is there already, leave this out
    # and give the Worker that broker's address, as in "tcp://10.0.0.5:5550".
    gradmq.LocalCluster(model, shards=2, optimizer=gradmq.SGD(lr=0.1)) as cluster,
    gradmq.Worker(model, cluster.address) as worker,
):
    losses = []
    for number in range(101):
        chosen = torch.randint(len(inputs), (BATCH,))
        loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
        loss.backward()
        step = worker.step(loss=loss, samples=BATCH)
        losses.append(loss.item())
        if number % 25 == 0:
            print(f"step {number:>3}  loss {loss.item():.3f}  versions {step.versions}")
    rejected = [answer for answer in worker.drain() if not answer.applied]
    updates = cluster.versions()[0][1]

print(f"loss fell from {losses[0]:.3f} to {losses[-1]:.3f} in {updates} updates")
print(f"of the last pushes {len(rejected)} were rejected")
