"""How it is decided from outside which release answers: a pin, or a split by labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradmq.errors import GradmqError

if TYPE_CHECKING:
    from gradmq.infer.serving import Holding

#: What a release may be marked with; one that is, is kept.
LABELS = ("stable", "canary")

#: In a split, the share of whichever release is the newest.
NEWEST = "newest"


class NotHeld(GradmqError):
    """Steering named a release or a label that this node does not have."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One release answers whatever comes."""

    holding: Holding
    reason: str

    def __str__(self) -> str:
        return f"this node stays at release {self.holding.release.number} ({self.reason})"

    def brief(self) -> str:
        """For a table that has the release already."""
        return self.reason


@dataclass(frozen=True, slots=True)
class Split:
    """Each label's release answers its share of the requests."""

    weights: Mapping[str, float]
    """By label, above 0; their sum is the whole."""

    def __str__(self) -> str:
        return f"this node splits requests: {self._shares()}"

    def brief(self) -> str:
        """For a table."""
        return f"split: {self._shares()}"

    def label(self, point: float) -> str:
        """Whose share the point, in [0, 1), lies in."""
        reached = 0.0
        total = sum(self.weights.values())
        for label, weight in self.weights.items():
            reached += weight
            if point * total < reached:
                return label
        return label  # rounding left the point at the very end

    def _shares(self) -> str:
        return ", ".join(f"{label}={weight:g}" for label, weight in self.weights.items())


def require_label(label: str, known: tuple[str, ...]) -> None:
    """Raises NotHeld for another label than these."""
    if label not in known:
        raise NotHeld(f"{label!r} is no label: there are {', '.join(known)}")
