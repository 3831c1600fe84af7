"""A node that writes each release over the last one: no answer comes from parts of two."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import gradmq
from gradmq.config import InferSettings, NetworkSettings
from gradmq.infer import node
from gradmq.infer.swapping import Swapper

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

A = ord("a")


class Counter(torch.nn.Module):
    """Each update takes 1 from both weights, of a shard each; a call takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def count(self) -> float:
        """How many updates the two shards have applied; infinite if that changed meanwhile."""
        before = self.weight.sum().item()
        time.sleep(0.003)
        return -before if self.weight.sum().item() == before else float("inf")


class Tensors(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 1), self.count())


class Texts(Counter):
    """Goes on with the same letter for ever: the one of its number of updates."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, tokens.shape[1], 256)
        logits[..., A + int(self.count()) % 26] = 1.0
        return logits


def tensor_model() -> gradmq.TensorModel:
    tensor = gradmq.TensorSpec("x", "FP32", (-1, 1))
    return gradmq.TensorModel((tensor,), (gradmq.TensorSpec("y", "FP32", (-1, 1)),))


def text_model() -> gradmq.TextModel:
    return gradmq.TextModel(lambda text: list(text.encode()), lambda ids: bytes(ids).decode(), 8)


@contextlib.contextmanager
def in_place(
    model: type[Counter], serve: Callable[[], Any], folder: Path
) -> Iterator[tuple[httpx.Client, gradmq.Worker]]:
    """A node beside a cluster, a client of it, and who trains."""
    job = gradmq.Job("count", model, lambda context: iter(()), "mse_loss", serve=serve)
    stopped = threading.Event()
    up: queue.SimpleQueue[str] = queue.SimpleQueue()
    with gradmq.LocalCluster(
        model(),
        shards=2,
        optimizer=gradmq.SGD(lr=1.0),
        staleness=gradmq.Unbounded(),
        settings={"run.release_every": "20ms"},
        folder=folder,
    ) as cluster:
        source = node.releases_of_run(job, cluster.address, "", 30.0, None, in_place=True)

        def tell(swapper: Swapper, url: str, stop: Callable[[], bool]) -> None:
            up.put(url)
            source(swapper, url, stop)

        settings = InferSettings(inplace=True)
        thread = threading.Thread(
            target=node.serve, args=(job, settings, NetworkSettings(), tell, stopped)
        )
        thread.start()
        try:
            with (
                httpx.Client(base_url=up.get(timeout=30), timeout=30) as client,
                gradmq.Worker(model(), cluster.address) as worker,
            ):
                while client.get("/v2/health/ready").status_code != 200:
                    assert thread.is_alive()
                yield client, worker
        finally:
            stopped.set()
            thread.join()


def push(worker: gradmq.Worker) -> str:
    """One more update; returns the versions that hold it."""
    answered = worker.push({"weight": torch.ones(2)}).verdict()
    return ",".join(f"{v.version[0]}:{v.version[1]}" for v in answered.verdicts if v.version)


def updates(versions: str) -> int:
    """Of both shards, in versions as an answer names them."""
    return sum(int(version.partition(":")[2]) for version in versions.split(","))


def ask(client: httpx.Client, **wishes: str) -> tuple[float, int]:
    """What the model counted, and what the release that is named in the answer has."""
    rows = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]}
    answer = client.post("/v2/models/count/infer", json=rows, params=wishes)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    counted: float = found["outputs"][0]["data"][0]
    return counted, updates(found["parameters"]["gradmq_versions"])


def complete(client: httpx.Client, tokens: int) -> tuple[str, int]:
    body = {"model": "count", "prompt": ".", "max_tokens": tokens, "temperature": 0}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["choices"][0]["text"], updates(found["metadata"]["versions"])


def test_an_answer_comes_from_the_release_that_it_names_however_often_one_is_written(
    tmp_path: Path,
) -> None:
    with in_place(Tensors, tensor_model, tmp_path) as (client, worker):
        seen = set()
        while len(seen) < 5:
            wanted = push(worker)
            counted, named = ask(client)
            assert counted == named
            seen.add(named)
        assert ask(client, min_version=wanted, max_age="5s")[0] >= updates(wanted)


def test_a_completion_ends_on_the_release_that_it_began_with(tmp_path: Path) -> None:
    with in_place(Texts, text_model, tmp_path) as (client, worker), ThreadPoolExecutor(3) as pool:
        seen = set()
        while len(seen) < 4:
            answers = [pool.submit(complete, client, 24) for _ in range(3)]
            while not all(answer.done() for answer in answers):
                push(worker)
                time.sleep(0.01)
            for answer in answers:
                text, named = answer.result()
                assert text == chr(A + named % 26) * 24
                seen.add(named)


def test_a_frozen_node_keeps_its_one_release_and_has_no_other_to_go_to(tmp_path: Path) -> None:
    with in_place(Tensors, tensor_model, tmp_path) as (client, worker):
        ask(client, min_version=push(worker))
        steer = "/gradmq/v1/serving"
        frozen = client.post(f"{steer}/freeze", json={}).json()
        assert frozen["mode"] == "pinned"
        before = ask(client)
        wanted = push(worker)
        answer = client.post(
            "/v2/models/count/infer",
            json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]}]},
            params={"min_version": wanted},
        )
        assert answer.status_code == 409
        assert ask(client) == before
        for action, body, says in (
            ("pin", {"release": 1}, "release 1 is not held here; held are "),
            ("rollback", {}, "nothing older than release "),
            ("label", {"label": "stable"}, "this node writes each release over the last one"),
        ):
            refused = client.post(f"{steer}/{action}", json=body)
            assert refused.status_code == 409
            assert refused.json()["error"].startswith(says)
        client.post(f"{steer}/unfreeze", json={})
        assert ask(client, min_version=wanted)[0] >= updates(wanted)


def test_a_diverged_release_is_found_before_it_is_written(tmp_path: Path) -> None:
    with in_place(Tensors, tensor_model, tmp_path) as (client, worker):
        ask(client, min_version=push(worker))
        for _ in range(2):  # each is finite, their sum is not
            worker.push({"weight": torch.tensor([3e38, 0.0])}).verdict()
        while not client.get("/gradmq/v1/serving").json()["turned_down"]["count"]:
            pass  # the test's own time limit ends this
        assert math.isfinite(ask(client)[0])
