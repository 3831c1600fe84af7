"""Gradients computed by hand on numpy arrays; torch is never imported.

Run: `python examples/embed_numpy.py`.
"""

import numpy as np

import gradmq

random = np.random.default_rng(0)
true_weight = random.normal(size=(8, 2))
inputs = random.normal(size=(512, 8))
targets = inputs @ true_weight + 0.5

# The arrays are written in place: what is installed is in them.
arrays = {"weight": np.zeros((8, 2), np.float32), "bias": np.zeros(2, np.float32)}

with (
    gradmq.LocalCluster(arrays, optimizer=gradmq.SGD(lr=0.1)) as cluster,
    gradmq.Worker(arrays, cluster.address) as worker,
):
    losses = []
    for _ in range(150):
        chosen = random.integers(len(inputs), size=32)
        error = inputs[chosen] @ arrays["weight"] + arrays["bias"] - targets[chosen]
        losses.append(float(np.mean(error**2)))
        gradients = {
            "weight": 2 * inputs[chosen].T @ error / error.size,
            "bias": 2 * error.sum(axis=0) / error.size,
        }
        worker.push(gradients, loss=losses[-1], samples=len(chosen))
        worker.catch_up()  # waits until the next push may leave, installs the newest parameters
    worker.drain()
    worker.pull()  # waits for the very newest of all shards
    updates = cluster.versions()[0][1]

print(f"loss fell from {losses[0]:.3f} to {losses[-1]:.3f} in {updates} updates")
print(f"largest error of a weight: {np.abs(arrays['weight'] - true_weight).max():.3f}")
