"""When a run ends: whichever of its conditions holds first; pure."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradmq.config import RunSettings
from gradmq.errors import SettingsError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Until:
    """A condition on a metric: ``accuracy>=0.9``."""

    text: str
    metric: str
    compare: Callable[[float, float], bool]
    value: float

    @classmethod
    def parse(cls, text: str) -> Until:
        """Read a condition; raises SettingsError."""
        match = re.fullmatch(r"\s*([\w.]+)\s*(>=|<=|>|<)\s*([-+\d.eE]+)\s*", text)
        if match is None:
            raise SettingsError(f'run.until is {text!r}; write it like "accuracy>=0.9"')
        try:
            value = float(match[3])
        except ValueError:
            raise SettingsError(f"run.until is {text!r}; {match[3]!r} is not a number") from None
        return cls(text, match[1], _COMPARISONS[match[2]], value)

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Raises SettingsError if the job does not evaluate this metric."""
        if self.metric not in metrics:
            known = ", ".join(metrics)
            raise SettingsError(f"run.until asks for {self.metric!r}; the job evaluates {known}")
        return self.compare(metrics[self.metric], self.value)


class Ending:
    """Watches a run's status and says when, and why, it is over."""

    def __init__(
        self,
        settings: RunSettings,
        higher_is_better: bool,
        stop: Callable[[Mapping[str, float]], bool] | None,
    ) -> None:
        self._settings = settings
        self._until = Until.parse(settings.until) if settings.until else None
        self._higher_is_better = higher_is_better
        self._stop = stop
        self._first_version: int | None = None
        self._evaluated = -1
        self._best: float | None = None
        self._since_best = 0
        self._reason = ""
        self.first_update_at: float | None = None
        self.updates = 0
        self.updates_before = 0
        """The version the run began with; above 0 after --resume."""
        self.samples = 0

    def update(self, status: Mapping[str, Any], now: float) -> str:
        """Look at a status; returns why the run is over, or "" if it goes on."""
        version = int(status["shards"][0]["version"])
        if self._first_version is None and status["phase"] != "waiting":
            self._first_version = self.updates_before = version
        if self._first_version is not None:
            self.updates = max(self.updates, version - self._first_version)
        if self.updates and self.first_update_at is None:
            self.first_update_at = now
        self.samples = max(self.samples, sum(w["samples"] for w in status["workers"]))
        reason = self._counted(now) or self._evaluations(status["evaluations"])
        self._reason = self._reason or reason
        return self._reason

    def trained_s(self, now: float) -> float:
        return 0.0 if self.first_update_at is None else now - self.first_update_at

    def progress(self, now: float) -> tuple[float, float, str] | None:
        """(done, total, unit) of the counted condition that is nearest; None if there is none."""
        settings = self._settings
        candidates = [
            (self.trained_s(now), settings.for_, "s"),
            (float(self.updates), settings.updates, "updates"),
            (float(self.samples), settings.samples, "samples"),
        ]
        counted = [(done, float(total), unit) for done, total, unit in candidates if total]
        return max(counted, key=lambda c: c[0] / c[1], default=None)

    def _counted(self, now: float) -> str:
        settings = self._settings
        if settings.for_ is not None and self.trained_s(now) >= settings.for_:
            return f"{settings.for_:g} s of training"
        if settings.updates is not None and self.updates >= settings.updates:
            return f"{settings.updates} updates"
        if settings.samples is not None and self.samples >= settings.samples:
            return f"{settings.samples} samples"
        return ""

    def _evaluations(self, evaluations: Sequence[Mapping[str, Any]]) -> str:
        for evaluation in evaluations:
            if evaluation["release"] <= self._evaluated:
                continue  # seen in an earlier status
            self._evaluated = int(evaluation["release"])
            metrics = {k: float(v) for k, v in evaluation.items() if k != "release"}
            reason = self._evaluation(metrics)
            if reason:
                return reason
        return ""

    def _evaluation(self, metrics: Mapping[str, float]) -> str:
        value = next(iter(metrics.values()))
        better = is_better(value, self._best, self._higher_is_better)
        self._since_best = 0 if better else self._since_best + 1
        self._best = value if better else self._best
        if self._until is not None and self._until.holds(metrics):
            return f"{self._until.text} reached"
        if self._stop is not None and self._stop(metrics):
            return "the job's own condition"
        patience = self._settings.patience
        if patience is not None and self._since_best >= patience:
            return f"no improvement in {patience} evaluations"
        return ""


def is_better(value: float, best: float | None, higher_is_better: bool) -> bool:
    """Whether a metric's value beats the best so far; a value that is no number beats nothing."""
    if math.isnan(value):
        return False
    return best is None or (value > best if higher_is_better else value < best)
