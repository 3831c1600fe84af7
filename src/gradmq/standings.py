"""Which workers are in quarantine, as broker and shards tell each other; pure.

Each worker name that was ever in quarantine has a number that grows with every change: odd means in
quarantine, even let back. Whoever hears of a larger number takes it over, so that everybody comes
to the same, in whatever order they hear, and a shard or a broker that forgot everything is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gradmq.wire.messages import Standing


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A worker in quarantine."""

    name: str
    why: str
    since: float


class Standings:
    """By worker name."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str, float]] = {}
        """Number, why, since."""

    def holds(self, name: str) -> bool:
        """True if this worker is in quarantine."""
        return name in self._known and self._known[name][0] % 2 == 1

    def quarantined(self) -> Iterator[Quarantined]:
        for name, (number, why, since) in self._known.items():
            if number % 2 == 1:
                yield Quarantined(name, why, since)

    def begin(self, name: str, why: str, now: float) -> None:
        """Put a worker in quarantine; it stays there if it is."""
        if not self.holds(name):
            self._known[name] = (self._number(name) + 1, why, now)

    def end(self, name: str, now: float) -> bool:
        """Let a worker back; False if it is not in quarantine."""
        if not self.holds(name):
            return False
        self._known[name] = (self._number(name) + 1, "", now)
        return True

    def hear(self, told: Mapping[str, Standing], now: float) -> list[str]:
        """Take over what is newer than what is known here; returns whose standing has changed."""
        newer = [name for name, standing in told.items() if standing.number > self._number(name)]
        for name in newer:
            standing = told[name]
            self._known[name] = (standing.number, standing.why, now - standing.for_s)
        return newer

    def tell(self, now: float) -> dict[str, Standing]:
        """For others to hear."""
        return {
            name: Standing(number=number, why=why, for_s=now - since)
            for name, (number, why, since) in self._known.items()
        }

    def _number(self, name: str) -> int:
        return self._known[name][0] if name in self._known else 0
