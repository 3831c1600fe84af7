"""What does a run cost that does nothing? And how long until broker and shard are there?"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradmq.bench import workload
from gradmq.bench.crew import Crew
from gradmq.bench.echo import STEP_S, EchoCase
from gradmq.bench.processes import cpu_s
from gradmq.bench.push import cluster_for, worker_spec
from gradmq.config import resolve
from gradmq.errors import ShardAway
from gradmq.models import bound
from gradmq.observer import Observer
from gradmq.run.local import start_broker, start_shard
from gradmq.run.release_zero import write_release_0
from gradmq.run.roles import end_all

MB = 1.0
SHARDS = 2
WORKERS = 4

#: After everyone has joined: releases are made and taken, and then there is nothing to do.
SETTLE_S = 3.0

#: A shard that is not there by then will not come.
START_S = 30.0


@dataclass(frozen=True)
class IdleResult:
    """Parts of one core that each role's processes used while nothing happened."""

    seconds: float
    broker: float
    shards: float
    workers: float
    follower: float
    broker_start_s: float
    """From its start until it listens."""
    shard_start_s: float
    """From its start until pushes are possible, its parameters read from disk."""

    @property
    def total(self) -> float:
        return self.broker + self.shards + self.workers + self.follower

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def measure(seconds: float, transport: str) -> IdleResult:
    """A broker, two shards, four workers and a follower that wait, each its own process."""
    broker_start_s, shard_start_s = _start_times()
    case = EchoCase(MB, WORKERS, transport, 1, SHARDS, seconds, 0.0)
    with cluster_for(case) as cluster, ExitStack() as stack:
        workers, follower = stack.enter_context(Crew()), stack.enter_context(Crew())
        for index in range(WORKERS):
            spec = worker_spec(case, cluster.address, range(index, index + 1))
            workers.start(f"worker-{index}", "gradmq.bench.echo_worker", spec)
        follower.start(
            "follower", "gradmq.bench.idle_follower", {"address": cluster.address, "mb": MB}
        )
        for word, reply in (("", "up"), ("join", "joined")):
            for crew in (workers, follower):
                if word:
                    crew.tell(word)
                crew.expect(reply, STEP_S)
        groups = [cluster.pids("broker"), cluster.pids("ps"), workers.pids, follower.pids]
        workers.watch_until(time.monotonic() + SETTLE_S)
        started = time.monotonic()
        before = [cpu_s(pids) for pids in groups]
        workers.watch_until(started + seconds)
        elapsed = time.monotonic() - started
        shares = [(cpu_s(pids) - was) / elapsed for pids, was in zip(groups, before, strict=True)]
        workers.end(0.0)
        follower.end(0.0)
    broker, shards, worker, followers = shares
    return IdleResult(seconds, broker, shards, worker, followers, broker_start_s, shard_start_s)


def _start_times() -> tuple[float, float]:
    """Seconds until a broker listens; then until a shard takes pushes, restored from disk."""
    with tempfile.TemporaryDirectory(prefix="gradmq-") as name, ExitStack() as stack:
        folder = Path(name)
        settings = folder / "settings.toml"
        settings.write_text(resolve({}, None, {}, {"optimizer.lr": workload.LR}).to_toml())
        binding = bound(workload.model(MB))
        write_release_0(folder / "checkpoints", "local", binding, shards=1)
        begun = time.monotonic()
        broker, address = start_broker(folder, settings, "local", None)
        stack.callback(end_all, [broker])
        broker_s = time.monotonic() - begun
        begun = time.monotonic()
        shard = start_shard(folder, settings, address, 0)
        stack.callback(end_all, [shard])
        with Observer(address) as observer:
            while observer.status()["phase"] == "waiting":
                failure = shard.failure()
                if failure is not None:
                    raise failure
                if time.monotonic() - begun > START_S:
                    raise ShardAway(f"the shard was not there after {START_S:g} s")
                time.sleep(0.005)
        return broker_s, time.monotonic() - begun
