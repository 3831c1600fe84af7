"""How long until an applied update can be asked for? From its verdict to an answer that has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gradmq.bench.echo import STEP_S
from gradmq.bench.figures import percentile
from gradmq.bench.infer import filled

#: An answer reads every so many parameters of the model.
EVERY = 1009

#: Not counted: the first push of a worker, the first releases of a node.
WARMUP = 3


@dataclass(frozen=True)
class Freshness:
    """The times of one model over one transport; milliseconds."""

    mb: float
    transport: str
    release: str
    """``asked for``: the worker has one made at once; else made by the broker, so often."""
    pushes: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    max_ms: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def one(mb: float, transport: str, every_s: float | None, pushes: int) -> Freshness:
    """``every_s``: the broker makes releases so often; None: the worker asks for each."""
    release_every_s = filled.NEVER_S if every_s is None else every_s
    with filled.running(mb, EVERY, transport, release_every_s) as run:
        run.pusher.tell(
            "freshness",
            url=run.node.url,
            path=filled.PATH,
            body=filled.BODY.decode(),
            count=WARMUP + pushes,
            ask=every_s is None,
        )
        (done,) = run.pusher.expect("done", STEP_S + pushes * STEP_S)
    times = done["times_ms"][WARMUP:]
    return Freshness(
        mb=mb,
        transport=transport,
        release="asked for" if every_s is None else f"every {every_s:g} s",
        pushes=pushes,
        min_ms=min(times),
        p50_ms=percentile(times, 0.50),
        p90_ms=percentile(times, 0.90),
        max_ms=max(times),
    )
