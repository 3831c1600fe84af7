"""What one core and the loopback of this machine can do: the limits that figures stand beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradmq.bench import workload
from gradmq.bench.crew import Crew

#: 256 KiB of float32: what a core keeps near.
BLOCK = 65_536

#: Time for one limit is divided into so many rounds; the best one counts.
ROUNDS = 4


@dataclass(frozen=True)
class Limits:
    """Best of some rounds, each over as many bytes as the model has."""

    sgd_loop_gb_per_s: float
    """Gradient bytes that one core applies: p -= lr·g on a flat array, in blocks."""
    memcpy_gb_per_s: float
    """One core copies from memory to memory, both in use already."""
    tcp_echo_gb_per_s: float
    """Raw sockets on loopback, as many as workers: bytes sent and echoed, counted once."""


def measure(mb: float, workers: int, seconds: float) -> Limits:
    """Measure each limit for so many seconds, in this process, TCP between processes."""
    elements = sum(workload.sizes(mb))
    return Limits(
        sgd_loop_gb_per_s=_best(_sgd_loop(elements), elements, seconds),
        memcpy_gb_per_s=_best(_memcpy(elements), elements, seconds),
        tcp_echo_gb_per_s=tcp_echo_gb_per_s(4 * elements, workers, seconds),
    )


def tcp_echo_gb_per_s(nbytes: int, workers: int, seconds: float) -> float:
    """Clients send so many bytes to one server, which then sends as many back, and so on."""
    with Crew() as crew:
        server = crew.start("tcp-server", "gradmq.bench.tcp_echo", {"role": "server"})
        port = crew.expect("listening", 30.0)[0]["port"]
        server.tell("serve", clients=workers, nbytes=nbytes)
        with Crew() as clients:
            for index in range(workers):
                spec = {"role": "client", "port": port, "nbytes": nbytes}
                clients.start(f"tcp-client-{index}", "gradmq.bench.tcp_echo", spec)
            clients.expect("connected", 30.0)
            start = time.monotonic() + seconds / 4
            clients.tell("go", start=start, end=start + seconds)
            done = clients.expect("done", seconds + 60.0)
            clients.tell("leave")
    return sum(float(answer["within"]) for answer in done) * nbytes / seconds / 1e9


def _sgd_loop(elements: int) -> Callable[[], None]:
    parameters, gradient = np.full((2, elements), 1, np.float32)
    scratch = np.full(min(BLOCK, elements), 0, np.float32)
    lr = np.float32(workload.LR)

    def step() -> None:
        for start in range(0, elements, BLOCK):
            stop = min(start + BLOCK, elements)
            part = scratch[: stop - start]
            np.multiply(gradient[start:stop], lr, out=part)
            np.subtract(parameters[start:stop], part, out=parameters[start:stop])

    return step


def _memcpy(elements: int) -> Callable[[], None]:
    source, target = np.full((2, elements), 1, np.float32)
    return lambda: np.copyto(target, source)


def _best(step: Callable[[], None], elements: int, seconds: float) -> float:
    """GB/s of the best round; ``step`` works through all elements once."""
    step()
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        steps = 0
        while (elapsed := time.perf_counter() - started) < seconds / ROUNDS or not steps:
            step()
            steps += 1
        rates.append(4 * elements * steps / elapsed / 1e9)
    return max(rates)
