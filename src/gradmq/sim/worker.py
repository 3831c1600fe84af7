"""The simulated worker: ``worker/node.py`` around the production session, and a training loop."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Literal

import numpy as np

from gradmq.layout import Layout
from gradmq.replica import Replica
from gradmq.ring import RingReader, Vector
from gradmq.sim.member import SimMember
from gradmq.sim.plan import WorkerPlan
from gradmq.sim.tracer import TracerGradient
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import (
    Attached,
    Beacon,
    Detach,
    Directory,
    Goodbye,
    Hello,
    Message,
    NotSeen,
    Payload,
    Publication,
    Query,
    Reattach,
    Refused,
    Renewed,
    Seed,
    Segment,
    ShardEntry,
    Verdicts,
    Version,
    Welcome,
)
from gradmq.worker.session import Session

if TYPE_CHECKING:
    from gradmq.sim.world import World

SEED_AGAIN_S = 2.0

Stage = Literal["joining", "computing", "pushing", "waiting", "resting"]


class SimWorker(SimMember):
    """One process of a worker; computes, pushes and installs as ``Worker.step`` does."""

    def __init__(self, world: World, label: str, plan: WorkerPlan, worker_name: str) -> None:
        self.plan = plan
        self.worker_name = worker_name
        self.session: Session | None = None
        self.replica: Replica | None = None
        self.stage: Stage = "joining"
        self.steps = 0
        self.base: tuple[Version, ...] = ()
        self.attached_to: dict[int, int] = {}
        """The incarnation that last attached the session, by shard."""
        self.heard_of: dict[int, int] = {}
        """The newest incarnation of each shard that any message named."""
        self.session_began_at = 0.0
        self.goal = 0
        """Steps to be made before the end."""
        self.is_leaving = False
        self.sleeps_after_push_s = 0.0
        self._parameters: tuple[bytes, ...] = ()
        self._computed_at = 0.0
        self._has_given_up = False
        self._seed_at: dict[int, float] = {}
        self.topics: Set[str] = {"beacons"} if plan.shared else {"newest", "beacons"}
        self._slots: list[tuple[Vector, ...]] = []
        """By shard, of the present session."""
        super().__init__(world, label)
        world.member_checks.started(self)

    # -- joining ----------------------------------------------------------------------------------

    def hello(self) -> Hello:
        layout = Layout(self.world.tracer.layout.tensors, 1)
        return Hello(
            role="worker",
            name=self.worker_name,
            host="host",
            pid=self.pid,
            run=self.welcome.run if self.welcome else None,
            session=self.session.session if self.session and not self._has_given_up else None,
            payload=(layout.to_bytes(),),
        )

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        self.worker_name = welcome.name
        if self.replica is None:
            self.replica = Replica(welcome.run, self.world.tracer.layout)
        if self.session is None or self.session.session != welcome.session:
            self._begin_session(welcome, now)
        elif self.session.fenced and not self._has_given_up:
            # The broker was restarted and does not know that it was fenced.
            self._has_given_up = True
            self.world.network.send(self.broker, Goodbye())
            self.member.rejoin(now)

    def _begin_session(self, welcome: Welcome, now: float) -> None:
        assert self.replica is not None
        if self.session is not None:
            self.world.note(self.name, f"session {self.session.session} was fenced")
            self.world.member_checks.fenced(self)
            self.session.fence("the session was fenced: its lease ran out")
            self._take_answered()
        self.session = Session(
            welcome.run,
            self.world.tracer.layout,
            welcome.session,
            welcome.name,
            self.plan.max_in_flight,
            self._make_slots(),
        )
        self._has_given_up = False
        self.session_began_at = self.world.schedule.now
        self.attached_to = {}
        for shard, version in enumerate(self.replica.versions):
            if version is not None:
                self.session.on_replica(shard, version, now)
        if self.directory is not None:
            self.session.on_directory(self.directory, now)

    def _make_slots(self) -> list[Segment | None]:
        if not self.plan.shared:
            return []
        count, parts = self.plan.max_in_flight, self.world.tracer.layout.parts
        made = [self.world.memory.make(self.pid, part.size, count)[0] for part in parts]
        self._slots = [
            self.world.memory.slots(segment, part.size, count)
            for segment, part in zip(made, parts, strict=True)
        ]
        return list(made)

    def on_name_taken(self, refused: Refused) -> None:
        self.world.note(self.name, f"ends: {refused.text}")
        self.world.member_checks.succeeded(self)
        self.end()

    def on_directory(self, directory: Directory, now: float) -> None:
        for entry in directory.shards:
            self._hear_of(entry.index, entry.incarnation)
        if self.session is not None:
            self.session.on_directory(directory, now)

    def on_broker(self, message: Message, now: float) -> None:
        assert isinstance(message, Renewed)

    # -- the shards -------------------------------------------------------------------------------

    def on_stream(
        self, publications: Sequence[Publication], beacon: Beacon | None, now: float
    ) -> None:
        assert self.replica is not None and self.session is not None
        for publication in publications:
            self._hear_of(publication.shard, publication.version[0])
            self.replica.on_publication(publication)
            self._on_replica(publication.shard, now)
        if beacon is not None:
            self._hear_of(beacon.shard, beacon.version[0])
            self.session.on_beacon(beacon, now)
            self._look(beacon.shard, now)
            if "newest" in self.topics:
                self.ask(self.replica.on_beacon(beacon, now))

    def _look(self, shard: int, now: float) -> None:
        assert self.replica is not None
        self.replica.look(shard)
        if self.replica.versions[shard] is not None:
            self._on_replica(shard, now)

    def _hear_of(self, shard: int, incarnation: int) -> None:
        self.heard_of[shard] = max(self.heard_of.get(shard, 0), incarnation)

    def _on_replica(self, shard: int, now: float) -> None:
        assert self.replica is not None and self.session is not None
        version = self.replica.versions[shard]
        assert version is not None
        self.world.view_checks.observed(self, shard, self.replica)
        self.session.on_replica(shard, version, now)

    def on_control(self, shard: int, message: Message, now: float) -> None:
        session, replica = self.session, self.replica
        if session is None or replica is None:
            return
        match message:
            case Verdicts():
                with self.world.push_checks.verdicts(self, shard, message):
                    session.on_verdicts(shard, message, now)
                self._look(shard, now)
            case Attached():
                if session.on_attached(shard, message, now) and message.ring is not None:
                    memory = self.world.memory.open(message.ring)
                    size = self.world.tracer.layout.parts[shard].size
                    replica.open_ring(shard, message.incarnation, RingReader(memory, size))
                    self._on_replica(shard, now)
                self.world.push_checks.attachment(self, shard, message)
            case Reattach():
                session.on_reattach(shard, message, now)
            case NotSeen():
                session.on_not_seen(shard, message, now)
                self.world.push_checks.not_seen(shard, message)
            case Publication():
                replica.on_fetched(message)
                self._on_replica(shard, now)
            case Refused():
                self.world.counts[f"refused for {message.reason}"] += 1
                session.on_refused(shard, message, now)
                if not replica.has_ring(shard):
                    self.topics |= {"newest"}
                if session.fenced:
                    self.member.rejoin(now)
            case _:
                raise AssertionError(f"a {message.KIND} is not for a worker")
        self._take_answered()

    def _take_answered(self) -> None:
        assert self.session is not None
        for answered in self.session.take_answered():
            self.world.push_checks.answered(self, answered)

    def on_time(self, now: float) -> None:
        if self.session is None or self.replica is None:
            return
        for effect in self.session.on_time(now):
            if isinstance(effect.message, Query):
                self.world.counts["queries"] += 1
                self.world.push_checks.queried(self, effect.shard)
            self.tell_shard(effect.shard, effect.message)
        for ask in self.replica.on_time(now):
            self.ask(ask)
        if self.directory is not None and self.directory.seeder == self.session.session:
            for entry in self.directory.shards:
                if not entry.ready:
                    self._seed(entry, now)

    def _seed(self, entry: ShardEntry, now: float) -> None:
        """Bring the parameters of the model: zeros, or what was installed since."""
        assert self.welcome is not None
        if now < self._seed_at.get(entry.index, 0.0):
            return
        layout = self.world.tracer.layout
        nbytes = layout.parts[entry.index].nbytes
        payload = (self._parameters[entry.index] if self._parameters else bytes(nbytes),)
        seed = Seed(
            run=self.welcome.run,
            layout=layout.hash,
            shard=entry.index,
            session=self.welcome.session,
            crc=payload_crc(payload),
            payload=payload,
        )
        self.world.counts["seeds"] += 1
        if self.world.network.send(self.links[entry.index].control, seed):
            self._seed_at[entry.index] = now + SEED_AGAIN_S

    def wake_at(self) -> float:
        session_at = self.session.next_deadline() if self.session else float("inf")
        return min(session_at, self._computed_at) if self.stage == "computing" else session_at

    # -- training ---------------------------------------------------------------------------------

    def on_end_of_pass(self, now: float) -> None:
        self._send_pushes(now)
        if self._train(now):
            self._send_pushes(now)
            if self.sleeps_after_push_s:
                self.sleep(self.sleeps_after_push_s)
                self.sleeps_after_push_s = 0.0

    def _train(self, now: float) -> bool:
        """What the caller's thread does meanwhile; True if it pushed."""
        pushed = False
        if self.stage == "joining" and self.replica is not None and self.replica.complete:
            self._install_and_compute(now)
        if self.stage == "resting" and self.world.may_push(self):
            self._install_and_compute(now)
        if self.stage == "computing" and now >= self._computed_at:
            self.stage = "pushing" if self.world.may_push(self) else "resting"
        if self.stage == "pushing" and self._has_room():
            self._push(now)
            self.stage, pushed = "waiting", True
        if self.stage == "waiting" and self._has_room():
            self.steps += 1
            self._install_and_compute(now)
        if self.is_leaving:
            self._leave_if_drained()
        return pushed

    def _has_room(self) -> bool:
        return self.session is not None and self.session.has_room

    def _push(self, now: float) -> None:
        assert self.session is not None
        gradient = self.world.next_gradient(self)
        slot = self.session.free_slot() if self._slots else None
        payloads = gradient.payloads if slot is None else self._in_slot(gradient, slot)
        seq = self.session.push(
            self.base, payloads, gradient.crcs, gradient.present, now, slot=slot
        )
        self.world.push_checks.pushed(self, self.session.session, seq, gradient)

    def _in_slot(self, gradient: TracerGradient, slot: int) -> list[Payload]:
        """Written over whatever lay there, as a worker does."""
        payloads = []
        for slots, payload in zip(self._slots, gradient.payloads, strict=True):
            values = np.frombuffer(b"".join(payload), np.float32)
            slots[slot][: values.size] = values
            payloads.append(array_payload(slots[slot][: values.size]))
        return payloads

    def _install_and_compute(self, now: float) -> None:
        replica = self.replica
        assert replica is not None
        sources = replica.sources()
        self._parameters = tuple(
            b"".join(chunk.tobytes() for chunk in source.chunks) for source in sources
        )
        self.base = tuple(source.version for source in sources)
        self.world.view_checks.copied(self, self._parameters)
        replica.on_installed()
        for shard in range(len(sources)):
            self._on_replica(shard, now)
        self.world.view_checks.installed(self)
        self.stage = "computing"
        self._computed_at = now + self.world.compute_s(self)

    def hurry(self) -> None:
        """Whatever is being computed is finished soon."""
        now = self.clock.shows(self.world.schedule.now)
        self._computed_at = min(self._computed_at, now + self.world.compute_s(self))

    def _send_pushes(self, now: float) -> None:
        session = self.session
        if session is None:
            return
        for shard, link in self.links.items():
            while (push := session.next_push(shard)) is not None:
                self.step("before a message")
                if not self.world.network.send(link.gradients, push):
                    break
                self.world.push_checks.sent(self, push)
                session.on_sent(shard, now)

    def _leave_if_drained(self) -> None:
        if self.session is None or self.session.unanswered:
            return
        for shard in self.links:
            self.tell_shard(shard, Detach(session=self.session.session))
        self.world.network.send(self.broker, Goodbye())
        self.world.note(self.name, "leaves")
        self.world.schedule.after(0.5, self.end)
        self.alive = False
