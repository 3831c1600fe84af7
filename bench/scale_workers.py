"""What does one more worker cost a shard, at the same total rate of gradients?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gradmq.bench.echo import EchoCase
from gradmq.bench.figures import ratio
from gradmq.bench.push import echo

WORKERS = (1, 2, 4, 8, 16, 32)

#: A small model, so that the cost is that of messages and decisions, not of bytes.
MB = 0.01

#: All workers together; far below what one shard can take.
OFFERED_PER_S = 200.0

#: 32 interpreters would be the load of their own start.
WORKERS_PER_PROCESS = 4

WARMUP_S = 1.0


@dataclass(frozen=True)
class WorkersResult:
    """One number of workers."""

    workers: int
    offered_per_s: float
    grads_per_s: float
    server_cpu_ms_per_grad: float
    p50_ms: float
    join_s: float
    correct: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def one(workers: int, seconds: float, transport: str) -> WorkersResult:
    case = EchoCase(MB, workers, transport, 1, 1, seconds, WARMUP_S)
    figures = echo(case, workers / OFFERED_PER_S, WORKERS_PER_PROCESS).figures
    cpu_s_per_s = figures.server_cpu_s_per_gb * figures.gb_per_s
    return WorkersResult(
        workers=workers,
        offered_per_s=OFFERED_PER_S,
        grads_per_s=figures.grads_per_s,
        server_cpu_ms_per_grad=1e3 * ratio(cpu_s_per_s, figures.grads_per_s),
        p50_ms=figures.p50_ms,
        join_s=figures.join_s,
        correct=figures.correct,
    )
