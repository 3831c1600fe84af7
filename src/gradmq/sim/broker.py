"""The simulated broker: the loop of ``broker/node.py`` around the production directory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gradmq.broker.directory import Member, Members
from gradmq.broker.releases import AnswerRelease, Begin, Close, ReleaseEffect, Releases
from gradmq.sim.process import Process
from gradmq.wire.messages import (
    AskRelease,
    Directory,
    Goodbye,
    Hello,
    Labelled,
    Message,
    Refused,
    Renew,
    Renewed,
    Saved,
)

if TYPE_CHECKING:
    from gradmq.sim.world import World

BROKER_ADDRESS = "broker"
TICK_S = 0.05

#: The connection of whoever takes the run back to an older release.
OPERATOR = b"operator"


class SimBroker(Process):
    """One life of the broker; the next one remembers nothing but its incarnation."""

    def __init__(self, world: World, incarnation: int) -> None:
        super().__init__(world, f"broker.{incarnation}")
        plan = world.plan
        now = self.clock.shows(world.schedule.now)
        self.members = Members(world.run, plan.shards, incarnation, {}, now)
        self.releases = Releases(plan.shards, plan.release_every_s, plan.save_every_s)
        self.releases.on_known(world.newest_release)
        self._shards_seen: dict[int, int] = {}
        """The newest incarnation of each shard that this broker has told of."""
        world.network.listen(self, BROKER_ADDRESS)
        self.wake(world.schedule.now)

    def on_pass(self, now: float) -> None:
        inbox = self.inbox["broker"]
        while inbox:
            peer, message = inbox.popleft()
            self._on_message(peer, message, now)
        self._tell_members(now)
        open_for_releases = self.members.phase != "waiting"
        versions = self.members.versions() if open_for_releases else None
        self._perform(self.releases.on_time(now, versions, any(self.members.followers())))

    def next_deadline(self, now: float) -> float:
        return now + TICK_S

    def _on_message(self, peer: bytes, message: Message, now: float) -> None:
        match message:
            case Renew():
                self._on_renew(peer, message, now)
            case Hello():
                self._on_hello(peer, message, now)
            case Labelled():
                self._perform(self.releases.on_labelled(message, now))
            case Saved():
                self._perform(self.releases.on_saved(message))
            case AskRelease():
                self._ask(peer, message)
            case Goodbye():
                self.members.on_goodbye(peer)
            case _:
                raise AssertionError(f"a {message.KIND} is not for the broker")

    def _ask(self, peer: bytes, ask: AskRelease) -> None:
        on_disk = self.members.saved_releases()
        self._perform(self.releases.on_ask(peer, ask.save, ask.contents_of, on_disk))

    def roll_back(self, release: int) -> None:
        """Somebody asks for the contents of this one, on a connection of their own."""
        self.inbox["broker"].append((OPERATOR, AskRelease(save=False, contents_of=release)))
        self.wake(self.world.schedule.now)

    def _on_hello(self, peer: bytes, hello: Hello, now: float) -> None:
        shards_before = {m.shard: m.incarnation for m in self.members.shard_members()}
        answers = self.members.on_hello(peer, hello, now)
        self.releases.on_known(self.members.newest_known_release)
        for answer in answers:
            if isinstance(answer.message, Refused):
                self.world.note(self.name, f"refuses {hello.name!r}: {answer.message.text}")
            self._send(answer.peer, answer.message)
        self._tell_members(now)
        member = self.members.members.get(peer)
        if member is not None and member.shard is not None:
            if member.incarnation < self.world.shards[member.shard].incarnation:
                self.world.counts["superseded shards taken in"] += 1  # it knows of no other yet
            if member.incarnation != shards_before.get(member.shard):
                self.releases.on_new_life(member.shard)
        elif self.releases.manifest is not None and self._follows(peer):
            self._send(peer, self.releases.manifest)

    def _follows(self, peer: bytes) -> bool:
        return any(member.peer == peer for member in self.members.followers())

    def _on_renew(self, peer: bytes, renew: Renew, now: float) -> None:
        rejoin = self.members.on_renew(peer, renew.report, now)
        if rejoin is not None:
            self._send(rejoin.peer, rejoin.message)
            return
        manifest = self.releases.manifest if self._follows(peer) else None
        self._send(peer, Renewed(serial=self.members.serial, manifest=manifest))

    def _tell_members(self, now: float) -> None:
        for tell in self.members.on_time(now):
            if isinstance(tell.message, Directory):
                self.world.member_checks.told(self._shards_seen, tell.message)
            self._send(tell.peer, tell.message)

    def _perform(self, effects: Iterable[ReleaseEffect]) -> None:
        for effect in effects:
            match effect:
                case Begin():
                    self.world.counts["releases begun"] += 1
                    self.world.newest_release = effect.label.release
                    self._send_all(self.members.shard_members(), effect.label)
                case Close():
                    self.world.counts["releases closed"] += 1
                    self.world.view_checks.closed(effect.manifest)
                    self._send_all(self.members.followers(), effect.manifest)
                case AnswerRelease():
                    if effect.peer == OPERATOR:
                        self.world.counts["rollbacks answered"] += 1
                        continue
                    self._send(effect.peer, effect.message)

    def _send_all(self, members: Iterable[Member], message: Message) -> None:
        for member in members:
            self._send(member.peer, message)

    def _send(self, peer: bytes, message: Message) -> None:
        self.step("before a message")
        self.world.network.answer(peer, message)
