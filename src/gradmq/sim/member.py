"""What a simulated worker and follower share: the loop of ``member_thread.py``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradmq.membership import Membership
from gradmq.replica import AskShard
from gradmq.sim.broker import BROKER_ADDRESS
from gradmq.sim.network import SHARD_CHANNELS, Connection
from gradmq.sim.process import Process
from gradmq.wire.messages import (
    Beacon,
    Directory,
    Hello,
    Message,
    Publication,
    Refused,
    Rejoin,
    Renewed,
    ShardEntry,
    Welcome,
)

if TYPE_CHECKING:
    from gradmq.sim.world import World

LONGEST_SLEEP_S = 0.5


@dataclass(slots=True)
class SimLink:
    """The connections to one shard."""

    entry: ShardEntry
    gradients: Connection
    stream: Connection
    control: Connection


class SimMember(Process):
    """A process that joins, and follows the shards wherever they are."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        world.processes += 1
        self.pid = 1000 + world.processes
        self.welcome: Welcome | None = None
        self.directory: Directory | None = None
        self.links: dict[int, SimLink] = {}
        self._unsent_asks: dict[int, AskShard] = {}
        self.member = Membership(self.hello)
        self.broker = world.network.connect(self, BROKER_ADDRESS, "broker")
        self.wake(world.schedule.now)

    @abstractmethod
    def hello(self) -> Hello: ...
    @abstractmethod
    def on_welcome(self, welcome: Welcome, now: float) -> None: ...
    @abstractmethod
    def on_directory(self, directory: Directory, now: float) -> None: ...
    @abstractmethod
    def on_name_taken(self, refused: Refused) -> None: ...
    @abstractmethod
    def on_stream(
        self, publications: Sequence[Publication], beacon: Beacon | None, now: float
    ) -> None: ...
    @abstractmethod
    def on_control(self, shard: int, message: Message, now: float) -> None: ...
    @abstractmethod
    def on_broker(self, message: Message, now: float) -> None: ...
    @abstractmethod
    def on_time(self, now: float) -> None: ...
    @abstractmethod
    def on_end_of_pass(self, now: float) -> None: ...
    @abstractmethod
    def wake_at(self) -> float: ...

    # -- the loop ---------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        wake_at = min(self.member.next_deadline(), self.wake_at(), now + LONGEST_SLEEP_S)
        return max(wake_at, now + 0.001)

    def on_pass(self, now: float) -> None:
        self._receive_from_broker(now)
        if not self.alive:
            return
        for shard, link in list(self.links.items()):
            if link.stream.received:
                self._receive_stream(link, now)
            received = link.control.received
            while received:
                self.on_control(shard, received.popleft(), now)
        due = self.member.on_time(now, dict)
        if due is not None and not self.world.network.send(self.broker, due):
            self.member.not_sent(now)
        for ask in list(self._unsent_asks.values()):
            self.ask(ask)
        self.on_time(now)
        self.on_end_of_pass(now)

    def _receive_from_broker(self, now: float) -> None:
        received = self.broker.received
        while received:
            message = received.popleft()
            self.member.on_heard(now)
            match message:
                case Welcome():
                    self.member.on_welcome(message, now)
                    self.welcome = message
                    self.on_welcome(message, now)
                case Directory():
                    self.member.on_directory(message, now)
                    self.directory = message
                    self._follow(message.shards)
                    self.on_directory(message, now)
                case Renewed():
                    self.member.on_renewed(message, now)
                    self.on_broker(message, now)
                case Rejoin():
                    self.member.rejoin(now)
                case Refused(reason="name"):
                    self.on_name_taken(message)
                    return
                case Refused():
                    self.world.member_checks.refused(self, message)
                case _:
                    self.on_broker(message, now)

    def _receive_stream(self, link: SimLink, now: float) -> None:
        publications: dict[int | None, Publication] = {}
        beacon: Beacon | None = None
        while link.stream.received:
            message = link.stream.received.popleft()
            if self.welcome is None:
                continue
            if isinstance(message, Beacon):
                beacon = message
            elif isinstance(message, Publication):
                publications[message.release] = message
        if publications or beacon is not None:
            self.on_stream(list(publications.values()), beacon, now)

    def _follow(self, entries: Sequence[ShardEntry]) -> None:
        for entry in entries:
            link = self.links.get(entry.index)
            if link is not None and link.entry.addresses == entry.addresses:
                link.entry = entry
                continue
            if link is not None:
                if entry.incarnation < link.entry.incarnation:
                    continue
                for connection in (link.gradients, link.stream, link.control):
                    self.world.network.close(connection)
            gradients, stream, control = (
                self.world.network.connect(self, address, channel)
                for address, channel in zip(entry.addresses, SHARD_CHANNELS, strict=True)
            )
            self.links[entry.index] = SimLink(entry, gradients, stream, control)

    def ask(self, ask: AskShard | None) -> None:
        if ask is None:
            return
        if self.tell_shard(ask.shard, ask.message):
            self.world.counts["fetches"] += 1
            self._unsent_asks.pop(ask.shard, None)
        else:
            self._unsent_asks[ask.shard] = ask

    def tell_shard(self, shard: int, message: Message) -> bool:
        self.step("before a message")
        link = self.links.get(shard)
        return link is not None and self.world.network.send(link.control, message)
