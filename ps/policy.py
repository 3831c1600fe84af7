"""Staleness rules: what a shard does with a push that was computed on older parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gradmq.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Admission:
    """What a rule says of one push: apply it with this weight, or reject it."""

    apply: bool
    weight: float = 1.0


class Policy(Protocol):
    """A staleness rule."""

    def admit(self, staleness: int) -> Admission:
        """Decide at the instant of apply; ``staleness`` counts updates, never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Bounded:
    """Rejects what is staler than ``bound`` updates."""

    bound: int

    def __post_init__(self) -> None:
        if type(self.bound) is not int or self.bound < 0:
            raise SettingsError(f"staleness bound is {self.bound!r}; use a whole number from 0 on")

    def admit(self, staleness: int) -> Admission:
        return Admission(staleness <= self.bound)

    def settings(self) -> dict[str, Any]:
        return {"rule": "bounded", "bound": self.bound}


@dataclass(frozen=True, slots=True)
class Unbounded:
    """Applies everything, however stale."""

    def admit(self, staleness: int) -> Admission:
        return Admission(True)

    def settings(self) -> dict[str, Any]:
        return {"rule": "unbounded"}


def policy_from(settings: Mapping[str, Any]) -> Policy:
    """The rule that ``settings`` (from the broker) names."""
    match settings.get("rule", "bounded"):
        case "bounded":
            return Bounded(int(settings.get("bound", 8)))
        case "unbounded":
            return Unbounded()
        case other:
            raise SettingsError(f"staleness rule {other!r} is unknown; use bounded or unbounded")
