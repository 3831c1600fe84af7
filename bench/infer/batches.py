"""What do batches bring? The same node with and without them, beside what the model can do."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S
from gradmq.bench.figures import ratio
from gradmq.bench.infer import models, requests
from gradmq.bench.infer.load import Figures, by_turns, clients
from gradmq.bench.infer.nodes import node
from gradmq.jobs import fashion_mnist

PATH = "/v2/models/cnn/infer"

ROWS_AT_MOST = 64

#: Different pictures, so that a row in another request's answer would be found.
PICTURES = 16

#: The bare model is measured for so long at each size; s.
LIMIT_S = 1.0


@dataclass
class Batched:
    """Requests of one row each, in batches and one by one."""

    clients: int
    off: Figures = field(default_factory=Figures)
    on: Figures = field(default_factory=Figures)
    rows_per_run: float = 0.0
    """The mean batch that the model ran on, with batches."""
    alone_rows_per_s: float = 0.0
    limit_rows_per_s: float = 0.0
    """The model by itself in one thread, on one row and on as many as there are clients."""

    def as_json(self) -> dict[str, Any]:
        return {
            "clients": self.clients,
            "off": self.off.as_json(),
            "on": self.on.as_json(),
            "rows_per_run": self.rows_per_run,
            "alone_rows_per_s": self.alone_rows_per_s,
            "limit_rows_per_s": self.limit_rows_per_s,
            "speed_up": ratio(self.on.per_s, self.off.per_s),
            "of_limit": ratio(self.on.per_s, self.limit_rows_per_s),
            "right": self.on.right and self.off.right,
        }


def measure(seconds: float, count: int) -> Batched:
    """Two nodes that differ in ``infer.max_batch_size`` alone, by turns; ``seconds`` of each."""
    found = Batched(count)
    chance = np.random.default_rng(0)
    pictures = chance.integers(0, 256, (PICTURES, 1, 28, 28), np.uint8)
    with tempfile.TemporaryDirectory(prefix="gradmq-") as name, ExitStack() as stack:
        folder = Path(name)
        job, file = models.write_job(folder, "cnn()"), folder / "cnn.safetensors"
        safetensors.torch.save_file(models.cnn_module().state_dict(), file)
        turns = []
        for figures, rows in ((found.off, 1), (found.on, ROWS_AT_MOST)):
            settings = {"infer.max_batch_size": rows}
            server = stack.enter_context(node(folder, job, settings, checkpoint=file))
            asked = [_ask(server.host, picture) for picture in pictures]
            load = clients(server, count, asked, {"outputs": _right(pictures)})
            turns.append((stack.enter_context(load), figures))
        by_turns(turns, seconds)
        found.rows_per_run = server.metric("nv_inference_count") / server.metric(
            "nv_inference_exec_count"
        )
    found.alone_rows_per_s, found.limit_rows_per_s = _limits((1, count))
    return found


def _ask(host: str, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    body, headers = requests.infer_binary(
        "image", "UINT8", (1, 28, 28), picture.tobytes(), ("class", "probabilities")
    )
    return requests.post(host, PATH, body, headers)


def _right(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> list[list[list[float]]]:
    """By request: the class, and the probability of each."""
    spec = fashion_mnist.serve()
    assert spec.prepare is not None and spec.finish is not None
    with torch.inference_mode():
        outputs = spec.finish(models.cnn_module()(*spec.prepare({"image": pictures[:, 0]})))
    classes, shares = outputs["class"].tolist(), outputs["probabilities"].tolist()
    return [[[one], row] for one, row in zip(classes, shares, strict=True)]


def _limits(sizes: tuple[int, ...]) -> list[float]:
    with Crew() as crew:
        crew.start("limit", "gradmq.bench.infer.bare_model", {"sizes": sizes, "seconds": LIMIT_S})
        (said,) = crew.expect("done", STEP_S)
        crew.tell("leave")
    return list(said["rows_per_s"])
