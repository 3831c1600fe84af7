"""How many requests does a node answer beside other servers of the same small model?"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from gradmq.bench.figures import ratio
from gradmq.bench.infer import models, requests
from gradmq.bench.infer.load import Figures, by_turns, clients
from gradmq.bench.infer.nodes import START_S, Server, node, peer
from gradmq.bench.infer.tables import BARE, BINARY, FASTAPI, OWN, OWN_BESIDE_RAY, RAY

#: Different requests, so that an answer to another one would be found.
REQUESTS = 16

PATH = "/v2/models/mlp/infer"


@dataclass
class Rate:
    """What clients saw of one server of the small model; without figures, the reason."""

    server: str
    figures: Figures = field(default_factory=Figures)
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        figures = {} if self.reason else self.figures.as_json()
        return {"server": self.server, "reason": self.reason, **figures}


@dataclass(frozen=True)
class Compared:
    """All servers that there are, and this project's beside each."""

    clients: int
    rates: Sequence[Rate]

    def as_json(self) -> dict[str, Any]:
        found = {rate.server: rate.figures for rate in self.rates}
        ours = (OWN, BINARY, OWN_BESIDE_RAY)
        return {
            "clients": self.clients,
            "servers": [rate.as_json() for rate in self.rates],
            "of_bare": self._of(OWN, BARE),
            "of_fastapi": self._of(OWN, FASTAPI),
            "of_ray": self._of(OWN_BESIDE_RAY, RAY),
            "binary_of_json": self._of(BINARY, OWN),
            "right": all(found[name].right for name in ours if name in found),
        }

    def _of(self, server: str, other: str) -> float:
        """How many times as many requests; NaN if one of them is not there."""
        per_s = {rate.server: rate.figures.per_s for rate in self.rates}
        return ratio(per_s.get(server, math.nan), per_s.get(other, math.nan))


@dataclass(frozen=True)
class Contender:
    """A server of the small model, and how it is started."""

    name: str
    start: Callable[[], AbstractContextManager[Server]]
    binary: bool = False
    missing: str = ""
    """Why it cannot be started here."""


def measure(seconds: float, count: int, python: str = sys.executable) -> Compared:
    """Every server that is installed, ``seconds`` of each, by turns with this project's node.

    ``python`` is one that has FastAPI and Ray Serve. Ray keeps processes that are never idle, so it
    has a turn of its own, with a node beside it.
    """
    with tempfile.TemporaryDirectory(prefix="gradmq-") as name:
        folder = Path(name)
        own = _own(folder)
        ray = _peer(RAY, "ray.serve", "ray_server", folder, python)
        rates = _by_turns(
            [
                Contender(OWN, own),
                Contender(BINARY, own, binary=True),
                _peer(BARE, "starlette", "bare_server", folder, sys.executable),
                _peer(FASTAPI, "fastapi", "fastapi_server", folder, python),
            ],
            seconds,
            count,
        )
        with_ray = [ray] if ray.missing else [Contender(OWN_BESIDE_RAY, own), ray]
        return Compared(count, rates + _by_turns(with_ray, seconds, count))


def pictures(count: int) -> torch.Tensor:
    """Inputs of the small model (count, 784) float32, with as many digits as pictures have."""
    chance = np.random.default_rng(0)
    return torch.from_numpy(chance.integers(0, 256, (count, models.INPUTS)) / 255).float()


def ask(host: str, picture: torch.Tensor, binary: bool = False) -> bytes:
    """The request with one picture."""
    shape = (1, models.INPUTS)
    if binary:
        body, headers = requests.infer_binary("x", "FP32", shape, picture.numpy().tobytes())
        return requests.post(host, PATH, body, headers)
    body = requests.infer_json("x", "FP32", shape, picture.tolist())
    return requests.post(host, PATH, body, {"content-type": "application/json"})


def _by_turns(contenders: Sequence[Contender], seconds: float, count: int) -> list[Rate]:
    rates = [Rate(contender.name, reason=contender.missing) for contender in contenders]
    asked = pictures(REQUESTS)
    with torch.inference_mode():
        right = [[row] for row in models.mlp_module()(asked).tolist()]
    with ExitStack() as stack:
        turns = []
        for contender, rate in zip(contenders, rates, strict=True):
            if not contender.missing:
                server = stack.enter_context(contender.start())
                bodies = [ask(server.host, picture, contender.binary) for picture in asked]
                load = stack.enter_context(clients(server, count, bodies, {"outputs": right}))
                turns.append((load, rate.figures))
        by_turns(turns, seconds)
    return rates


def _own(folder: Path) -> Callable[[], AbstractContextManager[Server]]:
    """A node alone: no run, it serves a file."""
    file = folder / "mlp.safetensors"
    safetensors.torch.save_file(models.mlp_module().state_dict(), file)
    return partial(node, folder, models.write_job(folder, "mlp()"), checkpoint=file)


def _peer(name: str, needs: str, module: str, folder: Path, python: str) -> Contender:
    spec = {"path": PATH, "folder": str(folder)}
    start = partial(peer, f"gradmq.bench.infer.{module}", spec, python)
    return Contender(name, start, missing="" if _has(python, needs) else "not installed")


def _has(python: str, module: str) -> bool:
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, timeout=START_S)
    return done.returncode == 0
