"""A simulated process: it reads what has arrived in passes, as the loops of the nodes do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradmq.broker.directory import LEASE_S
from gradmq.wire.messages import Message

if TYPE_CHECKING:
    from gradmq.sim.world import World

#: From the beginning of one pass to that of the next one at least: what comes meanwhile waits.
PASS_S = 0.001

#: The broker's clock may be fast: whoever was silent so long may have lost its lease.
LEASE_AT_LEAST_S = 0.75 * LEASE_S


@dataclass(frozen=True, slots=True)
class Clock:
    """What a process takes for the time: monotonic, and like nobody else's."""

    rate: float = 1.0
    offset_s: float = 0.0

    def shows(self, time: float) -> float:
        return self.offset_s + self.rate * time

    def time_when(self, shown: float) -> float:
        return (shown - self.offset_s) / self.rate


@dataclass(slots=True)
class Doom:
    """A process is to die when it comes to this step for the n-th time."""

    step: str
    passes: int
    then: Callable[[], None]


class Died(Exception):
    """A process has come to the step where it is to die."""


class Process(ABC):
    """Lives from its making to ``end``; in between it may sleep, as a stopped process does."""

    topics: Set[str] = frozenset()

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.clock = world.new_clock()
        self.doom: Doom | None = None
        self.asleep_until = 0.0
        self.outslept_at = 0.0
        """When a silence longer than a lease ends, or has ended; 0: there was none."""
        self._silent_s = 0.0
        self.inbox: dict[str, deque[tuple[bytes, Message]]] = {
            channel: deque() for channel in ("broker", "control", "gradients")
        }
        self._free_at = 0.0
        self._wakes_at = float("inf")

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def on_pass(self, now: float) -> None:
        """Read what is there, then look at the clock, which shows ``now``."""

    @abstractmethod
    def next_deadline(self, now: float) -> float:
        """What the clock shows when the next pass must be, at the latest."""

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
        shown = self.clock.shows(now)
        try:
            self.on_pass(shown)
        except Died:
            self._die()
            return
        self.wake(self.clock.time_when(self.next_deadline(shown)))

    def alone(self, action: Callable[[], None]) -> None:
        """Something that a thread of this process does beside its passes."""
        if not self.alive:
            return
        if self.world.schedule.now < self.asleep_until:
            self.world.schedule.at(self.asleep_until, self.alone, action)
            return
        try:
            action()
        except Died:
            self._die()

    def step(self, name: str) -> None:
        """Between any two of these the process may die."""
        doom = self.doom
        if doom is None or doom.step != name:
            return
        doom.passes -= 1
        if doom.passes <= 0:
            raise Died

    def _die(self) -> None:
        doom, self.doom = self.doom, None
        assert doom is not None
        self.world.note(self.name, f"dies: {doom.step}")
        self.world.counts[f"died: {doom.step}"] += 1
        self.end()
        doom.then()

    def sleep(self, lasts_s: float) -> None:
        """Do nothing for this long; messages wait."""
        self.world.note(self.name, f"is stopped for {lasts_s:.2f} s")
        self.asleep_until = self.world.schedule.now + lasts_s
        self.is_silent(lasts_s)
        self.wake(self.asleep_until)

    def is_silent(self, lasts_s: float) -> None:
        """Others may not hear of this process for so long."""
        self._silent_s += lasts_s
        if self._silent_s >= LEASE_AT_LEAST_S:
            self.outslept_at = self.world.schedule.now + lasts_s

    def wake_up(self) -> None:
        """End a sleep now; whoever was to die lives on."""
        self.doom = None
        self.asleep_until = 0.0
        self.wake(self.world.schedule.now)

    def end(self) -> None:
        """As kill -9 does it: memory and sockets are gone."""
        self.alive = False
        self.world.network.end(self)
