"""ps-echo from the side that measures: what all who run it, gradmq and peers, have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradmq.bench import workload
from gradmq.bench.crew import Crew, Said
from gradmq.bench.figures import EchoFigures, Window, percentile, ratio
from gradmq.bench.processes import cpu_s, peak_rss_mb
from gradmq.errors import SettingsError

#: To start, to join, and to report: more than the slowest machine needs for the largest model.
STEP_S = 120.0


def echo_name(index: int) -> str:
    """What a worker of ps-echo is called."""
    return f"echo-{index}"


@dataclass(frozen=True)
class EchoCase:
    """One setting of ps-echo."""

    mb: float
    """Size of the model; 1 MB is 1e6 bytes of float32."""
    workers: int
    transport: str
    """``auto``, ``shm`` or ``tcp``; peers have their own."""
    in_flight: int
    shards: int
    seconds: float
    warmup: float
    durability: str = "memory"
    """``memory`` or ``journal``."""
    keys: bool = False
    """Encrypt everything, and check who pushes; with keys made for the run."""


@dataclass(frozen=True)
class Groups:
    """Whose time and memory count: the server's processes, and everyone's."""

    servers: list[int]
    everyone: list[int]


@dataclass(frozen=True)
class EchoRun:
    """The figures of one run, and the latency of every push in its window."""

    figures: EchoFigures
    latencies_ms: tuple[float, ...]
    metered: tuple[float, ...]
    """By how much what ``meter`` reads grew within the window."""


def conduct(
    crew: Crew,
    case: EchoCase,
    groups: Callable[[list[Said]], Groups],
    start_s: float,
    server_agrees: Callable[[dict[int, int]], bool] = lambda applied: True,
    meter: Callable[[], Sequence[float]] = tuple,
) -> EchoRun:
    """Lead children that run ps-echo from start to end; raises GradmqError if one fails.

    ``groups`` is asked when all have joined, with what they said. ``server_agrees`` looks at the
    parameters once all workers hold everything; so do the children. ``meter`` is read at both edges
    of the window.
    """
    crew.expect("up", STEP_S)
    joining = time.monotonic()
    crew.tell("join")
    joined = crew.expect("joined", STEP_S)
    join_s = time.monotonic() - joining
    who = groups(joined)
    workers, (server_cpu_s, all_cpu_s, *metered) = _work(
        crew, case, lambda: [cpu_s(who.servers), cpu_s(who.everyone), *meter()]
    )
    rss_mb = peak_rss_mb(who.servers) if who.servers else math.nan
    applied = applied_by_worker(case.mb, workers)
    correct = server_agrees(applied)
    crew.tell("check", applied=applied)
    correct &= all(answer["agrees"] for answer in crew.expect("checked", STEP_S))
    crew.tell("leave")
    crew.end(STEP_S)
    grads = sum(worker["within"] for worker in workers)
    gb = grads * 4 * sum(workload.sizes(case.mb)) / 1e9
    latencies = [ms for worker in workers for ms in worker["latencies_ms"]]
    figures = EchoFigures(
        grads_per_s=grads / case.seconds,
        gb_per_s=gb / case.seconds,
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
        server_cpu_s_per_gb=ratio(server_cpu_s, gb) if who.servers else math.nan,
        total_cpu_s_per_gb=ratio(all_cpu_s, gb),
        server_rss_mb=rss_mb,
        correct=correct,
        start_s=start_s,
        join_s=join_s,
    )
    return EchoRun(figures, tuple(latencies), tuple(metered))


def _work(
    crew: Crew, case: EchoCase, read: Callable[[], list[float]]
) -> tuple[list[Said], list[float]]:
    """Let all work from now on; what workers say at the end, and what was used in the window."""
    now = time.monotonic()
    window = Window(now + case.warmup, now + case.warmup + case.seconds)
    crew.tell("go", start=window.start, end=window.end)
    crew.watch_until(window.start)
    before = read()
    crew.watch_until(window.end)
    used = [now - was for now, was in zip(read(), before, strict=True)]
    done = crew.expect("done", STEP_S)
    return [worker for answer in done for worker in answer["workers"]], used


def applied_by_worker(mb: float, workers: Sequence[Said]) -> dict[int, int]:
    """Applied pushes by worker; raises SettingsError if float32 cannot hold their sum exactly."""
    applied = {worker["worker"]: worker["applied"] for worker in workers}
    if not workload.is_exact(mb, list(applied.values())):
        raise SettingsError(
            f"{sum(applied.values())} pushes of up to {workload.magnitude(mb)} units are more than "
            "float32 adds up exactly, so nothing can be checked; use a smaller --seconds"
        )
    return applied


def worker_result(
    index: int, times: Sequence[tuple[float, float]], window: Window
) -> dict[str, Any]:
    """What a worker says at the end: (start, held) of all its pushes, as the parent needs them."""
    inside = [(start, held) for start, held in times if window.share_of(start, held) > 0]
    return {
        "worker": index,
        "applied": len(times),
        "within": sum(window.share_of(start, held) for start, held in inside),
        "latencies_ms": [round(1e3 * (held - start), 4) for start, held in inside],
    }
