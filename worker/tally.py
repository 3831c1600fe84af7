"""What a worker counts, over all its sessions; pure."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from gradmq.exposition import Histogram
from gradmq.wire.messages import MAX_WINDOW, Version
from gradmq.worker.session import Answered

#: Seconds; from a small model on one host to a slow link.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: When a push was made, and the version of each shard that holds it; None: it was not applied.
_Landing = tuple[float, Sequence[Version | None]]


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Counts of a ``Worker`` at one instant, over all its sessions."""

    session: int
    """The present one; 0 before there is one."""
    pushes: int
    samples: int
    """As the program said, of its pushes."""
    skipped_nonfinite: int
    in_flight: int
    """Pushes in the window now, and how many it takes."""
    max_in_flight: int
    verdicts: Mapping[tuple[str, str], int]
    """By outcome and reason, one per push and shard."""
    waited_s: Mapping[str, float]
    """By what for: join, push (room in the window), step, verdict, pull, fetch."""
    installed_after: Histogram
    """Seconds from each push that was applied to parameters in the model that hold it."""
    torn_reads: int
    loss: float | None
    quarantined: bool


class Tally:
    """Kept by the program's thread with the lock of the network's thread held."""

    def __init__(self, now: float) -> None:
        self.pushes = 0
        self.samples = 0
        self.skipped_nonfinite = 0
        self.loss: float | None = None
        """The last one that the program gave, which it does not with every step."""
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.waited_s: defaultdict[str, float] = defaultdict(float)
        self._installed_after = Histogram(_SECONDS)
        self._under_way: dict[tuple[int, int], float] = {}
        self._landing: deque[_Landing] = deque(maxlen=MAX_WINDOW)
        """Not installed yet; of a program that installs nothing, the last few."""
        self._rate: deque[tuple[float, int]] = deque([(now, 0)], maxlen=8)
        """When it was asked for, and the samples until then."""

    @property
    def installed_after(self) -> Histogram:
        """A copy of it."""
        return deepcopy(self._installed_after)

    @property
    def has_landing(self) -> bool:
        """True if ``installed`` has something to look at."""
        return bool(self._landing)

    def samples_per_s(self, now: float) -> float:
        """Since one of the last times that this was asked."""
        self._rate.append((now, self.samples))
        since, samples = self._rate[0]
        return (self.samples - samples) / max(now - since, 1e-3)

    def pushed(self, session: int, seq: int, samples: int, now: float) -> None:
        self.pushes += 1
        self.samples += samples
        self._under_way[session, seq] = now

    def answered(self, answer: Answered) -> None:
        """All shards have answered a push."""
        for verdict in answer.verdicts:
            self.verdicts[verdict.outcome, verdict.reason] += 1
        pushed_at = self._under_way.pop((answer.session, answer.seq), None)
        holds = [v.version if v.outcome == "applied" else None for v in answer.verdicts]
        if pushed_at is not None and any(holds):
            self._landing.append((pushed_at, holds))

    def installed(self, versions: Sequence[Version], now: float) -> None:
        """The model has these versions of the shards."""
        for _ in range(len(self._landing)):
            pushed_at, holds = self._landing.popleft()
            if all(h is None or h <= v for h, v in zip(holds, versions, strict=True)):
                self._installed_after.observe(now - pushed_at)
            else:
                self._landing.append((pushed_at, holds))
