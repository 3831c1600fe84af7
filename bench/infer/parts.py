"""The questions of ``gradmq bench infer``, with their cases.

What measures them imports torch, so each is imported only when it is its turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from gradmq.bench.suite import Measured, Part

#: The model that is swapped at a pace, and the releases a second.
SWAPPED_MB, SWAPS_PER_S = 16.0, 10.0

#: What leaves both cores room meanwhile, so that slow answers are those that waited for a swap:
#: clients, and the requests a second of all of them together.
SWAP_CLIENTS, OFFERED_PER_S = 8, 400.0

FRESH_MB = 16.0

#: How often the broker makes releases where none is asked for.
RELEASE_EVERY_S = 0.05


@dataclass(frozen=True)
class Chosen:
    """What was chosen on the command line."""

    seconds: float
    clients: int = 32
    swaps: int = 1000
    pushes: int = 50
    python: str = sys.executable
    """Has FastAPI and Ray Serve."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the run whose workers are busy."""


def parts(chosen: Chosen) -> dict[str, Part]:
    """Every question by its name."""
    with_clients = f"{chosen.clients} clients"
    cases: dict[str, dict[str, Callable[[Chosen], Measured]]] = {
        "swaps": {
            f"{chosen.swaps} swaps": _torn,
            f"{SWAPPED_MB:g} MB, {SWAPS_PER_S:g} swaps/s": _tail,
        },
        "servers": {with_clients: _servers},
        "beside": {with_clients: _beside},
        "batches": {with_clients: _batches},
        "freshness": {
            f"{FRESH_MB:g} MB, {transport}, {how}": partial(
                _fresh, transport=transport, every_s=every_s
            )
            for transport in ("shm", "tcp")
            for how, every_s in (("asked for", None), ("made by the broker", RELEASE_EVERY_S))
        },
        "completions": {"1 client": _completions},
    }
    return {
        name: Part(name, {label: partial(case, chosen) for label, case in of_one.items()})
        for name, of_one in cases.items()
    }


def _torn(chosen: Chosen) -> Measured:
    from gradmq.bench.infer import swaps

    return swaps.torn(chosen.swaps, chosen.seconds, SWAP_CLIENTS)


def _tail(chosen: Chosen) -> Measured:
    from gradmq.bench.infer import swaps

    return swaps.tail(SWAPPED_MB, SWAPS_PER_S, chosen.seconds, SWAP_CLIENTS, OFFERED_PER_S)


def _servers(chosen: Chosen) -> Measured:
    from gradmq.bench.infer import servers

    return servers.measure(chosen.seconds, chosen.clients, chosen.python)


def _beside(chosen: Chosen) -> Measured:
    from gradmq.bench.infer import beside

    return beside.measure(chosen.seconds, chosen.clients, chosen.settings)


def _batches(chosen: Chosen) -> Measured:
    from gradmq.bench.infer import batches

    return batches.measure(chosen.seconds, chosen.clients)


def _completions(chosen: Chosen) -> Measured:
    from gradmq.bench.infer import completions

    return completions.measure(chosen.seconds)


def _fresh(chosen: Chosen, transport: str, every_s: float | None) -> Measured:
    from gradmq.bench.infer import freshness

    return freshness.one(FRESH_MB, transport, every_s, chosen.pushes)
