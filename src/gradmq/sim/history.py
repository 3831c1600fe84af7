"""What truly happened to one shard, over all its lives: the measure for what anybody is told."""

from __future__ import annotations

import numpy as np

from gradmq.sim.violation import Violation
from gradmq.wire.messages import Version

PushId = tuple[int, int]
"""(session, seq)."""


class ShardHistory:
    """Every version that a shard ever had, and from which one each life of it went on.

    A version *holds* another one if its parameters went through it: the versions of a life hold
    each other in order, and those of the life before up to the one that was restored.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self._states: dict[Version, bytes] = {}
        self._origins: dict[int, Version | None] = {}
        self._last: dict[int, int] = {}
        self._applied: dict[PushId, list[Version]] = {}

    def begin(self, incarnation: int, version: int, state: bytes, origin: Version | None) -> None:
        """A life begins with these parameters: those of ``origin``, or new ones."""
        if origin is not None and self._states[origin] != state:
            raise Violation("never torn", f"shard {self.index} restored other bytes than {origin}")
        self._origins[incarnation] = origin
        self._last[incarnation] = version
        self._states[incarnation, version] = state

    def apply(self, incarnation: int, push: PushId, places: tuple[int, ...]) -> None:
        """The shard applied a push; raises Violation if its parameters held it already."""
        before = (incarnation, self._last[incarnation])
        for version in self._applied.get(push, ()):
            if self.holds(before, version):
                raise Violation(
                    "exactly once",
                    f"shard {self.index} applied seq {push[1]} of session {push[0]} at {version} "
                    f"and again on {before}",
                )
        vector = np.frombuffer(self._states[before], np.float32).copy()
        for place in places:
            if vector[place] != 0.0:
                text = f"shard {self.index} holds seq {push[1]} of session {push[0]} twice"
                raise Violation("exactly once", text)
            vector[place] = 1.0
        after = (incarnation, before[1] + 1)
        self._last[incarnation] = after[1]
        self._states[after] = vector.tobytes()
        self._applied.setdefault(push, []).append(after)

    def state(self, version: Version) -> bytes | None:
        """The parameters of a version, None if there never was such a one."""
        return self._states.get(version)

    @property
    def lives(self) -> int:
        """Lives that had parameters, release 0 not counted."""
        return sum(1 for incarnation in self._origins if incarnation > 0)

    def restored_version(self, incarnation: int) -> int:
        """The number that a life went on from; 0 if it began with new parameters."""
        origin = self._origins[incarnation]
        return origin[1] if origin else 0

    def last(self, incarnation: int) -> Version:
        """The newest version of a life."""
        return (incarnation, self._last[incarnation])

    def applied(self, push: PushId) -> list[Version]:
        """The versions that applying this push made, in every life."""
        return self._applied.get(push, [])

    def is_in(self, version: Version, push: PushId) -> bool:
        """True if the parameters of ``version`` hold this push."""
        return any(self.holds(version, at) for at in self.applied(push))

    def holds(self, version: Version, past: Version) -> bool:
        """True if the parameters of ``version`` went through ``past``."""
        past = self._first_of_equals(past)
        while True:
            incarnation, number = version
            if past[0] == incarnation:
                return past[1] <= number
            origin = self._origins[incarnation]
            if origin is None or past[0] > incarnation:
                return False
            version = origin

    def _first_of_equals(self, version: Version) -> Version:
        """What was restored is the same state as the version that was saved."""
        while True:
            origin = self._origins.get(version[0])
            if origin is None or origin[1] != version[1]:
                return version
            version = origin

    def lost_before(self, incarnation: int) -> int:
        """Updates of all earlier lives that this one did not go on from."""
        now = self.last(incarnation)
        return sum(
            1
            for versions in self._applied.values()
            for version in versions
            if version[0] < incarnation and not self.holds(now, version)
        )
