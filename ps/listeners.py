"""The three sockets of a shard that others connect to: who is heard there, and what is leaving."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack

import zmq

from gradmq import link
from gradmq.memory_guard import MemoryGuard
from gradmq.ps.effects import Publish
from gradmq.ps.guard import ShardGuard
from gradmq.ps.shard import Shard
from gradmq.security.access import Access
from gradmq.security.gate import Gate
from gradmq.security.keys import Identity
from gradmq.wire.messages import Beacon, Directory, Message, Refused

log = logging.getLogger(__name__)

#: What a shard may hold beside the pushes' budget: so many times its parameters (the ring, the
#: optimizer's state, releases, publications under way, a checkpoint being written), and this much.
TIMES_ITS_SIZE, BESIDE_BYTES = 16, 256 << 20

#: Requests, and subscriptions, heard in one pass.
CONTROL_PER_PASS = SUBSCRIPTIONS_PER_PASS = 256


class Listeners:
    """Gradients in, parameters out, control; for one thread."""

    def __init__(
        self,
        context: zmq.Context[link.Socket],
        poller: zmq.Poller,
        shard: Shard,
        identity: Identity | None,
        push_budget_bytes: int,
    ) -> None:
        self._context = context
        self._poller = poller
        self._shard = shard
        self._identity = identity
        self._guard: ShardGuard | None = None
        part = shard.part
        self.memory = MemoryGuard(push_budget_bytes + TIMES_ITS_SIZE * part.nbytes + BESIDE_BYTES)
        self._host = ""
        self.ports: Sequence[int] = ()
        self._leaving: list[tuple[int | None, zmq.MessageTracker]] = []
        """Publications that some connection has not taken yet, oldest first, and their slots."""

    def listen(self, stack: ExitStack, host: str, ports: Iterable[int]) -> None:
        """Bind, 0 to any free port, and listen until the stack closes.

        Raises SettingsError; with an identity, also if a stranger would get in.
        """
        stack.enter_context(self.memory)
        if self._identity is not None:
            gate = stack.enter_context(Gate(self._context, Access()))  # for nobody, as yet
            self._guard = ShardGuard(gate, self._identity)
        self._open = stack.enter_context(ExitStack())
        self._host = host
        self.ports = self._bind(ports, link.bind)
        if self._guard is not None:
            self._guard.prove_closed(*self.sockets)
        link.say_if_open(host, self._guard is not None)

    def _bind(
        self, ports: Iterable[int], bind: Callable[[link.Socket, str, int], int]
    ) -> Sequence[int]:
        context, identity = self._context, self._identity
        nbytes = self._shard.part.nbytes
        self.gradients = self._open.enter_context(link.pull(context, identity))
        self.parameters = self._open.enter_context(link.publisher(context, nbytes, identity))
        self.control = self._open.enter_context(link.router(context, identity))
        self._shard.on_readers(False)
        bound = [
            bind(socket, self._host, port) for socket, port in zip(self.sockets, ports, strict=True)
        ]
        for socket in self.sockets:
            self._poller.register(socket, zmq.POLLIN)
        return bound

    @property
    def sockets(self) -> tuple[link.Socket, link.Socket, link.Socket]:
        """Of gradients, parameters and control."""
        return self.gradients, self.parameters, self.control

    @property
    def push_waiting(self) -> bool:
        """True if a push can be read now."""
        events = self.gradients.getsockopt(zmq.EVENTS)
        return bool(isinstance(events, int) and events & zmq.POLLIN)

    def on_directory(self, directory: Directory) -> None:
        """The broker says who may be heard; raises SettingsError if that cannot be kept."""
        if self._guard is not None:
            self._guard.on_directory(directory, self.sockets)

    def receive_push(self) -> Message | None:
        """The next message of the gradient socket that may be heard; None: there is none now."""
        if self._guard is None:
            return link.receive_good(self.gradients)
        return self._guard.receive_push(self.gradients, self._shard)

    def requests(self) -> Iterator[tuple[bytes, Message]]:
        """What has come over the control socket and may be heard, each with its peer."""
        for _ in range(CONTROL_PER_PASS):
            try:
                received = link.receive(self.control, prefixes=1, sender=self._guard is not None)
            except link.BadMessage as error:
                log.warning("refused a message: %s", error)
                if error.prefix:
                    self._refuse(error.prefix[0], Refused(reason="wire", text=str(error)))
                continue
            if received is None:
                return
            (peer, *sender), message = received
            refusal = self._guard.refusal(self._shard, sender, message) if self._guard else ""
            if refusal:
                log.warning("refused: %s", refusal)
                self._refuse(peer, Refused(reason="role", text=refusal))
            else:
                yield peer, message

    def _refuse(self, peer: bytes, refused: Refused) -> None:
        link.send(self.control, refused, prefix=[peer])

    def drop_if_too_much(self) -> None:
        """If somebody makes this process hold too much, everybody connects anew.

        Nothing is lost that the protocol does not repeat: workers ask after their pushes, and
        readers are told by beacons what they missed.
        """
        if not self.memory.is_too_much():
            return
        log.error("%s: drops all connections", self.memory.trouble())
        for socket in self.sockets:
            self._poller.unregister(socket)
        self._open.close()
        if not self.memory.recover():
            log.error("that did not help; it may hold more from now on")
        self.ports = self._bind(self.ports, link.bind_again)

    def hear_subscriptions(self) -> None:
        """Publications of newest versions are made only while somebody subscribes to them."""
        for _ in range(SUBSCRIPTIONS_PER_PASS):
            change = link.receive_subscription(self.parameters)
            if change is None:
                return
            topic, present = change
            if topic == link.TOPIC_NEWEST:
                self._shard.on_readers(present)
            if present:
                self._shard.on_subscriber()

    @property
    def leaving(self) -> int:
        """Publications of newest versions that some reader's connection has not taken."""
        return len(self._leaving)

    def publish(self, effect: Publish) -> None:
        """To all who subscribe to what it is."""
        message = effect.message
        if isinstance(message, Beacon):
            link.send(self.parameters, message, prefix=[link.TOPIC_BEACONS])
        elif message.release is not None:
            link.send(self.parameters, message, prefix=[link.TOPIC_RELEASES])
        else:
            tracker = link.send_tracked(self.parameters, link.TOPIC_NEWEST, message)
            self._leaving.append((effect.slot, tracker))

    def look_at_leaving(self, now: float) -> None:
        """Tell the shard what has left."""
        if not self._leaving:
            return
        newest = self._leaving[-1][1]
        for slot, tracker in [sent for sent in self._leaving if sent[1].done]:
            self._leaving.remove((slot, tracker))
            if slot is not None:
                self._shard.on_slot_free(slot)
            if tracker is newest:
                self._shard.on_drained(now)

    def count_undecided(self, at_most: int, last_look_ms: int) -> int:
        """How many pushes have come that nobody will decide, up to a number."""
        undecided = 0
        while undecided < at_most and self.gradients.poll(last_look_ms):
            undecided += link.receive_good(self.gradients) is not None
        return undecided
