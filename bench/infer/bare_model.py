"""The network of ``models.cnn`` by itself, in one thread: rows a second by size of the batch."""

from __future__ import annotations

import time
from typing import Any

import torch

from gradmq.bench.child import Parent, run
from gradmq.bench.infer import models
from gradmq.jobs import fashion_mnist


def main(parent: Parent, spec: dict[str, Any]) -> None:
    model = models.cnn_module().eval()
    found = []
    with torch.inference_mode():
        for rows in spec["sizes"]:
            pictures = torch.zeros((rows, 28, 28), dtype=torch.uint8)
            runs, begun = 0, time.monotonic()
            while (elapsed := time.monotonic() - begun) < spec["seconds"]:
                model(fashion_mnist.scaled(pictures)).softmax(1)
                runs += 1
            found.append(rows * runs / elapsed)
    parent.say("done", rows_per_s=found)
    parent.await_word("leave")


if __name__ == "__main__":
    run(main)
