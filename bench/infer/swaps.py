"""Does anybody notice that the model is swapped? Failures, torn answers, and the tail of the times.

Every parameter of the model is its version, and every answer is held to that: a mixture of two
releases would show in the least or the largest of them.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from gradmq.bench.echo import STEP_S
from gradmq.bench.figures import ratio
from gradmq.bench.infer import filled, requests
from gradmq.bench.infer.load import ROUNDS, SETTLE_S, Figures, Load, clients

#: Small enough to be read whole for every answer, and to be swapped some fifty times a second.
TORN_MB = 1.0
TORN_EVERY_S = 0.02

#: Of the larger model an answer reads every so many parameters.
EVERY = 1009


@dataclass
class Swapped:
    """One model under load while releases come, beside the same without."""

    mb: float
    clients: int
    offered_per_s: float
    """Requests a second that the clients send; 0: as many as are answered."""
    swaps: int = 0
    releases: int = 0
    seconds: float = 0.0
    """With swaps."""
    quiet: Figures = field(default_factory=Figures)
    swapping: Figures = field(default_factory=Figures)

    def as_json(self) -> dict[str, Any]:
        quiet, swapping = self.quiet.as_json(), self.swapping.as_json()
        return {
            "mb": self.mb,
            "clients": self.clients,
            "offered_per_s": self.offered_per_s,
            "swaps": self.swaps,
            "releases": self.releases,
            "swaps_per_s": ratio(self.swaps, self.seconds),
            "requests": quiet["answers"] + swapping["answers"],
            "failures": quiet["failures"] + swapping["failures"],
            "torn": quiet["wrong"] + swapping["wrong"],
            "quiet": quiet,
            "swapping": swapping,
            "added_p50_ms": swapping["p50_ms"] - quiet["p50_ms"],
            "added_p99_ms": swapping["p99_ms"] - quiet["p99_ms"],
            "right": self.swaps > 0 and self.swapping.right and not self.quiet.wrong,
        }


def torn(count: int, window_s: float, clients_: int) -> Swapped:
    """So many swaps under as much load as the clients can make; every parameter is looked at."""
    found = Swapped(TORN_MB, clients_, 0.0)
    with filled.running(TORN_MB, every=1) as run, _load(run, clients_) as load:
        while found.swaps < count:
            _swapping(run, load, found, window_s, TORN_EVERY_S)
    return found


def tail(mb: float, per_s: float, seconds: float, clients_: int, offered_per_s: float) -> Swapped:
    """Windows without and with swaps by turns, the same clients at the same pace in both."""
    found = Swapped(mb, clients_, offered_per_s)
    every_s = clients_ / offered_per_s if offered_per_s else 0.0
    with filled.running(mb, EVERY) as run, _load(run, clients_) as load:
        for _ in range(ROUNDS):
            load.window(found.quiet, seconds / ROUNDS, every_s)
            _swapping(run, load, found, seconds / ROUNDS, 1 / per_s, every_s)
    return found


def _load(run: filled.Run, count: int) -> AbstractContextManager[Load]:
    request = requests.post(run.node.host, filled.PATH, filled.BODY)
    return clients(run.node, count, [request], {"version": True})


def _swapping(
    run: filled.Run,
    load: Load,
    found: Swapped,
    seconds: float,
    release_every_s: float,
    every_s: float = 0.0,
) -> None:
    before, begun = run.swaps(), time.monotonic()
    end = begun + SETTLE_S + seconds
    run.pusher.tell("release", start=begun, end=end, every_s=release_every_s)
    load.window(found.swapping, seconds, every_s)
    (done,) = run.pusher.expect("done", STEP_S)
    found.releases += done["made"]
    found.swaps += run.swaps() - before
    found.seconds += end - begun
