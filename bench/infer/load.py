"""Loads a server with clients in a process of their own, and adds up what its windows gave."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S
from gradmq.bench.figures import percentile, ratio
from gradmq.bench.infer.clients import ANSWER_S
from gradmq.bench.infer.nodes import Server
from gradmq.bench.processes import cpu_s

#: Before each window: connections, caches and the other side's queues settle.
SETTLE_S = 0.3

#: Windows of everything that is compared.
ROUNDS = 4


@dataclass
class Figures:
    """What clients saw of one server, over all windows in which it was asked."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Requests a second, by window."""
    failures: int = 0
    wrong: int = 0
    what: list[str] = field(default_factory=list)
    """Some of the failures and of the wrong answers."""
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return ratio(len(self.latencies_ms), self.seconds)

    def as_json(self) -> dict[str, Any]:
        thousands = len(self.latencies_ms) / 1000
        return {
            "requests_per_s": self.per_s,
            "p50_ms": percentile(self.latencies_ms, 0.50),
            "p99_ms": percentile(self.latencies_ms, 0.99),
            "answers": len(self.latencies_ms),
            "failures": self.failures,
            "wrong": self.wrong,
            "what": self.what[:3],
            "server_cpu_s_per_1000": ratio(self.server_cpu_s, thousands),
            "client_cpu_s_per_1000": ratio(self.client_cpu_s, thousands),
        }

    @property
    def right(self) -> bool:
        """Everything was answered, and rightly."""
        return bool(self.latencies_ms) and not self.failures and not self.wrong


class Load:
    """Clients of one server; they ask only in windows."""

    def __init__(self, crew: Crew, server: Server) -> None:
        self._crew = crew
        self.server = server

    def window(self, figures: Figures, seconds: float, every_s: float = 0.0) -> None:
        """One window, added to ``figures``; raises GradmqError if a process fails."""
        start = time.monotonic() + SETTLE_S
        self._crew.tell("load", start=start, end=start + seconds, every_s=every_s)
        self._crew.watch_until(start)
        before = self._cpu_s()
        self._crew.watch_until(start + seconds)
        server_s, client_s = (now - was for now, was in zip(self._cpu_s(), before, strict=True))
        (done,) = self._crew.expect("done", ANSWER_S + STEP_S)
        figures.seconds += seconds
        figures.latencies_ms += done["latencies_ms"]
        figures.rates.append(done["within"] / seconds)
        figures.failures += done["failures"]
        figures.wrong += done["wrong"]
        figures.what += done["what"]
        figures.server_cpu_s += server_s
        figures.client_cpu_s += client_s

    def _cpu_s(self) -> tuple[float, float]:
        return cpu_s(self.server.pids()), cpu_s(self._crew.pids)


@contextmanager
def clients(
    server: Server, count: int, requests: Sequence[bytes], check: Mapping[str, Any]
) -> Iterator[Load]:
    """So many clients of ``server``, in a process that ends with the block."""
    with Crew() as crew:
        spec = {
            "host": server.host,
            "port": server.port,
            "clients": count,
            "requests": [base64.b64encode(request).decode() for request in requests],
            "check": check,
        }
        crew.start("clients", "gradmq.bench.infer.clients", spec)
        crew.expect("up", STEP_S)
        yield Load(crew, server)
        crew.tell("leave")


def by_turns(turns: Sequence[tuple[Load, Figures]], seconds: float) -> None:
    """``seconds`` of each load, cut into windows that follow each other in turn.

    What drifts on a machine within minutes drifts for all of them.
    """
    for _ in range(ROUNDS):
        for load, figures in turns:
            load.window(figures, seconds / ROUNDS)
