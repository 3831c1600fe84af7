"""What does a cache of keys and values bring? The same text model with it and without."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from gradmq.bench.figures import percentile, ratio
from gradmq.bench.infer import models, requests
from gradmq.bench.infer.load import Figures, by_turns, clients
from gradmq.bench.infer.nodes import node

TOKENS = 256

#: One after the other: what one person waits for.
CLIENTS = 1


@dataclass
class Completed:
    """Completions of so many tokens, with and without a cache."""

    tokens: int
    off: Figures = field(default_factory=Figures)
    on: Figures = field(default_factory=Figures)

    def as_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "off": self.off.as_json(),
            "on": self.on.as_json(),
            # A window holds but a few: their times tell more than their number.
            "speed_up": ratio(
                percentile(self.off.latencies_ms, 0.5), percentile(self.on.latencies_ms, 0.5)
            ),
            "right": self.on.right and self.off.right,
        }


def measure(seconds: float, tokens: int = TOKENS) -> Completed:
    """Two nodes of the job lm, one of which does not use the model's cache, by turns."""
    found = Completed(tokens)
    body = json.dumps({"prompt": "def ", "max_tokens": tokens, "temperature": 0}).encode()
    with tempfile.TemporaryDirectory(prefix="gradmq-") as name, ExitStack() as stack:
        folder = Path(name)
        file = folder / "text.safetensors"
        safetensors.torch.save_file(models.text_module().state_dict(), file)
        turns = []
        for figures, cached in ((found.off, False), (found.on, True)):
            job = models.write_job(folder, f"text({cached})")
            server = stack.enter_context(node(folder, job, checkpoint=file))
            headers = {"content-type": "application/json"}
            asked = [requests.post(server.host, "/v1/completions", body, headers)]
            load = clients(server, CLIENTS, asked, {"tokens": tokens})
            turns.append((stack.enter_context(load), figures))
        by_turns(turns, seconds)
    return found
