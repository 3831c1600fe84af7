"""What a shard counts, per worker name: the figures behind ``status``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gradmq.wire.messages import Push, Verdict


@dataclass(slots=True)
class WorkerTally:
    """Verdicts of one worker on one shard."""

    applied: int = 0
    samples: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)


class Tally:
    """Counts of one shard; kept by name, so a worker that comes back goes on counting."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerTally] = {}
        self.pushed_bytes = 0
        self.lost_updates = 0

    def count(self, name: str, push: Push, verdict: Verdict, nbytes: int) -> None:
        worker = self.workers.setdefault(name, WorkerTally())
        self.pushed_bytes += nbytes
        if verdict.outcome == "applied":
            worker.applied += 1
            worker.samples += push.samples
            worker.staleness[verdict.staleness] += 1
        else:
            worker.rejected[verdict.reason] += 1

    @property
    def applied(self) -> int:
        return sum(worker.applied for worker in self.workers.values())

    def report(self) -> dict[str, Any]:
        """For the broker; lists of pairs where a map would need string keys."""
        return {
            "pushed_bytes": self.pushed_bytes,
            "lost_updates": self.lost_updates,
            "workers": {
                name: {
                    "applied": worker.applied,
                    "samples": worker.samples,
                    "rejected": dict(worker.rejected),
                    "staleness": sorted(worker.staleness.items()),
                }
                for name, worker in self.workers.items()
            },
        }
