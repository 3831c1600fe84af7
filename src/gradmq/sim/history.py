"""What truly happened to one shard, over all its lives: the measure for what anybody is told."""

from __future__ import annotations

import numpy as np

from gradmq.sim.violation import Violation
from gradmq.wire.messages import Version

PushId = tuple[int, int]
"""(session, seq)."""


class ShardHistory:
    """Every version that a shard ever had, and from which one each stretch of them went on.

    A stretch begins with a life or a rollback, and goes on from an older version. A version *holds*
    another one if its parameters went through it: those of its stretch up to it, and those that the
    origin of the stretch holds. It *follows* whatever its shard went through in this life or the
    lives behind it, also what a rollback has taken back since.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self._states: dict[Version, bytes] = {}
        self._stretches: dict[int, list[tuple[int, Version | None]]] = {}
        """Of each life: (first version, origin), in order."""
        self._last: dict[int, int] = {}
        self._applied: dict[PushId, list[Version]] = {}
        self._made: list[Version] = []
        """Every version but those that lives began with."""

    def begin(self, incarnation: int, version: int, state: bytes, origin: Version | None) -> None:
        """A life begins with these parameters: those of ``origin``, or new ones."""
        if origin is not None and self._states[origin] != state:
            raise Violation("never torn", f"shard {self.index} restored other bytes than {origin}")
        self._stretches[incarnation] = [(version, origin)]
        self._last[incarnation] = version
        self._states[incarnation, version] = state

    def roll_back(self, incarnation: int, origin: Version) -> None:
        """What ``origin`` was becomes the next version."""
        number = self._last[incarnation] + 1
        self._stretches[incarnation].append((number, origin))
        self._last[incarnation] = number
        self._states[incarnation, number] = self._states[origin]
        self._made.append((incarnation, number))

    def apply(
        self,
        incarnation: int,
        push: PushId,
        places: tuple[int, ...],
        superseded: bytes | None = None,
    ) -> None:
        """The shard applied a push; raises Violation if its parameters held it already.

        A life in whose place there is another one has no right to the slots of workers any more,
        and reads whatever lies there by now: what it has, ``superseded``, does not count.
        """
        before = (incarnation, self._last[incarnation])
        for version in self._applied.get(push, ()):
            if self.follows(before, version):
                raise Violation(
                    "exactly once",
                    f"shard {self.index} applied seq {push[1]} of session {push[0]} at {version} "
                    f"and again on {before}",
                )
        vector = np.frombuffer(self._states[before], np.float32).copy()
        for place in places:
            if vector[place] != 0.0 and superseded is None:
                text = f"shard {self.index} holds seq {push[1]} of session {push[0]} twice"
                raise Violation("exactly once", text)
            vector[place] = 1.0
        after = (incarnation, before[1] + 1)
        self._last[incarnation] = after[1]
        self._states[after] = superseded or vector.tobytes()
        self._applied.setdefault(push, []).append(after)
        self._made.append(after)

    def state(self, version: Version) -> bytes | None:
        """The parameters of a version, None if there never was such a one."""
        return self._states.get(version)

    @property
    def lives(self) -> int:
        """Lives that had parameters, release 0 not counted."""
        return sum(1 for incarnation in self._stretches if incarnation > 0)

    def restored_version(self, incarnation: int) -> int:
        """The number that a life went on from; 0 if it began with new parameters."""
        origin = self._stretches[incarnation][0][1]
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
            first, origin = self._stretch(version)
            if past[0] == version[0] and first <= past[1]:
                return past[1] <= version[1]
            if origin is None or past[0] > version[0]:
                return False
            version = origin

    def follows(self, version: Version, past: Version) -> bool:
        """True if the shard went through ``past`` before ``version``, rolled back since or not."""
        while (life := self._stretches.get(past[0])) and life[0][1] and life[0][0] == past[1]:
            past = life[0][1]
        while True:
            if past[0] == version[0]:
                return past[1] <= version[1]
            origin = self._stretches[version[0]][0][1]
            if origin is None or past[0] > version[0]:
                return False
            version = origin

    def _stretch(self, version: Version) -> tuple[int, Version | None]:
        for first, origin in reversed(self._stretches[version[0]]):
            if first <= version[1]:
                return first, origin
        return self._stretches[version[0]][0]

    def _first_of_equals(self, version: Version) -> Version:
        """What was restored is the same state as the version that was saved."""
        while version[0] in self._stretches:
            first, origin = self._stretch(version)
            if origin is None or first != version[1]:
                break
            version = origin
        return version

    def lost_before(self, incarnation: int) -> int:
        """Versions of all earlier lives that this one did not go on from."""
        now = self.last(incarnation)
        return sum(
            1 for made in self._made if made[0] < incarnation and not self.follows(now, made)
        )
