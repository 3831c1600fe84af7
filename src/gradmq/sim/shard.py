"""The simulated parameter server: the loop of ``ps/node.py`` around the production shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from gradmq.layout import Layout
from gradmq.membership import Membership
from gradmq.ps.effects import Append, Effect, Publish, Quarantined, Reply, Save, TellBroker
from gradmq.ps.journal.chain import End
from gradmq.ps.journal.records import Opened
from gradmq.ps.optim import SGD
from gradmq.ps.sessions import SharedSlots
from gradmq.ps.shard import Shard
from gradmq.ps.state import copied
from gradmq.ring import SLOTS as RING_SLOTS
from gradmq.ring import RingWriter
from gradmq.sim.broker import BROKER_ADDRESS
from gradmq.sim.journal import SimJournal
from gradmq.sim.network import SHARD_CHANNELS
from gradmq.sim.process import Process
from gradmq.wire.messages import (
    Attach,
    Beacon,
    Detach,
    Directory,
    Fetch,
    Hello,
    Label,
    Labelled,
    Publication,
    Push,
    Query,
    Refused,
    Rejoin,
    Renewed,
    Saved,
    Seed,
    Welcome,
)

if TYPE_CHECKING:
    from gradmq.sim.world import World

#: How long the loop sleeps at most.
LONGEST_SLEEP_S = 0.5


class SimShard(Process):
    """One life of a shard; the next one has nothing but what is on its disk."""

    def __init__(self, world: World, index: int, incarnation: int, address: str) -> None:
        super().__init__(world, f"shard-{index}.{incarnation}")
        self.index = index
        self.incarnation = incarnation
        self.address = address
        self.shard: Shard | None = None
        self.directory: Directory | None = None
        self.is_superseded = False
        """A later life was started while this one was there."""
        self._disk = world.disks[index]
        self._journal: SimJournal | None = None
        self._recovered = self._disk.begin_life(incarnation, world.run, world.tracer.layout)
        self._newest_saved = max(self._disk.saved(), default=0)
        self._layout: Layout | None = world.tracer.layout if self._recovered else None
        self._run: str | None = world.run if self._recovered else None
        self._addresses: tuple[str, ...] = ()
        self._saved: deque[Saved] = deque()
        self._tracked = 0
        self._drained = False
        self._has_journal_news = False
        self._member = Membership(self._hello)
        self._broker = world.network.connect(self, BROKER_ADDRESS, "broker")
        self.wake(world.schedule.now)

    def _hello(self) -> Hello:
        shard = self.shard
        return Hello(
            role="ps",
            name=f"ps-{self.index}",
            host="host",
            pid=self.incarnation,
            run=self._run,
            shard=self.index,
            incarnation=self.incarnation,
            ready=shard is not None and shard.ready,
            release=max(self._newest_saved, shard.release if shard else 0),
            addresses=self._addresses,
            payload=(self._layout.to_bytes(),) if self._layout else (),
        )

    def _open_shard(self, layout: Layout, now: float) -> None:
        plan = self.world.plan
        if plan.journalled and self._disk.owner != self.incarnation:
            self.lose_disk()
            return
        part = layout.parts[self.index]
        segment, memory = self.world.memory.make(self.incarnation, part.size, RING_SLOTS)
        shard = self.shard = Shard(
            self.world.run,
            layout,
            self.index,
            self.incarnation,
            SGD(lr=1.0),
            plan.policy,
            plan.push_budget * part.nbytes,
            RingWriter(memory, part.size),
            segment,
            plan.journalled,
        )
        recovered, self._recovered = self._recovered, None
        if recovered is not None:
            state = recovered.state
            origin = (state.lineage[-1][0], state.version)
            if plan.journalled:
                self.world.journal_checks.restored(self.index, origin, state)
            shard.restore(state)
            self.world.push_checks.restored(self.index, shard, origin)
        if plan.journalled:
            opened = Opened(
                run=self.world.run,
                shard=self.index,
                incarnation=self.incarnation,
                layout=layout.to_bytes(),
                optimizer=shard.optimizer_settings,
                lineage=shard.lineage,
            )
            end = recovered.end if recovered else End()
            self._journal = SimJournal(self, self._disk, opened, end)
        self._addresses = tuple(f"{self.address}/{channel}" for channel in SHARD_CHANNELS)
        self.world.network.listen(self, *self._addresses)
        self._member.rejoin(now)

    # -- the loop ---------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        wake_at = self._member.next_deadline()
        if self.shard is not None:
            wake_at = min(wake_at, self.shard.next_deadline(now))
        return max(now, min(wake_at, now + LONGEST_SLEEP_S))

    def on_pass(self, now: float) -> None:
        self._receive_from_broker(now)
        if not self.alive:
            return
        shard = self.shard
        if shard is not None:
            self._receive_pushes(shard, now)
            self._receive_control(shard, now)
            if self._journal is not None and self._has_journal_news:
                self._has_journal_news = False
                self._perform(shard.on_durable(self._journal.durable))
            if self._drained:
                self._drained = False
                shard.on_drained(now)
            self._perform(shard.on_time(now, self._push_waiting()))
        while self._saved:
            self.world.network.send(self._broker, self._saved.popleft())
        due = self._member.on_time(now, lambda: self._report(now))
        if due is not None and not self.world.network.send(self._broker, due):
            self._member.not_sent(now)
        if self._push_waiting():
            self.wake(now)

    def _report(self, now: float) -> dict[str, object]:
        return {**self.shard.report(now), "saved": self._disk.saved()} if self.shard else {}

    @property
    def at_rest(self) -> bool:
        """True once the journal holds all that was decided."""
        return self._journal is None or (self._journal.is_idle and not self._has_journal_news)

    def on_journal_news(self) -> None:
        self._has_journal_news = True
        self.wake(self.world.schedule.now)

    def lose_disk(self) -> None:
        """A write failed: what cannot be written is not said, and the process ends."""
        self.world.note(self.name, "cannot write to its journal, and ends")
        self.world.counts["shards without their disk"] += 1
        self.end()

    def _push_waiting(self) -> bool:
        return bool(self.inbox["gradients"])

    def _receive_pushes(self, shard: Shard, now: float) -> None:
        inbox = self.inbox["gradients"]
        for _ in range(self.world.plan.pushes_per_pass):
            if not inbox:
                break
            _, push = inbox.popleft()
            assert isinstance(push, Push)
            before = shard.version
            effects = shard.on_push(push, now)
            self.world.push_checks.decided(self, push, before, shard.version)
            self._perform(effects)
        self._perform(shard.take_verdicts())

    def _receive_control(self, shard: Shard, now: float) -> None:
        inbox = self.inbox["control"]
        while inbox:
            peer, message = inbox.popleft()
            match message:
                case Attach():
                    slots = self.world.memory.slots(
                        message.segment, shard.part.size, message.window
                    )
                    effects = shard.on_attach(peer, message, SharedSlots(slots))
                    self._perform(effects)
                    self.world.push_checks.attached(self, message, effects)
                case Query():
                    self._perform(shard.on_query(peer, message, self._push_waiting()))
                case Fetch():
                    self._perform(shard.on_fetch(peer, message))
                case Detach():
                    shard.on_detach(message)
                case Seed():
                    self._on_seed(shard, peer, message, now)
                case _:
                    raise AssertionError(f"a {message.KIND} is not for a shard")

    def _on_seed(self, shard: Shard, peer: bytes, seed: Seed, now: float) -> None:
        was_ready = shard.ready
        effects = shard.on_seed(peer, seed)
        if shard.ready and not was_ready:
            self.world.push_checks.restored(self.index, shard, None)
        self._perform(effects)
        if shard.ready:
            self._member.renew_soon(now)

    def _receive_from_broker(self, now: float) -> None:
        received = self._broker.received
        while received:
            message = received.popleft()
            self._member.on_heard(now)
            match message:
                case Welcome():
                    self._run = message.run
                    self._member.on_welcome(message, now)
                    if self.shard is None and self._layout is not None:
                        self._open_shard(self._layout, now)
                case Directory():
                    self._on_directory(message, now)
                case Label():
                    if self.shard is not None:
                        self._on_label(self.shard, message, now)
                case Rejoin():
                    self._member.rejoin(now)
                case Renewed():
                    self._member.on_renewed(message, now)
                case Refused(reason="shard"):
                    self.world.member_checks.superseded(self, message)
                    self.end()
                    return
                case Refused():
                    self.world.member_checks.refused(self, message)
                case _:
                    raise AssertionError(f"a {message.KIND} is not for a shard")

    def _on_label(self, shard: Shard, label: Label, now: float) -> None:
        if label.contents_of is None:
            self._perform(shard.on_label(label))
            return
        contents = self._disk.checkpoint(label.contents_of)
        if contents is None:
            return  # the broker abandons the release
        before = shard.version
        effects = shard.on_label(label, contents, now)
        if shard.version != before:
            origin = (contents.lineage[-1][0], contents.version)
            self.world.push_checks.rolled_back(self, before, origin)
        self._perform(effects)

    def _on_directory(self, directory: Directory, now: float) -> None:
        self._member.on_directory(directory, now)
        if directory.payload and self._layout is None:
            self._layout = Layout.from_bytes(b"".join(directory.payload))
            self._open_shard(self._layout, now)
        self.directory = directory
        if self.shard is not None:
            self.shard.on_directory(directory, now)

    # -- effects ----------------------------------------------------------------------------------

    def _perform(self, effects: Iterable[Effect]) -> None:
        world = self.world
        for effect in effects:
            self.step("before an effect")
            match effect:
                case Reply():
                    world.counts[f"shard says {effect.message.KIND}"] += 1
                    if isinstance(effect.message, Publication):
                        world.view_checks.published(effect.message)
                    if self._journal is not None:
                        world.journal_checks.said(self, effect.message)
                    world.network.answer(effect.peer, effect.message)
                case Publish():
                    self._publish(effect)
                case TellBroker():
                    if self._journal is not None and isinstance(effect.message, Labelled):
                        world.journal_checks.labelled(self, effect.message.release)
                    world.network.send(self._broker, effect.message)
                case Save():
                    delay_s = world.random.expovariate(20.0)
                    world.schedule.after(delay_s, self.alone, partial(self._write, effect))
                case Append():
                    assert self._journal is not None
                    world.journal_checks.appended(self, effect)
                    self._journal.append(effect.position, effect.record)
                    self.step("after an append")
                case Quarantined():
                    raise AssertionError(f"{effect.name} sends good gradients: {effect.why}")

    def _publish(self, effect: Publish) -> None:
        network, schedule = self.world.network, self.world.schedule
        message = effect.message
        if isinstance(message, Beacon):
            network.publish(self, "beacons", message)
            return
        self.world.counts["publications"] += 1
        self.world.view_checks.published(message)
        if message.release is not None:
            if self._journal is not None:
                self.world.journal_checks.labelled(self, message.release)
            network.publish(self, "releases", message)
            return
        sent = replace(message, payload=tuple(bytes(part) for part in message.payload))
        taken_at = network.publish(self, "newest", sent)
        self._tracked += 1
        self._drained = False
        schedule.at(taken_at, self._on_taken, self._tracked, effect, sent)

    def _on_taken(self, tracked: int, effect: Publish, sent: Publication) -> None:
        """The last connection has read it from where it lies. Of several only the newest counts."""
        if not self.alive or self.shard is None:
            return
        assert isinstance(effect.message, Publication)
        self.world.view_checks.left_unchanged(effect.message, sent)
        if effect.slot is not None:
            self.shard.on_slot_free(effect.slot)
        if tracked == self._tracked:
            self._drained = True
            self.wake(self.world.schedule.now)

    def _write(self, save: Save) -> None:
        """In the thread that writes checkpoints."""
        error = ""
        if self._disk.owner != self.incarnation:
            error = "the disk belongs to a later life"
        else:
            self.world.counts["saves"] += 1
            self._disk.save(replace(save.state, rows=copied(save.state.rows)))
            self.step("checkpoint named")
            self._disk.forget()
        self._saved.append(Saved(release=save.release, shard=self.index, error=error))
        self.wake(self.world.schedule.now)
