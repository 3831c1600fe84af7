"""Faults: what each kind does to the world. What they end comes back by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from gradmq.sim.plan import AMPLE_PUSH_BUDGET, Fault, FaultKind
from gradmq.sim.process import Process

if TYPE_CHECKING:
    from gradmq.sim.world import World

Thing = TypeVar("Thing")


class Faults:
    """Performs the faults of a plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds: dict[FaultKind, Callable[[Fault], None]] = {
            "shard restarts": self._restart_shard,
            "shard pauses": lambda fault: self._sleep(self._live_shards(), fault),
            "broker restarts": self._restart_broker,
            "broker pauses": lambda fault: self._sleep([world.broker], fault),
            "worker is killed": self._kill_worker,
            "worker leaves": self._let_worker_leave,
            "worker pauses": lambda fault: self._sleep(world.live_workers(), fault),
            "worker pauses after a push": self._sleep_after_push,
            "worker is replaced": self._replace_worker,
            "worker joins": self._add_worker,
            "follower restarts": self._restart_follower,
            "follower pauses": lambda fault: self._sleep(world.live_followers(), fault),
            "link breaks": self._break_link,
            "reader stalls": self._stall_reader,
        }

    def perform(self, fault: Fault) -> None:
        """Do it now."""
        self._world.note("fault", f"{fault.kind}, for {fault.lasts_s:.2f} s")
        self._world.counts[f"fault: {fault.kind}"] += 1
        self._kinds[fault.kind](fault)

    # -- shards, broker, followers ----------------------------------------------------------------

    def _live_shards(self) -> Sequence[Process]:
        return [shard for shard in self._world.shards if shard.alive]

    def _restart_shard(self, fault: Fault) -> None:
        """It comes back with its newest checkpoint, where it was or elsewhere."""
        world = self._world
        for shard in _aimed([shard for shard in world.shards if shard.alive], fault.aim):
            shard.end()
            moves = _coin(fault, 2) == 0
            world.schedule.after(fault.lasts_s, world.start_shard, shard.index, moves)

    def _restart_broker(self, fault: Fault) -> None:
        if self._world.broker.alive:
            self._world.broker.end()
            self._world.schedule.after(fault.lasts_s, self._world.start_broker)

    def _restart_follower(self, fault: Fault) -> None:
        for follower in _aimed(self._world.live_followers(), fault.aim):
            follower.end()
            self._world.schedule.after(fault.lasts_s, self._world.start_follower)

    # -- workers ----------------------------------------------------------------------------------

    def _kill_worker(self, fault: Fault) -> None:
        """It comes back under its name, or under a new one, or never."""
        world = self._world
        for worker in _aimed(world.live_workers(), fault.aim):
            worker.end()
            fate = _coin(fault, 3)
            # A replacement may be there already, and memory is granted to as many as were planned.
            if fate < 2 and len(world.live_workers()) < len(world.plan.workers):
                name = worker.worker_name if fate == 0 else ""
                world.schedule.after(fault.lasts_s, world.start_worker, worker.plan, name)

    def _let_worker_leave(self, fault: Fault) -> None:
        for worker in _aimed(self._world.live_workers(), fault.aim):
            worker.is_leaving = True

    def _sleep_after_push(self, fault: Fault) -> None:
        for worker in _aimed(self._world.live_workers(), fault.aim):
            worker.sleeps_after_push_s = fault.lasts_s

    def _replace_worker(self, fault: Fault) -> None:
        """Somebody thinks that it is dead and starts another one under its name."""
        named = [worker for worker in self._world.live_workers() if worker.worker_name]
        for worker in _aimed(named, fault.aim):
            worker.sleep(fault.lasts_s)
            self._world.start_worker(worker.plan, worker.worker_name)

    def _add_worker(self, fault: Fault) -> None:
        if self._world.plan.push_budget >= AMPLE_PUSH_BUDGET:
            for worker in _aimed(self._world.plan.workers, fault.aim):
                self._world.start_worker(worker, "")

    # -- the network ------------------------------------------------------------------------------

    def _break_link(self, fault: Fault) -> None:
        network = self._world.network
        for connection in _aimed(network.connections, fault.aim):
            text = f"its {connection.channel} connection to {connection.address} breaks"
            self._world.note(str(connection.client), text)
            network.break_connection(connection, fault.lasts_s)

    def _stall_reader(self, fault: Fault) -> None:
        streams = [c for c in self._world.network.connections if c.channel == "stream"]
        for connection in _aimed(streams, fault.aim):
            connection.stalled_until = self._world.schedule.now + fault.lasts_s

    def _sleep(self, processes: Sequence[Process], fault: Fault) -> None:
        for process in _aimed(processes, fault.aim):
            process.sleep(fault.lasts_s)


def _aimed(things: Sequence[Thing], aim: float) -> Sequence[Thing]:
    """The one that the fault meets; none if there is none."""
    return [things[int(aim * len(things))]] if things else []


def _coin(fault: Fault, sides: int) -> int:
    """One more draw out of a fault, from digits that nothing else depends on."""
    return int(fault.lasts_s * 1000) % sides
