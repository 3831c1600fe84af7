"""A run in numbers: successive statuses become rates, readings and waits; pure.

Members report to the broker every half second and the broker is asked more often, so every value is
dated by when its member was last heard, not by when it was read: rates do not jump with the asking.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradmq.view.rates import Rates

#: A member reports every 0.5 s; one that misses four reports is called silent.
SILENT_AFTER_S = 2.0

#: Every push waits a moment for its verdict; only a wait that lasts is worth reading.
WAIT_SHOWN_AFTER_S = 2.0

#: The training loss is the mean of what all workers reported in this time: one batch says little.
LOSS_WINDOW_S = 5.0

#: Two statuses show the same report of a member if it was heard at the same time, give or take
#: how long a status travels.
SAME_REPORT_S = 0.1


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a member makes no progress; ``since`` is on the clock given to ``Figures.update``."""

    kind: Literal["absent", "away", "silent", "quarantined", "waits"]
    what: str
    """What it waits for, or why it is in quarantine; empty for a member that is itself away."""
    since: float


@dataclass(frozen=True, slots=True)
class ShardFigures:
    """One shard; rates are None until two reports of this incarnation are there."""

    index: int
    version: int
    incarnation: int
    updates_per_s: float | None
    pushed_mb_per_s: float | None
    """Gradients that arrived, in 10^6 bytes a second."""
    lost_updates: int
    wait: Wait | None


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker, live or departed; applied and rejected count verdicts, one per push and shard."""

    name: str
    live: bool
    lost: bool
    """Gone without a goodbye."""
    samples_per_s: float
    share: float
    staleness_median: int
    staleness_max: int
    applied: int
    rejected: Mapping[str, int]
    skipped_nonfinite: int
    loss: float | None
    wait: Wait | None


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """One node that follows releases: an inference node, or a follower in any program."""

    name: str
    release: int
    """The newest complete one it has."""
    answering: int
    """What it answers with: that one, or an older one; 0 if that is more than one."""
    steering: str
    """Why, if that is not just the newest."""
    age_s: float | None
    url: str
    live: bool
    wait: Wait | None

    @property
    def served(self) -> int:
        """What it answers with, as far as that is one release; else the newest."""
        return self.answering or self.release


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of a metric, and the release it was measured on."""

    release: int
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """The headline metric: the first of the evaluations."""

    name: str
    first: Reading
    last: Reading
    best: Reading | None
    """None where nobody said which way is better."""

    def after(self, reading: Reading, higher_is_better: bool | None) -> Metric:
        """This metric with one more reading; one that is not a number is never the best."""
        best = self.best
        if best is not None:
            gain = reading.value - best.value if higher_is_better else best.value - reading.value
            if math.isnan(best.value) or gain > 0:
                best = reading
        return Metric(self.name, self.first, reading, best)


