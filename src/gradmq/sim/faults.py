"""Faults: what each kind does to the world. What they end comes back by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from gradmq.sim.network import Cut
from gradmq.sim.plan import (
    AMPLE_PUSH_BUDGET,
    SHARD_STEPS,
    STEPS_WITHOUT_JOURNAL,
    Fault,
    FaultKind,
)
from gradmq.sim.process import Doom, Process
from gradmq.sim.worker import SimWorker

if TYPE_CHECKING:
    from gradmq.sim.shard import SimShard
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
            "shard dies at a step": self._doom_shard,
            "broker dies at a step": self._doom_broker,
            "member dies at a step": self._doom_member,
            "shard is superseded": self._supersede_shard,
            "network is cut": self._cut_network,
            "disk rots": self._rot_disk,
            "rollback": self._roll_back,
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
        for shard in self._aimed_shard(fault):
            shard.end()
            self._come_back(shard, fault)

    def _aimed_shard(self, fault: Fault) -> Sequence[SimShard]:
        return _aimed([shard for shard in self._world.shards if shard.alive], fault.aim)

    def _come_back(self, shard: SimShard, fault: Fault) -> None:
        """Its process was killed, or its host lost power: then the disk forgot something."""
        world = self._world
        if _coin(fault, 3) == 0:
            world.disks[shard.index].lose_power()
        moves = _coin(fault, 2) == 0
        world.schedule.after(fault.lasts_s, world.start_shard, shard.index, moves)

    def _doom_shard(self, fault: Fault) -> None:
        plan = self._world.plan
        steps = SHARD_STEPS if plan.journalled else STEPS_WITHOUT_JOURNAL
        step, passes = _drawn(steps, fault.dice)
        for shard in self._aimed_shard(fault):
            shard.doom = Doom(step, passes, partial(self._come_back, shard, fault))

    def _supersede_shard(self, fault: Fault) -> None:
        """It hangs, or nobody hears it; another is started in its place; then it is back."""
        world = self._world
        for shard in self._aimed_shard(fault):
            lasts_s = min(fault.lasts_s, world.faults_left_s)
            if fault.dice < 0.5:
                shard.sleep(lasts_s)
            else:
                loses, hears = fault.dice < 0.75, _coin(fault, 2) == 0
                self._cut(shard, None, lasts_s, hears, False, loses)
            at_s = lasts_s * (fault.dice * 4 % 1.0)
            world.schedule.after(at_s, world.supersede_shard, shard)
            if _coin(fault, 4) == 0:
                # It finds a broker that knows neither of them, and may hear of the other one late.
                restart = replace(fault, lasts_s=0.1 * fault.dice)
                ends_s = max(0.0, lasts_s - fault.aim * 0.2)
                world.schedule.after(ends_s, self._restart_broker, restart)
                world.schedule.after(ends_s, self._let_sleep, shard.index, fault.lasts_s)

    def _let_sleep(self, index: int, lasts_s: float) -> None:
        shard, left_s = self._world.shards[index], self._world.faults_left_s
        if shard.alive and left_s > 0.0:
            shard.sleep(min(lasts_s, left_s))

    def _rot_disk(self, fault: Fault) -> None:
        """A restart finds damage: to the newest checkpoint, or to records that were on disk.

        Of checkpoints it takes the one before; of a journal it takes nothing until it is mended.
        """
        world = self._world
        for shard in self._aimed_shard(fault):
            shard.end()
            disk = world.disks[shard.index]
            if _coin(fault, 2) == 0:
                disk.lose_power()
            if fault.dice < 0.5:
                world.journal_checks.try_damage(disk, world.run, world.tracer.layout)
            elif disk.rot_checkpoint():
                world.counts["damaged checkpoints"] += 1
            world.schedule.after(fault.lasts_s, world.start_shard, shard.index, True)

    def _roll_back(self, fault: Fault) -> None:
        """Somebody asks for the contents of a saved release."""
        on_disk = [set(disk.saved()) for disk in self._world.disks]
        common = sorted(set.intersection(*on_disk))
        if self._world.broker.alive:
            for release in _aimed(common, fault.aim):
                self._world.broker.roll_back(release)

    def _restart_broker(self, fault: Fault) -> None:
        if self._world.broker.alive:
            self._world.broker.end()
            self._world.schedule.after(fault.lasts_s, self._world.start_broker)

    def _doom_broker(self, fault: Fault) -> None:
        broker, world = self._world.broker, self._world
        come_back = partial(world.schedule.after, fault.lasts_s, world.start_broker)
        broker.doom = Doom("before a message", 1 + int(8 * fault.dice), come_back)

    def _restart_follower(self, fault: Fault) -> None:
        for follower in _aimed(self._world.live_followers(), fault.aim):
            follower.end()
            self._world.schedule.after(fault.lasts_s, self._world.start_follower)

    # -- workers ----------------------------------------------------------------------------------

    def _kill_worker(self, fault: Fault) -> None:
        """It comes back under its name, or under a new one, or never."""
        for worker in _aimed(self._world.live_workers(), fault.aim):
            worker.end()
            self._replace_killed(worker, fault)

    def _doom_member(self, fault: Fault) -> None:
        """A worker or a follower."""
        world = self._world
        passes = 1 + int(8 * fault.dice)
        for member in _aimed([*world.live_workers(), *world.live_followers()], fault.aim):
            if isinstance(member, SimWorker):
                come_back = partial(self._replace_killed, member, fault)
            else:
                come_back = partial(world.schedule.after, fault.lasts_s, world.start_follower)
            member.doom = Doom("before a message", passes, come_back)

    def _replace_killed(self, worker: SimWorker, fault: Fault) -> None:
        world, fate = self._world, _coin(fault, 3)
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

    def _cut_network(self, fault: Fault) -> None:
        """Between one process and another, or all others; one way, or both."""
        world = self._world
        everyone: list[Process] = [world.broker, *self._live_shards(), *world.live_workers()]
        everyone = [p for p in [*everyone, *world.live_followers()] if p.alive]
        ways, loses, alone = ((fault.dice * sides) % 1.0 for sides in (3, 7, 11))
        for process in _aimed(everyone, fault.aim):
            others = [other for other in everyone if other is not process]
            other = None if alone < 0.5 else next(iter(_aimed(others, (alone - 0.5) * 2)), None)
            lasts_s = min(fault.lasts_s, world.faults_left_s)
            self._cut(process, other, lasts_s, ways < 0.33, ways > 0.66, loses < 0.5)

    def _cut(
        self,
        process: Process,
        other: Process | None,
        lasts_s: float,
        hears: bool,
        is_heard: bool,
        loses: bool,
    ) -> None:
        world = self._world
        whom = f"{other}" if other else "everybody"
        way = "from" if is_heard else "to" if hears else "both ways from and to"
        world.note(str(process), f"is cut off {way} {whom} for {lasts_s:.2f} s")
        cut = Cut(process, other, world.schedule.now + lasts_s)
        world.network.cut(cut, hears, is_heard, loses)
        for silent in (process, *([other] if other else [])):
            silent.is_silent(lasts_s)

    def _sleep(self, processes: Sequence[Process], fault: Fault) -> None:
        for process in _aimed(processes, fault.aim):
            process.sleep(fault.lasts_s)


def _aimed(things: Sequence[Thing], aim: float) -> Sequence[Thing]:
    """The one that the fault meets; none if there is none."""
    return [things[int(aim * len(things))]] if things else []


def _drawn(steps: Mapping[str, int], dice: float) -> tuple[str, int]:
    """A step, and how often it is passed before the end."""
    index = int(dice * len(steps))
    step = list(steps)[index]
    return step, 1 + int((dice * len(steps) - index) * steps[step])


def _coin(fault: Fault, sides: int) -> int:
    """One more draw out of a fault, from digits that nothing else depends on."""
    return int(fault.lasts_s * 1000) % sides
