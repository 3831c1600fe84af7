"""What an inference node knows of the run it follows, for people who look at its page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from gradmq.infer.history import History
from gradmq.view import words
from gradmq.view.figures import Figures, NodeFigures, ShardFigures, Wait, WorkerFigures

log = logging.getLogger(__name__)

#: Points kept whole, one a second: ten minutes. As many stand for all the time before them.
RECENT_POINTS = 600

#: An evaluation takes seconds, so this is an hour or more.
RECENT_EVALUATIONS = 300

#: Evaluations in every report, beside those in the history: who misses some reports misses none.
LAST_EVALUATIONS = 4


class Point(NamedTuple):
    """The run at one release, or the last that was heard of it there."""

    release: int
    at_s: float
    """Since the first status."""
    updates: int
    loss: float | None
    """The mean of what all workers reported within some seconds."""


class RunWatch:
    """Figures of the run now, and their history; any thread may call any method.

    Times are seconds on the clock that ``heard`` is told.
    """

    def __init__(self, higher_is_better: bool | None = None) -> None:
        """``higher_is_better`` is the job's word on its headline metric."""
        self._lock = threading.Lock()
        self._figures = Figures(higher_is_better)
        self._heard_at: float | None = None
        self._points: History[Point] = History(RECENT_POINTS)
        self._release = -1
        """Of the newest point."""
        self._evaluations: History[Mapping[str, Any]] = History(RECENT_EVALUATIONS)
        self._evaluated: set[int] = set()
        self._unread = ""

    def heard(self, status: Mapping[str, Any], now: float) -> None:
        """Take in what the broker answered; one that cannot be read is named once and ignored."""
        with self._lock:
            try:
                self._figures.update(status, now)
                self._remember(status["evaluations"])
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                if repr(error) != self._unread:
                    self._unread = repr(error)
                    log.warning("the broker's status cannot be read: %s", self._unread)
                return
            self._heard_at = now

    def _remember(self, evaluations: list[Mapping[str, Any]]) -> None:
        figures = self._figures
        # One point for each release: its number is where a curve stands on the page.
        if figures.release != self._release:
            self._release = figures.release
            self._points.add(
                Point(figures.release, round(figures.elapsed_s, 1), figures.updates, figures.loss)
            )
        for evaluation in evaluations:
            if evaluation["release"] not in self._evaluated:
                self._evaluations.add(evaluation)
        # The status repeats the last 256; what it does not repeat will not come again.
        self._evaluated = {evaluation["release"] for evaluation in evaluations}

    def history(self) -> dict[str, Any]:
        """``points`` (fields of ``Point``) and ``evaluations`` from the beginning."""
        with self._lock:
            return {
                "points": [list(point) for point in self._points.points()],
                "evaluations": self._evaluations.points(),
            }

    def report(self, now: float) -> dict[str, Any]:
        """The run as last heard; ``silent_s`` says how long ago, null: nothing was heard yet."""
        with self._lock:
            figures = self._figures
            points = self._points.points()
            return {
                "silent_s": None if self._heard_at is None else round(now - self._heard_at, 1),
                "name": figures.run,
                "phase": figures.phase,
                "waiting_for": figures.waiting_for,
                "elapsed_s": figures.elapsed_s,
                "release": figures.release,
                "updates": figures.updates,
                "updates_per_s": figures.updates_per_s,
                "samples": figures.samples,
                "loss": figures.loss,
                "metric": _metric(figures),
                "rejected": dict(figures.rejected),
                "staleness": [[stale, count] for stale, count in figures.staleness.items()],
                "shards": [_shard(shard, now) for shard in figures.shards],
                "workers": [_worker(worker, now) for worker in figures.workers],
                "nodes": [_node(node, now) for node in (*figures.infer, *figures.followers)],
                "point": list(points[-1]) if points else None,
                "evaluations": self._evaluations.points()[-LAST_EVALUATIONS:],
            }


def _metric(figures: Figures) -> dict[str, Any] | None:
    metric = figures.metric
    if metric is None:
        return None
    return {
        "name": metric.name,
        "first": metric.first.value,
        "last": metric.last.value,
        "release": metric.last.release,
        "best": metric.best and metric.best.value,
        "best_release": metric.best and metric.best.release,
    }


def _shard(shard: ShardFigures, now: float) -> dict[str, Any]:
    return {
        "index": shard.index,
        "incarnation": shard.incarnation,
        "version": shard.version,
        "updates_per_s": shard.updates_per_s,
        "pushed_mb_per_s": shard.pushed_mb_per_s,
        "lost_updates": shard.lost_updates,
        **_wait(shard.wait, now),
    }


def _worker(worker: WorkerFigures, now: float) -> dict[str, Any]:
    return {
        "name": worker.name,
        "live": worker.live,
        "lost": worker.lost,
        "samples_per_s": worker.samples_per_s,
        "share": worker.share,
        "staleness_median": worker.staleness_median,
        "staleness_max": worker.staleness_max,
        "applied": worker.applied,
        "rejected": dict(worker.rejected),
        "skipped_nonfinite": worker.skipped_nonfinite,
        "loss": worker.loss,
        **_wait(worker.wait, now),
    }


def _node(node: NodeFigures, now: float) -> dict[str, Any]:
    return {
        "name": node.name,
        "release": node.release,
        "age_s": node.age_s,
        "url": node.url,
        "live": node.live,
        **_wait(node.wait, now),
    }


def _wait(wait: Wait | None, now: float) -> dict[str, str]:
    """Its kind, and all of it in words; both empty for who does not wait."""
    if wait is None:
        return {"wait": "", "wait_text": ""}
    return {"wait": wait.kind, "wait_text": words.waiting(wait, now)}
