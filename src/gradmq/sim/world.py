"""A schedule as a whole: a run with its processes, faults for a while, and then an end in order.

Nothing may wait for ever: once the faults are over, every live worker makes some further steps, all
its pushes are answered, every replica reaches the newest version, and the followers get a release
of it, all within CALM_LASTS_S of virtual time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Literal

import numpy as np

from gradmq.ps.state import ShardState
from gradmq.sim.broker import SimBroker
from gradmq.sim.disk import SimDisk
from gradmq.sim.faults import Faults
from gradmq.sim.follower import SimFollower
from gradmq.sim.history import ShardHistory
from gradmq.sim.journal_checks import JournalChecks
from gradmq.sim.member_checks import MemberChecks
from gradmq.sim.memory import Memory
from gradmq.sim.network import Network
from gradmq.sim.plan import CLOCK_RATES, Fault, Plan, WorkerPlan, draw_plan
from gradmq.sim.process import Clock
from gradmq.sim.push_checks import PushChecks
from gradmq.sim.schedule import Schedule
from gradmq.sim.shard import SimShard
from gradmq.sim.trace import Trace
from gradmq.sim.tracer import Tracer, TracerGradient
from gradmq.sim.view_checks import ViewChecks
from gradmq.sim.violation import Violation
from gradmq.sim.worker import SimWorker

#: Pushes of one schedule; the tracer model has two parameters per shard for each.
PUSHES = 96

#: Per worker, for the steps once the faults are over.
PUSHES_SPARED = 8

#: More than a lease, the longest time between two questions, and some steps.
CALM_LASTS_S = 45.0

#: A worker computes at most this long once the faults are over.
COMPUTE_WHEN_CALM_S = 0.03

Phase = Literal["faults", "steps", "drain"]


class World:
    """Everything that a schedule is made of."""

    def __init__(self, plan: Plan, write: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.run = f"seed-{plan.seed}"
        self.counts: Counter[str] = Counter()
        self.schedule = Schedule()
        self.random = Random(f"world {plan.seed}")
        self.processes = 0
        self.newest_release = 0
        """On the broker's disk: numbers are never used again."""
        self.phase: Phase = "faults"
        self._trace = Trace(self.schedule, write) if write else None
        self.memory = Memory()
        self.network = Network(self.schedule, self.random, plan.weather, self._trace, self.counts)
        self.tracer = Tracer(self.random, plan.shards, PUSHES)
        self.histories = [ShardHistory(index) for index in range(plan.shards)]
        self.push_checks = PushChecks(plan, self.histories, self.counts)
        self.view_checks = ViewChecks(self.histories, self.counts)
        self.member_checks = MemberChecks(self.counts)
        disk_random = Random(f"disks {plan.seed}")
        self.disks = [
            SimDisk(index, disk_random, plan.kept_checkpoints) for index in range(plan.shards)
        ]
        self.journal_checks = JournalChecks(self.histories, self.disks, self.counts)
        self._clock_random = Random(f"clocks {plan.seed}")
        self._release_0 = [self._release_0_of(index) for index in range(plan.shards)]
        self._write_release_0()
        self._made = 0
        self._incarnations = [0] * plan.shards
        self._broker_incarnation = 0
        self.broker = self._new_broker()
        self.shards = [self._new_shard(index, True) for index in range(plan.shards)]
        self.superseded: list[SimShard] = []
        """Shards in whose place another one was started while they were there."""
        self.workers: list[SimWorker] = []
        self.followers: list[SimFollower] = []
        for worker in plan.workers:
            self.start_worker(worker, "")
        for _ in range(plan.followers):
            self.start_follower()

    def _release_0_of(self, index: int) -> ShardState | None:
        """What the run begins with; None: the first worker brings it."""
        if self.plan.seeded:
            return None
        zeros = np.zeros(self.tracer.layout.parts[index].size, np.float32)
        return ShardState(zeros, {}, version=0, lineage=((0, -1),), rows={}, release=0)

    def _write_release_0(self) -> None:
        for history, disk, state in zip(self.histories, self.disks, self._release_0, strict=True):
            if state is not None:
                history.begin(0, 0, state.parameters.tobytes(), None)
                disk.save(state)

    def new_clock(self) -> Clock:
        if not self.plan.drifting:
            return Clock()
        random = self._clock_random
        return Clock(random.uniform(*CLOCK_RATES), random.uniform(0.0, 1000.0))

    @property
    def faults_left_s(self) -> float:
        """How long the faults will last yet."""
        return max(0.0, self.plan.faults_end_s - self.schedule.elapsed_s)

    def note(self, who: str, text: str) -> None:
        if self._trace is not None:
            self._trace.note(who, text)

    # -- processes --------------------------------------------------------------------------------

    def start_broker(self) -> None:
        if not self.broker.alive:
            self.broker = self._new_broker()

    def _new_broker(self) -> SimBroker:
        self._broker_incarnation += 1
        return SimBroker(self, self._broker_incarnation)

    def start_shard(self, index: int, moves: bool) -> None:
        if not self.shards[index].alive:
            self.shards[index] = self._new_shard(index, moves)

    def supersede_shard(self, shard: SimShard) -> None:
        """Start another process in the place of one that may be there, on the disk that it had."""
        if not shard.alive or self.shards[shard.index] is not shard or self.phase != "faults":
            return
        self.counts["shards superseded"] += 1
        shard.is_superseded = True
        self.superseded.append(shard)
        if self._clock_random.random() < 0.5:
            self.disks[shard.index].lose_power()
        self.shards[shard.index] = self._new_shard(shard.index, True)

    def _new_shard(self, index: int, moves: bool) -> SimShard:
        self._incarnations[index] += 1
        incarnation = self._incarnations[index]
        address = f"address-{index}.{incarnation}" if moves else self.shards[index].address
        return SimShard(self, index, incarnation, address)

    def start_worker(self, plan: WorkerPlan, worker_name: str) -> None:
        label = f"worker-{len(self.workers) + 1}"
        self.workers.append(SimWorker(self, label, plan, worker_name))

    def start_follower(self) -> None:
        self.followers.append(SimFollower(self, f"follower-{len(self.followers) + 1}"))

    def live_workers(self) -> list[SimWorker]:
        return [worker for worker in self.workers if worker.alive]

    def live_followers(self) -> list[SimFollower]:
        return [follower for follower in self.followers if follower.alive]

    # -- training ---------------------------------------------------------------------------------

    def may_push(self, worker: SimWorker) -> bool:
        if worker.is_leaving or self.phase == "drain":
            return False
        if self.phase == "steps":
            return worker.steps < worker.goal and self._made < PUSHES
        return self._made < PUSHES - PUSHES_SPARED * (len(self.plan.workers) + 2)

    def next_gradient(self, worker: SimWorker) -> TracerGradient:
        absent: frozenset[int] = frozenset()
        if self.random.random() < worker.plan.absent:
            rows = range(len(self.tracer.layout.tensors))
            absent = frozenset(row for row in rows if self.random.random() < 0.5)
        self._made += 1
        return self.tracer.gradient(self._made - 1, absent)

    def compute_s(self, worker: SimWorker) -> float:
        mean_s = worker.plan.compute_s
        if self.phase != "faults":
            mean_s = min(mean_s, COMPUTE_WHEN_CALM_S)
        return self.random.expovariate(1.0) * mean_s

    # -- from the first fault to the last check ----------------------------------------------------

    def play(self) -> None:
        """Run the whole schedule; raises Violation."""
        faults = Faults(self)
        begin = self.schedule.now
        for fault in self.plan.faults:
            self.schedule.at(begin + fault.at_s, self._perform, faults, fault)
        self.schedule.run_until(begin + self.plan.faults_end_s)
        self._calm_down()
        deadline = self.schedule.now + CALM_LASTS_S
        self._until(deadline, self._steps_left)
        self.phase = "drain"
        self._until(deadline, self._drain_left)
        ready = all(shard.shard is not None and shard.shard.ready for shard in self.shards)
        if ready:
            self.push_checks.finish(self.shards, self.live_workers())
            self._replay_journals()
        self.counts["virtual seconds"] += int(self.schedule.elapsed_s)

    def _replay_journals(self) -> None:
        if self.plan.journalled:
            for shard, release_0 in zip(self.shards, self._release_0, strict=True):
                self.journal_checks.finish(shard, release_0)

    def _perform(self, faults: Faults, fault: Fault) -> None:
        if self.phase == "faults":
            faults.perform(fault)

    def _calm_down(self) -> None:
        """The faults are over: whoever is down comes back, whoever sleeps wakes."""
        self.note("world", "the faults are over")
        self.phase = "steps"
        self.network.weather = self.network.weather.calmed()
        self.start_broker()
        for shard in list(self.shards):
            self.start_shard(shard.index, False)
        shards = [*self.shards, *self.superseded]
        for process in [self.broker, *shards, *self.workers, *self.followers]:
            process.wake_up()
        for connection in self.network.connections:
            connection.stalled_until = 0.0
        for worker in self.workers:
            worker.goal = worker.steps + self.plan.steps_when_calm
            worker.hurry()
        self.push_checks.is_calm = True

    def _until(self, deadline: float, left: Callable[[], str]) -> None:
        while what := left():
            if self.schedule.now >= deadline:
                raise Violation("waits", f"{CALM_LASTS_S:.0f} s after the last fault: {what}")
            self.schedule.run_until(self.schedule.now + 0.05)

    def _steps_left(self) -> str:
        """Who has steps to make yet; "" if nobody."""
        if self._made >= PUSHES:
            return ""
        for worker in self.live_workers():
            if worker.steps < worker.goal and not worker.is_leaving:
                now = worker.clock.shows(self.schedule.now)
                waits = worker.session.waiting_for(now) if worker.session else "to join"
                return f"{worker} ({worker.stage}) waits for {waits or 'nobody'}"
        return ""

    def _busy_shards(self) -> str:
        for shard in self.superseded:
            if shard.alive:
                return f"{shard} is still there beside {self.shards[shard.index]}"
        for shard in self.shards:
            if not shard.at_rest:
                return f"{shard} has not written all of its journal"
        return ""

    def _drain_left(self) -> str:
        """What has not come to rest yet; "" if all has."""
        if not self.live_workers() and self.plan.seeded:
            return ""  # nobody is left to bring parameters
        if not all(shard.shard is not None and shard.shard.ready for shard in self.shards):
            return "a shard has no parameters"
        if busy := self._busy_shards():
            return busy
        newest = tuple(shard.shard.version for shard in self.shards if shard.shard)
        for worker in self.live_workers():
            if worker.session is None or worker.replica is None:
                return f"{worker} has not joined"
            if worker.session.in_flight:
                waits = worker.session.waiting_for(worker.clock.shows(self.schedule.now))
                return f"{worker} has {worker.session.in_flight} in flight, waits for {waits}"
            if worker.replica.versions != newest:
                return f"{worker} has {worker.replica.versions}, the newest is {newest}"
        for follower in self.live_followers():
            if follower.newest is None or follower.newest.versions != newest:
                return f"{follower} has {follower.newest}, the newest is {newest}"
        return ""


def play(seed: int, write: Callable[[str], None] | None = None) -> Counter[str]:
    """Play the schedule of a seed; returns what happened how often, raises Violation."""
    world = World(draw_plan(seed), write)
    replay = f"replay: python -m gradmq.sim --seed {seed}"
    try:
        world.play()
    except Violation as violation:
        world.note("world", f"VIOLATION {violation}")
        where = f"[{world.schedule.elapsed_s:.3f} s; {replay}]"
        raise Violation(violation.rule, f"{violation.text} {where}") from violation
    except Exception as error:
        error.add_note(replay)
        raise Violation("raises", f"{error!r} [{replay}]") from error
    return world.counts
