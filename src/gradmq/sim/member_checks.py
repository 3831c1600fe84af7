"""Every membership: nobody is refused, fenced or replaced without a reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from gradmq.sim.violation import Violation
from gradmq.wire.messages import Directory, Refused

if TYPE_CHECKING:
    from gradmq.sim.process import Process
    from gradmq.sim.shard import SimShard
    from gradmq.sim.worker import SimWorker


class MemberChecks:
    """Who had which name, and who lost it or a session."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._claimed: dict[str, set[SimWorker]] = defaultdict(set)
        """By name, who was started under it."""

    def started(self, worker: SimWorker) -> None:
        """A worker starts; under a name of its own, or to be given one."""
        if worker.worker_name:
            self._claimed[worker.worker_name].add(worker)

    def told(self, seen: dict[int, int], directory: Directory) -> None:
        """A life of the broker tells of its shards: never of an older one than before."""
        for entry in directory.shards:
            if entry.incarnation < seen.get(entry.index, 0):
                text = f"the directory names incarnation {entry.incarnation} of shard {entry.index}"
                raise Violation("superseded", f"{text} after {seen[entry.index]}")
            seen[entry.index] = entry.incarnation

    def superseded(self, shard: SimShard, refused: Refused) -> None:
        """A shard must go: only because a later life of it is there."""
        if not shard.is_superseded:
            self.refused(shard, refused)
        self._counts["superseded shards refused"] += 1

    def refused(self, process: Process, refused: Refused) -> None:
        """Nothing in a schedule deserves a refusal of the broker: the process would end."""
        raise Violation("refused", f"{process} was refused by the broker: {refused.text}")

    def fenced(self, worker: SimWorker) -> None:
        """A worker got a new session in place of one that it had."""
        self._counts["sessions fenced"] += 1
        was_silent = worker.session_began_at < worker.outslept_at
        if not was_silent and not self._claimed[worker.worker_name] - {worker}:
            raise Violation("sessions", f"{worker} lost its session and was never silent so long")

    def succeeded(self, worker: SimWorker) -> None:
        """A worker ends because of its name: only for a newer session that was started under it."""
        self._counts["ended by a successor"] += 1
        mine = worker.session.session if worker.session else 0
        for other in self._claimed[worker.worker_name] - {worker}:
            if other.session is None or other.session.session > mine:
                return
        raise Violation("sessions", f"{worker}, the newest of its name, had to give way")
