"""The network: connections as ZeroMQ makes them, and the weather that ZeroMQ would not allow.

A connection carries whole messages in order, each way. When it breaks, what is under way is lost,
silently, and it comes back after a while as a new one: a ROUTER then knows its peer by a new
identity. A PUB drops what is newest for a reader whose queue is full. Beyond that, rough weather
loses, doubles and reorders single messages on the control and gradient channels, and holds some
back so long that they outlive their connection.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from random import Random
from typing import Literal

from gradmq.sim.plan import Weather
from gradmq.sim.process import Process
from gradmq.sim.schedule import Schedule
from gradmq.sim.trace import Trace, describe
from gradmq.wire.messages import Message

Channel = Literal["broker", "control", "gradients", "stream"]

#: Of a shard, in the order of its addresses.
SHARD_CHANNELS: tuple[Channel, ...] = ("gradients", "stream", "control")

#: The weather's channels; broker and stream have only what ZeroMQ does.
ROUGH: frozenset[Channel] = frozenset({"control", "gradients"})

#: Publications that wait for a reader that does not read; more are dropped.
STREAM_QUEUE = 4

#: A message held back by the weather comes at most this much later.
HELD_AT_MOST_S = 2.0


class Connection:
    """One socket of a client, and the connection behind it while there is one."""

    def __init__(self, client: Process, address: str, channel: Channel) -> None:
        self.client = client
        self.address = address
        self.channel = channel
        self.server: Process | None = None
        self.peer = b""
        """The identity under which the server knows this connection."""
        self.closed = False
        self.life = 0
        """Messages of an earlier life of this connection are lost."""
        self.received: deque[Message] = deque()
        self.is_black_hole = {True: False, False: False}
        """To the server and back: broken, and the ends do not know it yet."""
        self.blocked_until = {True: 0.0, False: 0.0}
        """To the server and back: what is sent waits until then."""
        self.stalled_until = 0.0
        self.queued = 0
        self.arrival = {True: 0.0, False: 0.0}
        """Of the last message, to the server and back: order is kept."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing comes through between a process and another one, or all others, for a while."""

    process: Process
    other: Process | None
    until: float

    def parts(self, a: Process, b: Process) -> bool:
        pair = (a, b)
        return self.process in pair and (self.other is None or self.other in pair)


