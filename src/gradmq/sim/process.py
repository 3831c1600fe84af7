"""A simulated process: it reads what has arrived in passes, as the loops of the nodes do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Set
from typing import TYPE_CHECKING

from gradmq.broker.directory import LEASE_S
from gradmq.wire.messages import Message

if TYPE_CHECKING:
    from gradmq.sim.world import World

#: From the beginning of one pass to that of the next one at least: what comes meanwhile waits.
PASS_S = 0.001


class Process(ABC):
    """Lives from its making to ``end``; in between it may sleep, as a stopped process does."""

    topics: Set[str] = frozenset()

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.asleep_until = 0.0
        self.outslept_at = 0.0
        """When a sleep longer than a lease ends, or has ended; 0: there was none."""
        self.inbox: dict[str, deque[tuple[bytes, Message]]] = {
            channel: deque() for channel in ("broker", "control", "gradients")
        }
        self._free_at = 0.0
        self._wakes_at = float("inf")

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def on_pass(self, now: float) -> None:
        """Read what is there, then look at the clock."""

    @abstractmethod
    def next_deadline(self, now: float) -> float:
        """When the next pass must be, at the latest."""

    def wake(self, at: float) -> None:
        """Make a pass at this time, or as soon after it as this process can."""
        at = max(at, self._free_at, self.asleep_until)
        if at < self._wakes_at and self.alive:
            self._wakes_at = at
            self.world.schedule.at(at, self._woken, at)

    def _woken(self, at: float) -> None:
        if at != self._wakes_at or not self.alive:
            return
        self._wakes_at = float("inf")
        now = self.world.schedule.now
        if now < self.asleep_until:
            self.wake(now)
            return
        self._free_at = now + PASS_S
        self.world.counts["passes"] += 1
        self.on_pass(now)
        self.wake(self.next_deadline(now))

    def sleep(self, lasts_s: float) -> None:
        """Do nothing for this long; messages wait."""
        self.world.note(self.name, f"is stopped for {lasts_s:.2f} s")
        self.asleep_until = self.world.schedule.now + lasts_s
        if lasts_s >= LEASE_S:
            self.outslept_at = self.asleep_until
        self.wake(self.asleep_until)

    def wake_up(self) -> None:
        """End a sleep now."""
        self.asleep_until = 0.0
        self.wake(self.world.schedule.now)

    def end(self) -> None:
        """As kill -9 does it: memory and sockets are gone."""
        self.alive = False
        self.world.network.end(self)
