"""The thread ``gradmq-io``: every socket of a worker or follower that lives in somebody's program.

It joins the broker, connects to the shards the directory names, and hands each message to the
subclass. The program's own thread shares the pure objects with it under ``lock`` and never touches
a socket; ``lock`` is notified whenever something may have changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import zmq

from gradmq import link
from gradmq.errors import (
    Closed,
    Fenced,
    GradmqError,
    JoinRefused,
    LayoutMismatch,
    RemoteProtocolError,
)
from gradmq.layout import Layout
from gradmq.membership import Membership
from gradmq.replica import AskShard
from gradmq.security.keys import Identity
from gradmq.wire.codec import joined
from gradmq.wire.messages import (
    Beacon,
    Directory,
    Goodbye,
    Hello,
    Message,
    Publication,
    Refused,
    Rejoin,
    Renew,
    Renewed,
    Welcome,
)

log = logging.getLogger(__name__)

#: The loop looks at its clocks at least this often; who waits for it, at signals.
LONGEST_SLEEP_S = 0.5

#: A thread whose owner was dropped, or whose program ends, is waited for no longer than this.
DROPPED_S = 1.0

#: What is queued at the end has this long to leave.
FAREWELL_MS = 500


class MemberThread(threading.Thread):
    """Owns a member's sockets from ``start`` to ``stop``; subclasses say what messages mean."""

    def __init__(
        self,
        broker: str,
        topics: Sequence[bytes],
        with_gradients: bool,
        report: Callable[[], Mapping[str, Any]],
        identity: Identity | None = None,
    ) -> None:
        super().__init__(name="gradmq-io", daemon=True)
        self.identity = identity
        self.lock = threading.Condition()
        self.error: GradmqError | None = None
        self.welcome: Welcome | None = None
        self.directory: Directory | None = None
        self.layout: Layout | None = None
        self.broker_address = link.check_address(broker)
        self.member = Membership(self.hello)
        self._topics = topics
        self._with_gradients = with_gradients
        self._report = weakref.WeakMethod(report)
        self._outgoing: list[Message] = []
        self._unsent_asks: dict[int, AskShard] = {}
        """By shard: its connection is not up yet, or takes nothing now."""
        self._stopping = False
        self._awake = False
        """Somebody has woken the loop, and it has not looked yet."""

    # -- what a subclass adds; called in this thread with ``lock`` held ----------------------------

    @abstractmethod
    def hello(self) -> Hello:
        """What this member says of itself."""

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        """The broker took the member in; again after a rejoin."""

    def on_directory(self, directory: Directory, now: float) -> None:
        """The directory has changed; the connections follow it already."""

    @abstractmethod
    def on_stream(self, publications: Sequence[Publication], beacon: Beacon | None) -> None:
        """What one shard's stream brought: checked publications in order, then the last beacon."""

    @abstractmethod
    def on_control(self, shard: int, message: Message) -> None:
        """An answer of a shard; publications in it are checked."""

    def on_broker(self, message: Message) -> None:
        """A message of the broker that is not about membership."""
        log.warning("a %s of the broker was ignored", message.KIND)

    def on_time(self, now: float) -> None:
        """At the end of every pass."""

    def on_leave(self) -> None:
        """Say goodbye to the shards."""

    def wake_at(self) -> float:
        """When ``on_time`` must be called next, at the latest."""
        return float("inf")

    def wants_to_push(self, shard: int) -> bool:
        """True if a push waits for this shard's socket."""
        return False

    def send_pushes(self) -> None:
        """Hand waiting pushes to the sockets; called without the lock."""

    # -- for the program's thread -----------------------------------------------------------------

    def start_for(self, owner: object) -> None:
        """Begin to join; nothing is opened before.

        The thread keeps neither ``owner`` nor the model in it alive: it stops when the owner is
        dropped or the program ends, if ``stop`` was not called before.
        """
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._dropped = weakref.finalize(owner, self._on_dropped, os.getpid())
        self.start()

    def _on_dropped(self, owner_pid: int) -> None:
        if os.getpid() == owner_pid:
            self.stop(DROPPED_S)

    def wake(self) -> None:
        """There is something to send."""
        if not self._awake:
            self._awake = True
            with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
                self._wake_write.send(b"w")

    def tell_broker(self, message: Message) -> None:
        """Send this to the broker, soon; needs ``lock``."""
        self._outgoing.append(message)
        self.wake()

    def stop(self, timeout_s: float) -> None:
        """Leave the run and close every socket; waits for the thread."""
        self._dropped.detach()
        self._stopping = True
        if threading.current_thread() is not self:  # else: dropped while asked for its report
            self.wake()
            self.join(timeout_s)
        self._wake_read.close()
        self._wake_write.close()

    def wait_for(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait, with ``lock`` held, until ``ready`` or the deadline; raises ``error``.

        Wakes now and then: a Ctrl-C that the system gave to another thread is heard here.
        """
        deadline = time.monotonic() + timeout_s
        while not self.lock.wait_for(
            lambda: self.error is not None or ready(),
            max(0.0, min(deadline - time.monotonic(), LONGEST_SLEEP_S)),
        ):
            if time.monotonic() >= deadline:
                break
        if self.error is not None:
            raise self.error
        return ready()

    @property
    def draining(self) -> bool:
        """True once the run asks its workers to finish."""
        return self.directory is not None and self.directory.phase == "draining"

    def waiting_to_join(self) -> str:
        """For whom this member waits before it has a layout; "" once it has."""
        if self.layout is not None:
            return ""
        if self.member.joined and self.directory and self.directory.phase == "waiting":
            return "the run to get its initial parameters"
        return self.member.waiting_for(time.monotonic()) or "the layout"

    # -- the thread -------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            with link.new_context() as context:
                self._serve(context)
        except GradmqError as error:
            self._fail(error)
        except Exception as error:
            log.exception("the connection ended")
            self._fail(Closed(f"the connection ended: {error!r}"))

    def _fail(self, error: GradmqError) -> None:
        with self.lock:
            self.error = error
            self.lock.notify_all()

    def _serve(self, context: zmq.Context[link.Socket]) -> None:
        with (
            link.broker(context, self.broker_address, self.identity) as broker,
            link.ShardLinks(context, self._topics, self._with_gradients, self.identity) as links,
        ):
            self.broker, self.links = broker, links
            self._poller = zmq.Poller()
            self._poller.register(self._wake_read, zmq.POLLIN)
            self._poller.register(self.broker, zmq.POLLIN)
            self._polled: dict[link.Socket, int] = {}
            while not self._stopping:
                ready = self._poll()
                self.send_pushes()
                if ready:
                    with self.lock:
                        self._receive(ready)
                # The program's thread, if it was waiting for this, goes on meanwhile.
                with self.lock:
                    self._on_time(time.monotonic())
            with self.lock:
                last_words = self._reported()
                self.on_leave()
            if last_words:  # what the status shows of a member that has left
                link.send(broker, Renew(report=last_words))
            for shard_link in links.by_shard.values():
                shard_link.control.setsockopt(zmq.LINGER, FAREWELL_MS)
            link.send(broker, Goodbye())
            broker.setsockopt(zmq.LINGER, FAREWELL_MS)

    def _receive(self, ready: Collection[object]) -> None:
        """Hear what the ready sockets have."""
        for shard, shard_link in list(self.links.by_shard.items()):
            if shard_link.stream in ready:
                self._receive_stream(shard)
            if shard_link.control in ready:
                self._receive_control(shard)
        if self.broker in ready:
            self._receive_from_broker()

    def _poll(self) -> Collection[object]:
        """Wait until a socket is ready, somebody wakes the loop, or a deadline is near."""
        with self.lock:
            self._register({s: e for s, e in self._wanted_events() if e})
            wake_at = min(self.member.next_deadline(), self.wake_at())
        sleep_s = max(0.0, min(wake_at - time.monotonic(), LONGEST_SLEEP_S))
        ready = dict(self._poller.poll(int(1000 * sleep_s) + 1))
        if ready:
            # Read before the flag falls: whoever wakes the loop after that is heard again.
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
        self._awake = False
        return ready

    def _wanted_events(self) -> Iterator[tuple[link.Socket, int]]:
        for shard, shard_link in self.links.by_shard.items():
            yield shard_link.stream, zmq.POLLIN
            yield shard_link.control, zmq.POLLIN | (zmq.POLLOUT * (shard in self._unsent_asks))
            if shard_link.gradients is not None:
                yield shard_link.gradients, zmq.POLLOUT * self.wants_to_push(shard)

    def _register(self, wanted: dict[link.Socket, int]) -> None:
        """Tell the poller what has changed since the last pass: mostly nothing."""
        if wanted == self._polled:
            return
        for socket in self._polled.keys() - wanted.keys():
            self._poller.unregister(socket)
        for socket, events in wanted.items():
            self._poller.register(socket, events)
        self._polled = wanted

    def _receive_from_broker(self) -> None:
        while (message := link.receive_good(self.broker, from_broker=True)) is not None:
            now = time.monotonic()
            self.member.on_heard(now)
            match message:
                case Welcome():
                    self.member.on_welcome(message, now)
                    self.welcome = message
                    self.on_welcome(message, now)
                case Directory():
                    self.member.on_directory(message, now)
                    self.directory = message
                    self.links.follow(message.shards, message.phase != "waiting")
                    self.on_directory(message, now)
                case Renewed():
                    self.member.on_renewed(message, now)
                    self.on_broker(message)
                case Rejoin():
                    self.member.rejoin(now)
                case Refused(reason="name"):
                    raise Fenced(message.text)
                case Refused(reason="layout"):
                    raise LayoutMismatch(f"broker {self.broker_address}: {message.text}")
                case Refused(reason="wire") if self.member.joined:
                    log.warning("the broker could not read a message: %s", message.text)
                case Refused():
                    raise JoinRefused(f"broker {self.broker_address}: {message.text}")
                case _:
                    self.on_broker(message)
            self.lock.notify_all()

    def _receive_stream(self, shard: int) -> None:
        publications: dict[int | None, Publication] = {}
        beacon: Beacon | None = None
        stream = self.links.by_shard[shard].stream
        while (message := link.receive_good(stream, prefixes=1)) is not None:
            if not self._is_ours(message, shard):
                continue
            if isinstance(message, Beacon):
                beacon = message
            elif isinstance(message, Publication):
                # Of several of one topic only the last is worth checking and copying.
                publications[message.release] = message
        checked = [p for p in map(self._valid, publications.values()) if p is not None]
        if checked or beacon is not None:
            self.on_stream(checked, beacon)
            self.lock.notify_all()

    def _receive_control(self, shard: int) -> None:
        control = self.links.by_shard[shard].control
        while (message := link.receive_good(control)) is not None:
            checked: Message | None = message
            if isinstance(message, Publication):
                checked = self._valid(message) if self._is_ours(message, shard) else None
            if checked is not None:
                self.on_control(shard, checked)
                self.lock.notify_all()

    def _is_ours(self, message: Message, shard: int) -> bool:
        return (
            isinstance(message, Publication | Beacon)
            and self.welcome is not None
            and self.layout is not None
            and message.run == self.welcome.run
            and message.shard == shard
        )

    def checked(self, publication: Publication, size: int) -> Publication:
        """The same with its payload checked; raises RemoteProtocolError."""
        return joined(publication, size)

    def _valid(self, publication: Publication) -> Publication | None:
        assert self.layout is not None
        try:
            return self.checked(publication, self.layout.parts[publication.shard].size)
        except RemoteProtocolError as error:
            log.warning("ignored a publication of shard %d: %s", publication.shard, error)
            return None

    def _on_time(self, now: float) -> None:
        news = self.member.news(self.broker_address, now)
        if news:
            log.warning("%s", news)
        due = self.member.on_time(now, self._reported)
        if due is not None and not link.send(self.broker, due):
            self.member.not_sent(now)
        if self.member.joined:
            self._outgoing = [m for m in self._outgoing if not link.send(self.broker, m)]
        for ask in list(self._unsent_asks.values()):
            self.ask(ask)
        self.on_time(now)

    def _reported(self) -> dict[str, Any]:
        report = self._report()  # None: the owner was dropped, and this thread is about to end
        return {} if report is None else dict(report())

    def ask(self, ask: AskShard | None) -> None:
        """Perform a replica's effect: at once, or as soon as the shard's connection is up.

        The replica repeats what was not answered only after seconds; it cannot know that a request
        never left.
        """
        if ask is None:
            return
        if self.tell_shard(ask.shard, ask.message):
            self._unsent_asks.pop(ask.shard, None)
        else:
            self._unsent_asks[ask.shard] = ask

    def tell_shard(self, shard: int, message: Message) -> bool:
        """Send on a shard's control socket; False if the shard is not there."""
        shard_link = self.links.by_shard.get(shard)
        return shard_link is not None and link.send(shard_link.control, message)