class Network:
    """All connections of a schedule."""

    def __init__(
        self,
        schedule: Schedule,
        random: Random,
        weather: Weather,
        trace: Trace | None,
        counts: Counter[str],
    ) -> None:
        self.weather = weather
        self.connections: list[Connection] = []
        self._schedule = schedule
        self._random = random
        self._trace = trace
        self._counts = counts
        self._listening: dict[str, Process] = {}
        self._peers: dict[bytes, Connection] = {}
        self._identities = 0
        self._cuts: list[Cut] = []

    # -- connections ------------------------------------------------------------------------------

    def listen(self, server: Process, *addresses: str) -> None:
        for address in addresses:
            self._listening[address] = server

    def connect(self, client: Process, address: str, channel: Channel) -> Connection:
        """A socket that connects, and connects again whenever it must."""
        connection = Connection(client, address, channel)
        self.connections.append(connection)
        self._schedule.after(self._latency_s(), self._try, connection, connection.life)
        return connection

    def _try(self, connection: Connection, life: int) -> None:
        if connection.closed or life != connection.life:
            return
        server = self._listening.get(connection.address)
        cut = server and self._cut_between(connection.client, server)
        if cut:
            self._schedule.at(cut.until + 0.01, self._try, connection, life)
            return
        if server is None:
            self._schedule.after(self._random.uniform(0.05, 0.4), self._try, connection, life)
            return
        self._identities += 1
        connection.server = server
        connection.peer = b"peer-%d" % self._identities
        self._peers[connection.peer] = connection
        connection.client.wake(self._schedule.now)

    def break_connection(self, connection: Connection, away_s: float) -> None:
        """Everything under way is lost; the connection comes back after ``away_s``.

        Half of the breaks are not noticed before then: what is sent meanwhile vanishes.
        """
        self._counts["broken connections"] += 1
        connection.life += 1
        if connection.server is not None and self._random.random() < 0.5:
            connection.is_black_hole = {True: True, False: True}
            self._schedule.after(away_s, self._notice, connection, connection.life)
            return
        self._disconnect(connection)
        self._schedule.after(away_s, self._try, connection, connection.life)

    def cut(self, cut: Cut, hears: bool, is_heard: bool, loses: bool) -> None:
        """One way or both, what is sent waits for the end of the cut, or is lost with the link."""
        self._cuts.append(cut)
        lasts_s = cut.until - self._schedule.now
        for connection in self.connections:
            server = connection.server
            if server is None or not cut.parts(connection.client, server):
                continue
            is_server = server is cut.process
            for to_server in (True, False):
                if hears if to_server == is_server else is_heard:
                    continue
                if loses:
                    connection.is_black_hole[to_server] = True
                else:
                    connection.blocked_until[to_server] = cut.until
            if loses:
                self._schedule.after(lasts_s, self._lose, connection, connection.life)

    def _lose(self, connection: Connection, life: int) -> None:
        if life == connection.life:
            connection.life += 1
            self._notice(connection, connection.life)

    def _cut_between(self, a: Process, b: Process) -> Cut | None:
        self._cuts = [cut for cut in self._cuts if cut.until > self._schedule.now]
        return next((cut for cut in self._cuts if cut.parts(a, b)), None)

    def _notice(self, connection: Connection, life: int) -> None:
        if life == connection.life:
            self._disconnect(connection)
            self._try(connection, life)

    def _disconnect(self, connection: Connection) -> None:
        self._peers.pop(connection.peer, None)
        connection.server = None
        connection.peer = b""
        connection.is_black_hole = {True: False, False: False}
        connection.blocked_until = {True: 0.0, False: 0.0}

    def close(self, connection: Connection) -> None:
        connection.closed = True
        connection.life += 1
        self._disconnect(connection)
        self.connections.remove(connection)

    def end(self, process: Process) -> None:
        """A process is gone: with it its sockets, and all that was under way to or from them."""
        for connection in [c for c in self.connections if c.client is process]:
            self.close(connection)
        for address in [a for a, server in self._listening.items() if server is process]:
            del self._listening[address]
        for connection in self.connections:
            if connection.server is process:
                connection.life += 1
                self._disconnect(connection)
                again_s = self._random.uniform(0.02, 0.5)
                self._schedule.after(again_s, self._try, connection, connection.life)

    # -- messages ---------------------------------------------------------------------------------

    def send(self, connection: Connection, message: Message) -> bool:
        """Client to server; False if the socket cannot take it."""
        if connection.server is None:
            return False
        self._transmit(connection, True, message)
        return True

    def answer(self, peer: bytes, message: Message) -> bool:
        """Server to client by identity, as a ROUTER does; False if that peer is not there."""
        connection = self._peers.get(peer)
        if connection is None:
            self._counts["answers to nobody"] += 1
            return False
        self._transmit(connection, False, message)
        return True

    def publish(self, server: Process, topic: str, message: Message) -> float:
        """To every subscriber; returns when the last healthy one has taken it."""
        taken_at = self._schedule.now
        for connection in self.connections:
            if connection.server is not server or connection.channel != "stream":
                continue
            if topic not in connection.client.topics:
                continue
            stalled = connection.stalled_until > self._schedule.now
            waiting = len(connection.received) + (connection.queued if stalled else 0)
            if waiting >= STREAM_QUEUE:
                self._counts["dropped by a full queue"] += 1
                if self._trace:
                    self._trace.note(
                        str(connection.client), f"queue full: lost {topic} of {server}"
                    )
                continue
            connection.queued += 1
            taken_at = max(taken_at, self._transmit(connection, False, message))
        return taken_at

    def _transmit(self, connection: Connection, to_server: bool, message: Message) -> float:
        """Plan the arrival; returns its time."""
        if connection.is_black_hole[to_server]:
            self._counts["lost with a connection"] += 1
            if connection.channel == "stream":
                connection.queued -= 1
            return self._schedule.now
        rough, weather, random = connection.channel in ROUGH, self.weather, self._random
        self._counts["messages"] += 1
        if rough and weather.loss and random.random() < weather.loss:
            self._counts["lost by the weather"] += 1
            if self._trace:
                self._trace.note(str(connection.client), f"the weather took {describe(message)}")
            return self._schedule.now
        if rough and weather.duplication and random.random() < weather.duplication:
            self._counts["doubled by the weather"] += 1
            self._plan(connection, to_server, message, self._late(), held=True)
        if rough and weather.reordering and random.random() < weather.reordering:
            self._counts["reordered by the weather"] += 1
            return self._plan(connection, to_server, message, self._late(), held=True)
        blocked_until = max(connection.stalled_until, connection.blocked_until[to_server])
        at = max(self._schedule.now, blocked_until) + self._latency_s()
        at = max(at, connection.arrival[to_server])
        connection.arrival[to_server] = at
        return self._plan(connection, to_server, message, at, held=False)

    def _plan(
        self, connection: Connection, to_server: bool, message: Message, at: float, held: bool
    ) -> float:
        life = connection.life
        self._schedule.at(at, self._arrive, connection, to_server, message, life, held)
        return at

    def _arrive(
        self, connection: Connection, to_server: bool, message: Message, life: int, held: bool
    ) -> None:
        now = self._schedule.now
        if connection.channel == "stream":
            connection.queued -= 1
        if connection.closed or (life != connection.life and not held):
            self._counts["lost with a connection"] += 1
            return
        if self._trace:
            ends = connection.client, connection.server
            sender, receiver = ends if to_server else ends[::-1]
            self._trace.arrives(sender, receiver, message, held)
        if not to_server:
            connection.received.append(message)
            connection.client.wake(now)
        elif connection.server is not None and not connection.is_black_hole[True]:
            connection.server.inbox[connection.channel].append((connection.peer, message))
            connection.server.wake(now)

    def _latency_s(self) -> float:
        return self._random.expovariate(1.0) * self.weather.latency_s + 0.0001

    def _late(self) -> float:
        often_short = self._random.random() ** 3
        return self._schedule.now + self._latency_s() + HELD_AT_MOST_S * often_short