class Figures:
    """What is known of a run so far. Not thread-safe; every other value in it is immutable.

    ``higher_is_better`` is the job's word on its headline metric; None if the job is not at hand.
    """

    def __init__(self, higher_is_better: bool | None = None) -> None:
        self.run = ""
        self.phase = ""
        self.waiting_for = ""
        """What the run waits for before it opens; "" once it is open."""
        self.elapsed_s = 0.0
        """Since the first status."""
        self.now = 0.0
        self.release = 0
        self.updates = 0
        """The largest version: a shard whose tensors get no gradients stays behind."""
        self.updates_per_s: float | None = None
        self.samples = 0
        """Applied ones, over all workers."""
        self.rejected: Mapping[str, int] = {}
        self.staleness: Mapping[int, int] = {}
        """Applied pushes by staleness, over all workers and shards."""
        self.loss: float | None = None
        self.metric: Metric | None = None
        self.shards: tuple[ShardFigures, ...] = ()
        self.workers: tuple[WorkerFigures, ...] = ()
        self.infer: tuple[NodeFigures, ...] = ()
        self.followers: tuple[NodeFigures, ...] = ()
        self._higher_is_better = higher_is_better
        self._started: float | None = None
        self._rates: dict[int, Rates] = {}
        self._heard: dict[str, float] = {}
        self._losses: deque[tuple[float, float]] = deque()
        self._evaluated: frozenset[int] = frozenset()

    def update(self, status: Mapping[str, Any], now: float) -> None:
        """Take in what ``status()`` answered at ``now``, in seconds of a monotonic clock."""
        self._started = now if self._started is None else self._started
        self.now, self.elapsed_s = now, now - self._started
        self.run, self.phase = status["run"], status["phase"]
        self.waiting_for = status["waiting_for"]
        self.release = status["release"]["number"]
        self.shards = tuple(self._shard(row, now) for row in status["shards"])
        self.workers = tuple(self._worker(row, now) for row in status["workers"])
        self.infer = tuple(self._node(row, now) for row in status["infer"])
        self.followers = tuple(self._node(row, now) for row in status["followers"])
        self._total(status["workers"], now)
        self._evaluate(status["evaluations"])

    # -- members ----------------------------------------------------------------------------------

    def _shard(self, row: Mapping[str, Any], now: float) -> ShardFigures:
        index, key = row["index"], f"shard {row['index']}"
        wait = self._wait(row, now)
        if not row["live"]:
            kind: Literal["absent", "away"] = "away" if row["incarnation"] else "absent"
            wait = Wait(kind, "", now - row["waiting_s"])
        rates = self._rates.setdefault(index, Rates())
        if row["live"] and self._is_new_report(key, row, now):
            rates.add(self._heard[key], row["incarnation"], row["version"], row["pushed_bytes"])
        silent = wait is not None and wait.kind != "waits"
        updates_per_s, bytes_per_s = (None, None) if silent else rates.per_s()
        return ShardFigures(
            index=index,
            version=row["version"],
            incarnation=row["incarnation"],
            updates_per_s=updates_per_s,
            pushed_mb_per_s=None if bytes_per_s is None else bytes_per_s / 1e6,
            lost_updates=row["lost_updates"],
            wait=wait,
        )

    def _worker(self, row: Mapping[str, Any], now: float) -> WorkerFigures:
        key = f"worker {row['name']}"
        if row["live"] and self._is_new_report(key, row, now) and row["loss"] is not None:
            self._losses.append((now, row["loss"]))
        return WorkerFigures(
            name=row["name"],
            live=row["live"],
            lost=row["lost"],
            samples_per_s=row["samples_per_s"],
            share=row["share"],
            staleness_median=row["staleness"]["median"],
            staleness_max=row["staleness"]["max"],
            applied=row["applied"],
            rejected=row["rejected"],
            skipped_nonfinite=row["skipped_nonfinite"],
            loss=row["loss"],
            wait=self._wait(row, now) if row["live"] or row["lost"] else None,
        )

    def _node(self, row: Mapping[str, Any], now: float) -> NodeFigures:
        age_s = row["age_s"]
        return NodeFigures(
            name=row["name"],
            release=row["release"],
            answering=row.get("answering", 0),
            steering=row.get("steering", ""),
            age_s=None if age_s is None else age_s + row["silent_s"],
            url=row["url"],
            live=row["live"],
            wait=self._wait(row, now),
        )

    def _is_new_report(self, key: str, row: Mapping[str, Any], now: float) -> bool:
        heard = now - row["silent_s"]
        if key in self._heard and heard - self._heard[key] < SAME_REPORT_S:
            return False
        self._heard[key] = heard
        return True

    @staticmethod
    def _wait(row: Mapping[str, Any], now: float) -> Wait | None:
        """Nothing heard, or a wait that lasts."""
        if not row["live"]:
            return Wait("away", "", now - row["silent_s"])
        if row["silent_s"] > SILENT_AFTER_S:
            return Wait("silent", "", now - row["silent_s"])
        if row.get("quarantine"):
            return Wait("quarantined", row["quarantine"], now - row["quarantined_s"])
        if row["waiting_for"] and row["waiting_s"] >= WAIT_SHOWN_AFTER_S:
            return Wait("waits", row["waiting_for"], now - row["waiting_s"])
        return None

    # -- the run ----------------------------------------------------------------------------------

    def _total(self, rows: Iterable[Mapping[str, Any]], now: float) -> None:
        rejected: Counter[str] = Counter()
        staleness: Counter[int] = Counter()
        self.samples = 0
        for row in rows:
            self.samples += row["samples"]
            rejected.update(row["rejected"])
            staleness.update({int(s): int(n) for s, n in row["staleness"]["histogram"]})
        self.rejected, self.staleness = dict(rejected), dict(sorted(staleness.items()))
        if self.shards:
            leader = max(self.shards, key=lambda shard: shard.version)
            self.updates, self.updates_per_s = leader.version, leader.updates_per_s
        while self._losses and now - self._losses[0][0] > LOSS_WINDOW_S:
            self._losses.popleft()
        if self._losses:  # else the last one stays
            self.loss = sum(loss for _, loss in self._losses) / len(self._losses)

    def _evaluate(self, evaluations: Sequence[Mapping[str, Any]]) -> None:
        fresh = [e for e in evaluations if e["release"] not in self._evaluated]
        self._evaluated = frozenset(e["release"] for e in evaluations)
        for evaluation in fresh:
            names = [name for name in evaluation if name != "release"]
            if self.metric is None and names:
                reading = Reading(evaluation["release"], evaluation[names[0]])
                best = None if self._higher_is_better is None else reading
                self.metric = Metric(names[0], first=reading, last=reading, best=best)
            elif self.metric is not None and self.metric.name in names:
                reading = Reading(evaluation["release"], evaluation[self.metric.name])
                self.metric = self.metric.after(reading, self._higher_is_better)
