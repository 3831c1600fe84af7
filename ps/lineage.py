"""Which versions belong to a shard's past, through all its lives; pure."""

from __future__ import annotations

from gradmq.ps.state import ShardState
from gradmq.wire.messages import Version


class Lineage:
    """Of one incarnation, from the versions at which it and those before it began."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.lives: tuple[tuple[int, int], ...] = ()
        """(incarnation, version it was restored at), oldest first; −1: it began with new ones."""
        self.floor = 0
        """The version of the last rollback: a gradient of an older one is not wanted any more."""

    def begin(self) -> None:
        """With first parameters."""
        self.lives = ((self.incarnation, -1),)

    def restore(self, state: ShardState) -> None:
        """With those of a checkpoint."""
        self.lives = (*state.lineage, (self.incarnation, state.version))
        self.floor = state.floor

    def wrong_base(self, base: Version, present: int | None) -> str:
        """Rule *Lineage*: "" if the base is part of the past that leads to ``present``."""
        incarnation, version = base
        if version < self.floor:
            return "lost_base"
        if present is None or incarnation > self.incarnation:
            return "future"
        if incarnation == self.incarnation:
            return "future" if version > present else ""
        survived = all(version <= at for later, at in self.lives if later > incarnation)
        return "" if survived else "lost_base"

    def lost_since(self, seen: Version | None) -> int:
        """How many updates somebody saw, in an older life, that this one has not."""
        if seen is None or seen[0] >= self.incarnation:
            return 0
        restored = max(0, self.lives[-1][1]) if self.lives else 0
        return max(0, seen[1] - restored)
