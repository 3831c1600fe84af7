"""How long from a push to parameters that include it? By model size and transport, one worker."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gradmq.bench.echo import EchoCase
from gradmq.bench.figures import percentile
from gradmq.bench.push import echo

SIZES_MB = (0.001, 0.1, 1.0, 16.0)

WARMUP_S = 0.5


@dataclass(frozen=True)
class Latency:
    """The distribution of one size and transport; milliseconds."""

    mb: float
    transport: str
    pushes: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    correct: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def one(mb: float, transport: str, seconds: float) -> Latency:
    run = echo(EchoCase(mb, 1, transport, 1, 1, seconds, WARMUP_S))
    values = run.latencies_ms
    return Latency(
        mb=mb,
        transport=transport,
        pushes=len(values),
        min_ms=min(values, default=math.nan),
        p50_ms=percentile(values, 0.50),
        p90_ms=percentile(values, 0.90),
        p99_ms=percentile(values, 0.99),
        max_ms=max(values, default=math.nan),
        correct=run.figures.correct,
    )
