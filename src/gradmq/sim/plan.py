"""What one seed stands for: the run, the network's weather, and the faults, all drawn at once."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from gradmq.broker.directory import LEASE_S
from gradmq.ps.policy import Bounded, Policy, Unbounded

#: Pushes that all windows together may hold where memory is no matter.
AMPLE_PUSH_BUDGET = 1000

#: So seldom that a schedule sees none but the first.
SELDOM_S = 600.0

FaultKind = Literal[
    "shard restarts",
    "shard pauses",
    "broker restarts",
    "broker pauses",
    "worker is killed",
    "worker leaves",
    "worker pauses",
    "worker pauses after a push",
    "worker is replaced",
    "worker joins",
    "follower restarts",
    "follower pauses",
    "link breaks",
    "reader stalls",
    "shard dies at a step",
    "broker dies at a step",
    "member dies at a step",
    "shard is superseded",
    "network is cut",
    "disk rots",
    "rollback",
]

#: How often each kind is drawn. Restarts of shards are what most rules are about. These and the
#: following are drawn apart, so that a seed's plan stays what it was when something is added.
WEIGHTS: dict[FaultKind, int] = {
    "shard restarts": 8,
    "shard pauses": 2,
    "broker restarts": 3,
    "broker pauses": 2,
    "worker is killed": 2,
    "worker leaves": 1,
    "worker pauses": 2,
    "worker pauses after a push": 1,
    "worker is replaced": 1,
    "worker joins": 2,
    "follower restarts": 1,
    "follower pauses": 1,
    "link breaks": 6,
    "reader stalls": 3,
}

#: Of which most seeds have one or two besides.
HARD_WEIGHTS: dict[FaultKind, int] = {
    "shard dies at a step": 8,
    "broker dies at a step": 2,
    "member dies at a step": 2,
    "shard is superseded": 3,
    "network is cut": 3,
    "disk rots": 2,
    "rollback": 3,
}

#: Where a shard with a journal may die, and how often it passes there before it does, at most.
SHARD_STEPS = {
    "before an effect": 8,
    "after an append": 4,
    "half written": 4,
    "written": 4,
    "synced": 4,
    "segment named": 1,
    "segment written": 1,
    "checkpoint named": 2,
}

#: Without one, it only dies at these.
STEPS_WITHOUT_JOURNAL = {
    step: SHARD_STEPS[step] for step in ("before an effect", "checkpoint named")
}

#: The rates of clocks, against true time. Real ones differ by far less.
CLOCK_RATES = (0.8, 1.25)

POLICIES: tuple[Policy, ...] = (Unbounded(), *(Bounded(bound) for bound in range(5)))


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong."""

    at_s: float
    kind: FaultKind
    lasts_s: float
    aim: float
    """From 0 to 1: which of those that are there it meets."""
    dice: float = 0.0
    """From 0 to 1: what else there is to choose."""

    def __str__(self) -> str:
        return f"{self.at_s:6.2f} s  {self.kind}, for {self.lasts_s:.2f} s"


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network does to messages while the faults last; afterwards it only delays them."""

    latency_s: float
    """Mean of an exponential distribution."""
    loss: float
    """Probabilities per message on the control and gradient channels; ZeroMQ itself has none of
    these, it only loses what is under way when a connection breaks."""
    duplication: float
    reordering: float

    def calmed(self) -> Weather:
        return Weather(self.latency_s, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    max_in_flight: int
    compute_s: float
    absent: float
    """How often a push leaves tensors out."""
    shared: bool
    """On the shards' host: gradients and parameters lie in shared memory."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule, before it runs."""

    seed: int
    shards: int
    policy: Policy
    workers: tuple[WorkerPlan, ...]
    followers: int
    weather: Weather
    faults: tuple[Fault, ...]
    faults_end_s: float
    pushes_per_pass: int
    push_budget: int
    """Pushes that all windows of a shard may hold together."""
    release_every_s: float
    save_every_s: float
    seeded: bool
    """The run begins without release 0: the first worker brings the parameters."""
    steps_when_calm: int
    """Of each live worker, once the faults are over; with 0, all there is was pushed before."""
    journalled: bool
    sync_s: float
    """Mean of the time that a write, and a sync, of the journal takes."""
    segment_bytes: int
    kept_checkpoints: int
    """0: all of them."""
    drifting: bool
    """Each process has a clock with a rate and a beginning of its own."""

    @property
    def bound(self) -> int | None:
        return self.policy.bound if isinstance(self.policy, Bounded) else None

    @property
    def is_sequential(self) -> bool:
        """One worker with one push in flight: every push is computed on the last one's result."""
        return len(self.workers) == 1 and self.workers[0].max_in_flight == 1

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.shards} shards, {self.policy}, "
            f"max_in_flight {[w.max_in_flight for w in self.workers]}, "
            f"shared {[w.shared for w in self.workers]}, "
            f"{self.followers} followers, {self.weather}, "
            f"{'seeded by a worker' if self.seeded else 'from release 0'}, "
            f"{self.pushes_per_pass} pushes a pass, push budget {self.push_budget}, "
            f"{self.steps_when_calm} steps once all is calm, "
            f"{self._disk()}{', drifting clocks' if self.drifting else ''}"
        )
        end = f"{self.faults_end_s:6.2f} s  the faults end"
        return "\n".join([head, *(f"  {fault}" for fault in self.faults), f"  {end}"])

    def _disk(self) -> str:
        if not self.journalled:
            return "no journal"
        kept = self.kept_checkpoints or "all"
        return f"journal in segments of {self.segment_bytes} bytes, {kept} checkpoints kept"


