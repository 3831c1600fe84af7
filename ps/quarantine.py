"""Quarantine: a worker that keeps sending gradients that are none is not listened to; pure.

A bad gradient never changes anything, so this saves work and makes the trouble visible. The rule
goes by the worker's name: joining again does not launder it, only a person lets it back.
"""

from __future__ import annotations

from collections import Counter, deque

from gradmq.standings import Standings

#: So many bad ones of a worker's last pushes put it in quarantine: no loop that works sends one
#: (AMP's overflows are not pushed), and a single spike is no habit.
BAD, OF_LAST = 5, 20

#: Rejections that are the gradient's own fault; what was damaged on its way is not.
BAD_REASONS = frozenset({"malformed", "nonfinite", "norm"})


class Quarantine:
    """One shard's view; what it finds, the broker tells the others."""

    def __init__(self, shard: int) -> None:
        self.standings = Standings()
        self._shard = shard
        self._recent: dict[str, deque[str]] = {}
        """Reasons of a worker's last pushes since its first bad one, "" for the good."""

    def holds(self, name: str) -> bool:
        """True if this worker's pushes are not looked at."""
        return self.standings.holds(name)

    def decided(self, name: str, reason: str, now: float) -> str:
        """A push was decided; returns why its worker is in quarantine from now on, or ""."""
        bad = reason in BAD_REASONS
        recent = self._recent.get(name)
        if recent is None:
            if not bad:
                return ""
            recent = self._recent[name] = deque(maxlen=OF_LAST)
        recent.append(reason if bad else "")
        counts = Counter(filter(None, recent))
        if counts.total() < BAD:
            if not counts:
                del self._recent[name]
            return ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        pushes = f"{counts.total()} of its last {len(recent)} pushes to shard {self._shard}"
        why = f"{pushes} were rejected: {reasons}"
        del self._recent[name]
        self.standings.begin(name, why, now)
        return why
