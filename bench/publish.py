"""Does one subscriber that reads slowly, or not at all, hold up the others? Fan-out over TCP.

One worker pushes all the time; so many subscribers of one shard read all it publishes. Four
windows, one after the other, of the same processes: alone, beside a subscriber that stopped
reading, beside one that reads seldom, and alone again, because a machine does not keep its pace.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from gradmq.bench import workload
from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S, EchoCase, applied_by_worker
from gradmq.bench.figures import Window, ratio
from gradmq.bench.push import cluster_for, worker_spec
from gradmq.run.cluster import LocalCluster

#: After a subscriber has come or gone, before a window begins.
SETTLE_S = 1.0

#: The slow subscriber reads one publication in this time, the stopped one never a second one.
SLOW_PAUSE_S = 1.0
STOPPED_PAUSE_S = 3600.0


@dataclass(frozen=True)
class PublishResult:
    """Publications per second, by window and in each by subscriber."""

    mb: float
    subscribers: int
    seconds: float
    per_s: tuple[tuple[float, ...], ...]
    kept_beside_stopped: float
    kept_beside_slow: float
    """Of the rates alone, the part that was left to whoever lost most; 1 is all of it."""
    correct: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def kept(rates: Sequence[float], *alone: Sequence[float]) -> float:
    """The smallest of ``rates`` as a part of the same subscriber's mean rate alone."""
    means = [sum(of_one) / len(of_one) for of_one in zip(*alone, strict=True)]
    return min(ratio(rate, mean) for rate, mean in zip(rates, means, strict=True))


def measure(mb: float, subscribers: int, seconds: float) -> PublishResult:
    """Run all four windows; raises GradmqError if anything fails on the way."""
    case = EchoCase(mb, 1, "tcp", 1, 1, seconds, 0.0)
    with cluster_for(case) as cluster, ExitStack() as stack:
        pusher, readers, stopped, slow = (stack.enter_context(Crew()) for _ in range(4))
        spec = worker_spec(case, cluster.address, range(1))
        pusher.start("pusher", "gradmq.bench.echo_worker", spec)
        stream = cluster.status()["shards"][0]["addresses"][1]
        for index in range(subscribers):
            _subscribe(readers, f"subscriber-{index}", stream, 0.0)
        _subscribe(stopped, "stopped", stream, STOPPED_PAUSE_S)
        _subscribe(slow, "slow", stream, SLOW_PAUSE_S)
        for crew in (pusher, readers, stopped, slow):
            crew.expect("up", STEP_S)

        _join(pusher)
        pusher.tell("go", start=time.monotonic(), end=time.monotonic() + STEP_S + 8 * seconds)
        _join(readers)
        windows = [_window(readers, seconds)]
        _join(stopped)
        windows.append(_window(readers, seconds))
        stopped.end(0.0)
        _join(slow)
        windows.append(_window(readers, seconds))
        slow.end(0.0)
        windows.append(_window(readers, seconds))

        readers.tell("count", windows=[(window.start, window.end) for window in windows])
        per_s = [answer["per_s"] for answer in readers.expect("done", STEP_S)]
        readers.tell("leave")
        correct = _agrees(pusher, cluster, mb)
    by_phase = tuple(zip(*per_s, strict=True))
    alone, beside_stopped, beside_slow, again = by_phase
    return PublishResult(
        mb=mb,
        subscribers=subscribers,
        seconds=seconds,
        per_s=by_phase,
        kept_beside_stopped=kept(beside_stopped, alone, again),
        kept_beside_slow=kept(beside_slow, alone, again),
        correct=correct,
    )


def _subscribe(crew: Crew, name: str, address: str, pause_s: float) -> None:
    crew.start(name, "gradmq.bench.subscriber", {"address": address, "pause_s": pause_s})


def _join(crew: Crew) -> None:
    crew.tell("join")
    crew.expect("joined", STEP_S)


def _window(readers: Crew, seconds: float) -> Window:
    """Let the pace settle, then time pass; returns when that was."""
    start = time.monotonic() + SETTLE_S
    readers.watch_until(start + seconds)
    return Window(start, start + seconds)


def _agrees(pusher: Crew, cluster: LocalCluster, mb: float) -> bool:
    """Stop pushing; true if server and worker hold what was pushed."""
    pusher.tell("stop")
    applied = applied_by_worker(mb, pusher.expect("done", STEP_S)[0]["workers"])
    right = workload.agrees(mb, applied, cluster.parameters(STEP_S))
    pusher.tell("check", applied=applied)
    held = bool(pusher.expect("checked", STEP_S)[0]["agrees"])
    pusher.tell("leave")
    return right and held