def draw_plan(seed: int) -> Plan:
    """The plan of a seed; the same in every process and on every machine."""
    random = Random(f"plan {seed}")
    shards = random.choice((1, 1, 1, 2, 2, 3))
    outlasts_leases = random.random() < 0.15
    lasts_s = LEASE_S + random.uniform(3.0, 6.0) if outlasts_leases else random.uniform(0.8, 3.0)
    count = random.choice((1, 1, 2, 2, 3, 4))
    # About forty pushes in all, however long it lasts.
    compute_s = count * lasts_s / random.uniform(20, 60)
    workers = tuple(_draw_worker(random, compute_s) for _ in range(count))
    followers = random.choice((0, 1, 1, 1, 2))
    # Without any, nothing but the shards themselves sees to it that parameters are published.
    no_releases = followers == 0 and random.random() < 0.5
    windows = sum(worker.max_in_flight for worker in workers)
    apart = Random(f"disk {seed}")
    journalled = apart.random() < 0.6
    return Plan(
        seed=seed,
        shards=shards,
        policy=random.choice(POLICIES),
        workers=workers,
        followers=followers,
        weather=_draw_weather(random),
        faults=_harder(seed, _draw_faults(random, lasts_s, outlasts_leases), lasts_s),
        faults_end_s=lasts_s,
        pushes_per_pass=random.choice((1, 2, 64)),
        push_budget=windows if random.random() < 0.2 else AMPLE_PUSH_BUDGET,
        release_every_s=SELDOM_S if no_releases else random.choice((0.1, 0.3, 1.0)),
        save_every_s=SELDOM_S if no_releases else random.choice((0.2, 0.5, 1.5, SELDOM_S)),
        seeded=random.random() < 0.15,
        steps_when_calm=0 if random.random() < 0.15 else 4,
        journalled=journalled,
        sync_s=apart.choice((0.0005, 0.003, 0.01)),
        segment_bytes=apart.choice((2000, 10_000, 1 << 20)),
        kept_checkpoints=apart.choice((0, 1, 3)),
        drifting=apart.random() < 0.25,
    )


def _draw_worker(random: Random, compute_s: float) -> WorkerPlan:
    return WorkerPlan(
        max_in_flight=random.choice((1, 1, 2, 3, 4)),
        compute_s=compute_s * random.choice((0.3, 1.0, 1.0, 3.0)),
        absent=random.choice((0.0, 0.0, 0.3)),
        shared=random.random() < 0.5,
    )


def _draw_weather(random: Random) -> Weather:
    latency_s = random.choice((0.0005, 0.002, 0.01, 0.03))
    if random.random() < 0.5:
        return Weather(latency_s, 0.0, 0.0, 0.0)
    return Weather(
        latency_s,
        loss=random.choice((0.0, 0.02, 0.1)),
        duplication=random.choice((0.0, 0.02, 0.1)),
        reordering=random.choice((0.0, 0.02, 0.1)),
    )


def _draw_faults(random: Random, lasts_s: float, outlasts_leases: bool) -> tuple[Fault, ...]:
    kinds: list[FaultKind] = list(WEIGHTS)
    drawn = random.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=random.randrange(7))
    faults = [
        Fault(
            random.uniform(0.2, lasts_s * 0.9),
            kind,
            min(random.expovariate(2.5), 2.0),
            random.random(),
        )
        for kind in drawn
    ]
    if outlasts_leases:
        # A worker that sleeps longer than its lease wakes as a zombie.
        falls_asleep_s, sleeps_s = random.uniform(0.2, 1.0), LEASE_S + random.uniform(0.2, 2.0)
        faults.append(
            Fault(falls_asleep_s, "worker pauses after a push", sleeps_s, random.random())
        )
        if random.random() < 0.5:
            # And finds a broker that does not know that it was fenced.
            at_s = falls_asleep_s + sleeps_s - random.uniform(0.0, 1.5)
            faults.append(Fault(at_s, "broker restarts", random.uniform(0.0, 0.5), 0.0))
    if random.random() < 0.1:
        # A broker that is slow at first is told everything more than once.
        faults.append(Fault(0.0, "broker pauses", random.uniform(0.5, 1.5), 0.0))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _harder(seed: int, faults: tuple[Fault, ...], lasts_s: float) -> tuple[Fault, ...]:
    """These and others, drawn apart."""
    random = Random(f"hard faults {seed}")
    kinds, weights = list(HARD_WEIGHTS), list(HARD_WEIGHTS.values())
    drawn = random.choices(kinds, weights, k=random.choice((0, 1, 1, 2, 3)))
    added = [
        Fault(
            random.uniform(0.2, lasts_s * 0.9),
            kind,
            min(random.expovariate(2.5), 2.0),
            random.random(),
            random.random(),
        )
        for kind in drawn
    ]
    late = [f for f in faults if f.kind == "broker restarts" and f.at_s > LEASE_S]
    if late and random.random() < 0.6:
        # Nor does the shard know any more what it fenced, but for what it has on disk.
        at_s = late[-1].at_s - random.uniform(0.0, 1.0)
        added.append(Fault(at_s, "shard restarts", random.uniform(0.0, 0.3), random.random()))
    return tuple(sorted([*faults, *added], key=lambda fault: fault.at_s))
