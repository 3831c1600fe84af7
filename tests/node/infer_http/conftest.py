"""A node's HTTP side as a client meets it: a real server on loopback, tiny models behind it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch

from gradmq.infer.http import make_app
from gradmq.infer.limits import HttpLimits
from gradmq.infer.measures import Measures
from gradmq.infer.run_watch import RunWatch
from gradmq.infer.server import HttpServer
from gradmq.infer.serving import ServedRelease, Serving
from gradmq.serve import TensorModel, TensorSpec, TextModel


@dataclass
class Node:
    """A running server: its address, and the releases behind it."""

    url: str
    serving: Serving
    client: httpx.Client
    stop: threading.Event

    def offer(self, number: int, model: Any, age_s: float = 0.0) -> None:
        """Give the node a release, heard of this very moment or longer ago."""
        versions = ((1, number * 10), (2, number * 10 + 1))
        self.serving.offer(ServedRelease(number, versions, model), time.monotonic() - age_s)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.client.post(path, json=body)


ServeNode = Callable[..., Node]


@contextlib.contextmanager
def running_node(
    name: str,
    spec: TensorModel | TextModel,
    limits: HttpLimits | None = None,
    token: str = "",
    keep: int = 1,
    max_age_s: float | None = None,
    measures: Measures | None = None,
    watch: RunWatch | None = None,
    port: int = 0,
) -> Iterator[Node]:
    serving = Serving(keep)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as executor, contextlib.ExitStack() as cleanup:
        # Starts its thread now: it belongs to this node, not to the test that asks first.
        executor.submit(int).result()
        app = make_app(
            serving,
            name,
            spec,
            executor,
            time.monotonic,
            limits=limits,
            token=token,
            max_age_s=max_age_s,
            measures=measures,
            watch=watch,
            stopping=stop.is_set,
        )
        server = cleanup.enter_context(HttpServer(app, "127.0.0.1", port))
        thread = threading.Thread(target=server.serve_until, args=(stop,))
        thread.start()
        cleanup.callback(thread.join)
        cleanup.callback(stop.set)
        client = cleanup.enter_context(httpx.Client(base_url=server.url, timeout=30))
        yield Node(server.url, serving, client, stop)


@pytest.fixture
def serve_node() -> Iterator[ServeNode]:
    """Starts nodes: ``serve_node(name, spec, limits)``; all of them end with the test."""
    with contextlib.ExitStack() as nodes:
        yield lambda *args, **settings: nodes.enter_context(running_node(*args, **settings))


@pytest.fixture(scope="module")
def serve_module() -> Iterator[ServeNode]:
    """The same for a node that all tests of a file may ask, and none changes."""
    with contextlib.ExitStack() as nodes:
        yield lambda *args, **settings: nodes.enter_context(running_node(*args, **settings))


#: Two rows of three in, their sums and their doubles out.
SUMS = TensorModel(
    inputs=(TensorSpec("rows", "FP32", (-1, 3)),),
    outputs=(TensorSpec("sum", "FP32", (-1,)), TensorSpec("double", "FP32", (-1, 3))),
)


@pytest.fixture(scope="session")
def sums_spec() -> TensorModel:
    """One input, "rows", and two outputs, "sum" and "double"."""
    return SUMS


def sums(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.sum(dim=1), rows * 2


@pytest.fixture(scope="package")
def sums_node() -> Iterator[Node]:
    """A tensor model, "sums", at release 12."""
    with running_node("sums", SUMS) as node:
        node.offer(12, sums)
        yield node


BYTES = TextModel(
    encode=lambda text: list(text.encode()),
    decode=lambda ids: bytes(ids).decode("utf-8", "replace"),
    context_tokens=8,
)


@pytest.fixture(scope="session")
def text_spec() -> TextModel:
    """Tokens are bytes; the model sees the last 8."""
    return BYTES


def next_letter(ids: torch.Tensor) -> torch.Tensor:
    """All but certain that each byte is followed by the next higher one."""
    assert ids.dtype == torch.int64
    assert ids.shape[1] <= BYTES.context_tokens
    return torch.nn.functional.one_hot((ids + 1) % 256, 256).float() * 1000


@pytest.fixture(scope="package")
def letters_node() -> Iterator[Node]:
    """A text model, "letters", at release 12, that goes on with the alphabet."""
    with running_node("letters", BYTES) as node:
        node.offer(12, next_letter)
        yield node


class Gate:
    """A model that waits inside its call until it is let go."""

    def __init__(self, model: Callable[[torch.Tensor], Any]) -> None:
        self._model = model
        self.entered = threading.Event()
        self.calls = 0
        self.go = threading.Event()

    def __call__(self, argument: torch.Tensor) -> Any:
        self.calls += 1
        self.entered.set()
        self.go.wait()
        return self._model(argument)


@pytest.fixture
def gate(serve_node: ServeNode) -> Iterator[Callable[[Callable[[torch.Tensor], Any]], Gate]]:
    """Makes models that wait; those still waiting are let go before the test's nodes end."""
    gates: list[Gate] = []

    def make(model: Callable[[torch.Tensor], Any]) -> Gate:
        gates.append(Gate(model))
        return gates[-1]

    yield make
    for each in gates:
        each.go.set()
