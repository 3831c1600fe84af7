"""A worker's side of the network: session and replica in the thread ``gradmq-io``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradmq import link
from gradmq.binding import Gradients
from gradmq.errors import JobError, JoinRefused
from gradmq.layout import Layout, Tensor
from gradmq.member_thread import MemberThread
from gradmq.replica import Replica
from gradmq.ring import SLOTS as RING_SLOTS
from gradmq.ring import RingReader, memory_bytes
from gradmq.security.keys import Identity
from gradmq.shared_memory import NotShared, fence, open_segment
from gradmq.wire.codec import array_payload, check_size, payload_crc
from gradmq.wire.messages import (
    MAX_WINDOW,
    Attached,
    Beacon,
    Detach,
    Directory,
    Goodbye,
    Hello,
    Message,
    NotSeen,
    Publication,
    Reattach,
    Refused,
    Renewed,
    Seed,
    Segment,
    ShardEntry,
    Verdicts,
    Welcome,
)
from gradmq.worker.session import Answered, Session
from gradmq.worker.slots import GradientSlots

log = logging.getLogger(__name__)

#: A granted seeding is sent again after this long, until the broker says that the shard is ready.
SEED_AGAIN_S = 2.0


class WorkerThread(MemberThread):
    """Keeps the session going; what is public here needs ``lock``."""

    def __init__(
        self,
        broker: str,
        name: str,
        tensors: Sequence[Tensor],
        max_in_flight: int,
        initial: Callable[[Layout], Gradients],
        report: Callable[[], Mapping[str, Any]],
        identity: Identity | None = None,
    ) -> None:
        topics = (link.TOPIC_BEACONS,)
        super().__init__(broker, topics, with_gradients=True, report=report, identity=identity)
        self.session: Session | None = None
        self.replica: Replica | None = None
        self.slots: GradientSlots | None = None
        """The present session's."""
        self.answered: list[Answered] = []
        self.fetch_asked = False
        """Set by the caller: have what is newest of every shard."""
        self.pulling = False
        """True while the caller waits for that."""
        self.quarantined = False
        """Its pushes are rejected, whatever they hold."""
        self.worker_name = name
        self._tensors = tuple(tensors)
        self._max_in_flight = max_in_flight
        self._initial = initial
        self._seed_at: dict[int, float] = {}
        self._has_given_up = False
        """True once the broker was told that this session is over, until it gives a new one."""

    def waiting_for(self) -> str:
        """Who this worker waits for now, in words; "" if for nobody."""
        joining = self.waiting_to_join()
        if joining or self.replica is None or self.session is None:
            return joining
        if not self.replica.complete:
            if self.directory and self.directory.phase == "waiting":
                return "the run to get its initial parameters"
            missing = [i for i, v in enumerate(self.replica.versions) if v is None]
            return f"shards {missing}: first parameters"
        now = time.monotonic()
        if self.session.fenced:
            return self.member.waiting_for(now) or "broker: a new session"
        waiting = self.session.waiting_for(now)
        asked = self.pulling or not self.replica.is_whole()
        if not waiting and asked and self.replica.fetching:
            waiting = f"shard {self.replica.fetching[0]}: its newest parameters"
        away = self.member.waiting_for(now)
        return f"{waiting}; {away}" if waiting and away else waiting

    # -- joining ----------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return Hello(
            role="worker",
            name=self.worker_name,
            host=link.this_host(),
            pid=os.getpid(),
            run=self.welcome.run if self.welcome else None,
            session=self.session.session if self.session and not self._has_given_up else None,
            payload=(Layout(self._tensors, 1).to_bytes(),),
        )

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        self.worker_name = welcome.name
        if self.layout is None:
            self.layout = Layout(self._tensors, welcome.shards)
            self.replica = Replica(welcome.run, self.layout)
            self._transport = str(welcome.settings.get("transport", "auto"))
        if self.session is None or self.session.session != welcome.session:
            self._begin_session(welcome, now)
        elif self.session.fenced and not self._has_given_up:
            # The broker was restarted since and takes the session for live; the shards know better.
            self._has_given_up = True
            link.send(self.broker, Goodbye())
            self.member.rejoin(now)

    def _begin_session(self, welcome: Welcome, now: float) -> None:
        """A new life: what the last one left unanswered ends as unknown, and is not sent again."""
        assert self.layout is not None and self.replica is not None
        self._has_given_up = False
        if self.session is not None:
            log.warning("session %d was fenced; joined anew", self.session.session)
            self.session.fence("the session was fenced: its lease ran out")
            self.answered += self.session.take_answered()
        count = min(self._max_in_flight, MAX_WINDOW)
        self.slots = GradientSlots(self.layout, count, self._transport)
        self.session = Session(
            welcome.run,
            self.layout,
            welcome.session,
            welcome.name,
            self._max_in_flight,
            self.slots.segments,
        )
        for shard, version in enumerate(self.replica.versions):
            if version is not None:
                self.session.on_replica(shard, version, now)
        if self.directory is not None:
            self.session.on_directory(self.directory, now)

    def on_directory(self, directory: Directory, now: float) -> None:
        standing = directory.standings.get(self.worker_name)
        quarantined = standing is not None and standing.number % 2 == 1
        if quarantined and not self.quarantined:
            log.warning(
                "%s is in quarantine, its pushes are rejected until `gradmq readmit %s`",
                self.worker_name,
                self.worker_name,
            )
        self.quarantined = quarantined
        if self.session is not None:
            self.session.on_directory(directory, now)

    def on_broker(self, message: Message) -> None:
        if not isinstance(message, Renewed):
            super().on_broker(message)

    # -- the shards -------------------------------------------------------------------------------

    def on_stream(self, publications: Sequence[Publication], beacon: Beacon | None) -> None:
        assert self.replica is not None and self.session is not None
        now = time.monotonic()
        for publication in publications:
            self.replica.on_publication(publication)
            self._on_replica(publication.shard, now)
        if beacon is not None:
            self.session.on_beacon(beacon, now)
            self.replica.look(beacon.shard)
            self._on_replica(beacon.shard, now)
            if link.TOPIC_NEWEST in self.links.by_shard[beacon.shard].takes:
                self.ask(self.replica.on_beacon(beacon, now))

    def checked(self, publication: Publication, size: int) -> Publication:
        """Only its size: its parts are summed while they are copied, into the model."""
        if publication.in_ring:
            return publication
        check_size(publication.payload, size, publication.codec)
        return publication

    def _on_attached(self, shard: int, attached: Attached, now: float) -> None:
        """This incarnation decides our pushes: now it is known how its parameters can be had."""
        assert self.replica is not None
        if shard in self.replica.fetching:
            # What the life before was asked for is not answered any more.
            self.fetch_asked = True
        why = attached.not_shared
        if attached.ring is not None:
            try:
                self.replica.open_ring(
                    shard, attached.incarnation, self._ring(shard, attached.ring)
                )
            except NotShared as error:
                why = str(error)
            else:
                self._on_replica(shard, now)
        is_open = attached.ring is not None and not why
        if not is_open and self._transport == "shm":
            why = why or "it has no shared memory to offer; its log says why"
            raise JoinRefused(f"network.transport is shm, but shard {shard}: {why}")
        if why:
            log.info("shard %d is reached over TCP: %s", shard, why)
        self.links.by_shard[shard].take(link.TOPIC_NEWEST, not is_open)

    def _ring(self, shard: int, segment: Segment) -> RingReader:
        assert self.layout is not None
        size = self.layout.parts[shard].size
        return RingReader(open_segment(segment, memory_bytes(size, RING_SLOTS)), size, fence)

    @property
    def transport(self) -> str:
        """How gradients and parameters travel now: shm, tcp, or both where shards differ."""
        if self.session is None or self.replica is None or not self.replica.complete:
            return ""
        shared = [self.session.is_shared(i) for i in range(len(self.replica.versions))]
        return "shm" if all(shared) else "shm+tcp" if any(shared) else "tcp"

    def on_installed(self) -> None:
        """What was copied out of a ring may be newer than what was known here."""
        assert self.replica is not None
        self.replica.on_installed()
        for shard in range(len(self.replica.versions)):
            self._on_replica(shard, time.monotonic())

    def _on_replica(self, shard: int, now: float) -> None:
        assert self.replica is not None and self.session is not None
        version = self.replica.versions[shard]
        if version is not None:
            self.session.on_replica(shard, version, now)

    def on_control(self, shard: int, message: Message) -> None:
        session, replica = self.session, self.replica
        if session is None or replica is None:
            return
        now = time.monotonic()
        match message:
            case Verdicts():
                session.on_verdicts(shard, message, now)
                replica.look(shard)
                self._on_replica(shard, now)
            case Attached():
                if session.on_attached(shard, message, now):
                    self._on_attached(shard, message, now)
            case Reattach():
                session.on_reattach(shard, message, now)
            case NotSeen():
                session.on_not_seen(shard, message, now)
            case Publication():
                replica.on_fetched(message)
                self._on_replica(shard, now)
            case Refused():
                log.warning("shard %d refused: %s", shard, message.text)
                session.on_refused(shard, message, now)
                self.links.by_shard[shard].take(link.TOPIC_NEWEST, not replica.has_ring(shard))
                if session.fenced:
                    self.member.rejoin(now)
            case _:
                log.warning("a %s of shard %d was ignored", message.KIND, shard)
        self.answered += session.take_answered()

    def on_time(self, now: float) -> None:
        if self.session is None or self.replica is None:
            return
        for effect in self.session.on_time(now):
            self.tell_shard(effect.shard, effect.message)
        if self.fetch_asked:
            self.fetch_asked = False
            for shard in self.links.by_shard:
                in_ring = self.session.is_shared(shard) and self.replica.has_ring(shard)
                torn = self.replica.is_torn(shard)
                session = self.session.session if in_ring and not torn else None
                self.ask(self.replica.fetch(shard, now, session=session))
        for ask in self.replica.on_time(now):
            self.ask(ask)
        if self.directory is not None and self.directory.seeder == self.session.session:
            for entry in self.directory.shards:
                if not entry.ready:
                    self._seed(entry, now)

    def _seed(self, entry: ShardEntry, now: float) -> None:
        """The broker granted this session the first parameters of the run."""
        assert self.layout is not None and self.welcome is not None
        if now < self._seed_at.get(entry.index, 0.0):
            return
        vectors, finite = self._initial(self.layout).packed()
        if not finite:
            raise JobError("the model's initial parameters hold NaN or infinity; nothing can start")
        payload = array_payload(vectors[entry.index])
        seed = Seed(
            run=self.welcome.run,
            layout=self.layout.hash,
            shard=entry.index,
            session=self.welcome.session,
            crc=payload_crc(payload),
            payload=payload,
        )
        if link.send(self.links.by_shard[entry.index].control, seed):
            self._seed_at[entry.index] = now + SEED_AGAIN_S

    def wake_at(self) -> float:
        return self.session.next_deadline() if self.session else float("inf")

    # -- pushing ----------------------------------------------------------------------------------

    def wants_to_push(self, shard: int) -> bool:
        return self.session is not None and self.session.next_push(shard) is not None

    def send_pushes(self) -> None:
        """Hand pushes to the sockets that take them; a shard that is away holds up no other."""
        session = self.session
        if session is None:
            return
        for shard, shard_link in self.links.by_shard.items():
            assert shard_link.gradients is not None
            while True:
                with self.lock:
                    push = session.next_push(shard)
                if push is None or not link.send(shard_link.gradients, push):
                    break
                with self.lock:
                    session.on_sent(shard, time.monotonic())

    def on_leave(self) -> None:
        if self.session is not None:
            for shard in self.links.by_shard:
                self.tell_shard(shard, Detach(session=self.session.session))
            self.session.fence("the worker has left")
        self.slots = self.replica = None  # and with them all shared memory
