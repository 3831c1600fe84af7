"""Sockets: every option that gradmq sets, in one place, with its reason.

A socket is made, used and closed by one thread. Waits go through ``zmq.Poller``; a send never
blocks, and what cannot be sent now is the caller's to keep or to drop.
"""

from __future__ import annotations

import ipaddress
import logging
import socket as sockets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import zmq

from gradmq.errors import JoinRefused, RemoteProtocolError, SettingsError, WireVersionMismatch
from gradmq.security.access import Domain
from gradmq.security.keys import Identity
from gradmq.wire.codec import PART_BYTES, decode, encode
from gradmq.wire.messages import Buffer, Message, Publication, ShardEntry

Socket = zmq.Socket[bytes]

log = logging.getLogger(__name__)

TOPIC_NEWEST = b"p/"
TOPIC_RELEASES = b"r/"
TOPIC_BEACONS = b"b/"

#: Queued publications per reader that does not keep up: at least four, and small ones up to this.
PUBLICATION_QUEUE_BYTES = 32 << 20

#: libzmq closes a listener within milliseconds; somebody else may take the port meanwhile.
BIND_AGAIN_S = 2.0

#: Addresses to listen at that nobody can connect to.
EVERYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104  (recognized, not bound)


def new_context() -> zmq.Context[Socket]:
    """A context for as many sockets as libzmq can have: a worker has three per shard."""
    context: zmq.Context[Socket] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    return context


def _common(socket: Socket) -> Socket:
    # What is still queued at close was drained before, or nobody waits for it.
    socket.setsockopt(zmq.LINGER, 0)
    # A frame is a header or a part; a longer one is refused before it is allocated.
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * PART_BYTES)
    # A host that vanished is noticed after about 25 s idle, 15 s with data under way: these also
    # end readers that stopped reading. Heartbeats of ZMTP stay slow: tight ones tear down
    # connections that are busy with a large tensor.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.setsockopt(zmq.TCP_MAXRT, 15_000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 60_000)
    # Back off from an address nobody answers at, without forgetting it.
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
    # A peer that connects and says nothing is dropped.
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    return socket


def _as_client(socket: Socket, identity: Identity | None, server_key: str) -> Socket:
    """With an identity: encrypted, and only to who holds the other half of ``server_key``."""
    if identity is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, identity.key.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, identity.secret.encode())
    return socket


def _as_listener(socket: Socket, identity: Identity | None, domain: Domain) -> Socket:
    """With an identity: encrypted, and only for whom the gate of this context lets in."""
    if identity is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, identity.secret.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        # Without this, and without a domain, libzmq lets in every key when no gate answers.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        # Who was not let in hears nothing and is dropped after this; then it may knock again.
        socket.setsockopt(zmq.HANDSHAKE_IVL, 2_000)
    return socket


def broker(context: zmq.Context[Socket], address: str, identity: Identity | None) -> Socket:
    """A control connection to the broker."""
    return dealer(context, address, identity, identity.broker_key if identity else "")


def dealer(
    context: zmq.Context[Socket],
    address: str,
    identity: Identity | None = None,
    server_key: str = "",
) -> Socket:
    """A control connection."""
    socket = _as_client(_common(context.socket(zmq.DEALER)), identity, server_key)
    # Nothing is queued for a peer that is not there: requests are repeated, not stored.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.connect(address)
    return socket


def push(
    context: zmq.Context[Socket],
    address: str,
    identity: Identity | None = None,
    server_key: str = "",
) -> Socket:
    """Gradients to one shard: a PUSH spreads over its peers, so it has exactly one."""
    socket = _as_client(_common(context.socket(zmq.PUSH)), identity, server_key)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    # The session keeps what is unanswered; a deep queue here would only hide a slow shard.
    socket.setsockopt(zmq.SNDHWM, 64)
    socket.connect(address)
    return socket


def subscribe(
    context: zmq.Context[Socket],
    address: str,
    topics: Sequence[bytes],
    identity: Identity | None = None,
    server_key: str = "",
) -> Socket:
    """A stream of one shard."""
    socket = _as_client(_common(context.socket(zmq.SUB)), identity, server_key)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    socket.connect(address)
    return socket


def router(
    context: zmq.Context[Socket], identity: Identity | None = None, domain: Domain = "control"
) -> Socket:
    """Control requests; not bound yet."""
    socket = _as_listener(_common(context.socket(zmq.ROUTER)), identity, domain)
    # A peer that is gone is an error at send, not a silent loss.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    return socket


def pull(context: zmq.Context[Socket], identity: Identity | None = None) -> Socket:
    """Gradients from all workers; not bound yet."""
    socket = _as_listener(_common(context.socket(zmq.PULL)), identity, "gradients")
    socket.setsockopt(zmq.RCVHWM, 64)
    return socket


def publisher(
    context: zmq.Context[Socket], publication_bytes: int, identity: Identity | None = None
) -> Socket:
    """Parameters to all subscribers; not bound yet.

    A reader that falls behind loses publications, silently; a beacon tells it, and it fetches.
    """
    # An XPUB hears of subscriptions: what nobody reads need not be copied and summed, and who has
    # just subscribed is told what there is.
    socket = _as_listener(_common(context.socket(zmq.XPUB)), identity, "parameters")
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    deep = PUBLICATION_QUEUE_BYTES // max(1, publication_bytes)
    socket.setsockopt(zmq.SNDHWM, max(4, min(1000, deep)))
    return socket


def bind(socket: Socket, host: str, port: int) -> int:
    """Bind to a port (0: any free one) and return it; raises SettingsError."""
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            text = f"port {port} on {host} is in use; stop what listens there or choose another"
        else:
            text = f"cannot listen on {host}:{port}: {error.strerror}"
        raise SettingsError(text) from None
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return int(endpoint.decode().rpartition(":")[2])


def bind_again(socket: Socket, host: str, port: int) -> int:
    """Bind to a port whose listener was closed just now, which takes a moment.

    Returns it; raises SettingsError.
    """
    deadline = time.monotonic() + BIND_AGAIN_S
    while True:
        try:
            return bind(socket, host, port)
        except SettingsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def disconnect_all(listener: Socket) -> None:
    """Drop every connection of a bound socket, with what is queued on it; who may comes again.

    Nobody else can take the port meanwhile but for the moment in which this process waits for it.
    Raises SettingsError if somebody did.
    """
    endpoint = listener.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    host, _, port = endpoint.decode().removeprefix("tcp://").rpartition(":")
    listener.unbind(endpoint.decode())
    bind_again(listener, host, int(port))


def require_closed(host: str, insecure: bool, closed: bool, remedy: str = "--keys") -> None:
    """Refuse to listen beyond this host unless strangers are refused (``closed``), or told so.

    P7; raises SettingsError, which names the ``remedy``.
    """
    if not (closed or insecure or is_loopback(host)):
        raise SettingsError(
            f"bind address {host} is reachable from other hosts, and nothing checks who connects; "
            f"use 127.0.0.1, {remedy}, or --insecure on a network you trust"
        )


def say_if_open(host: str, closed: bool) -> None:
    """Log what a role that listens as ``--insecure`` allows is open to."""
    if not (closed or is_loopback(host)):
        log.warning(
            "INSECURE: nothing is encrypted and nobody is checked: whoever reaches %s can do here "
            "what only members should (docs/security.md)",
            host,
        )


def advertised(bind: str, advertise: str) -> str:
    """The host that others are told to connect to; raises SettingsError if that is nowhere."""
    host = advertise or bind
    if host in EVERYWHERE:
        raise SettingsError(
            f"nobody can connect to {host}: give --advertise the address that others use"
        )
    return host


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(address: str) -> str:
    """A connectable tcp address, as given; raises SettingsError."""
    head, _, port = address.rpartition(":")
    if not head.startswith("tcp://") or not head[6:] or not port.isdigit():
        raise SettingsError(f"address {address!r} is not of the form tcp://HOST:PORT")
    return address


def this_host() -> str:
    return sockets.gethostname()


# -- sending and receiving ------------------------------------------------------------------------


def send(socket: Socket, message: Message, *, prefix: Sequence[bytes] = ()) -> bool:
    """Send without blocking; False if the socket cannot take it now, or the peer is gone.

    Payload parts are sent by reference: nobody may write to them any more.
    """
    frames = [*prefix, *encode(message)]
    # What is small costs less to copy than to lend.
    copies = len(frames) == len(prefix) + 1
    try:
        socket.send_multipart(frames, zmq.DONTWAIT, copy=copies)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return False
        raise
    return True


def send_tracked(socket: Socket, topic: bytes, message: Publication) -> zmq.MessageTracker:
    """Publish; the tracker is done when the last reader's connection has taken all of it."""
    frames: list[Any] = [topic, *encode(message)]
    tracker = socket.send_multipart(frames, zmq.DONTWAIT, copy=False, track=True)
    assert isinstance(tracker, zmq.MessageTracker)
    return tracker


def receive_subscription(publisher: Socket) -> tuple[bytes, bool] | None:
    """A topic that got a subscriber (True) or lost its last one, or None if none did.

    A topic of no bytes stands for what is no subscription: an XSUB may send anything.
    """
    try:
        change = publisher.recv(zmq.DONTWAIT)
    except zmq.Again:
        return None
    if change[:1] not in (b"\x00", b"\x01"):
        return b"", False
    return change[1:], change[:1] == b"\x01"


def receive(
    socket: Socket, *, prefixes: int = 0, sender: bool = False
) -> tuple[list[bytes], Message] | None:
    """The next message and what precedes its header, or None if there is none.

    With ``sender`` the last of what precedes is the public key that its connection has proved.
    Raises RemoteProtocolError with ``.prefix`` set, so that the peer can be told.
    """
    events = socket.getsockopt(zmq.EVENTS)
    if not (isinstance(events, int) and events & zmq.POLLIN):
        return None
    if sender:
        try:
            first = socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            # What woke us was the key of a new connection, of which nothing else has come yet.
            return None
        key, prefix = str(first.get("User-Id")).encode(), [first.bytes]
    else:
        prefix = [socket.recv(zmq.DONTWAIT)]
    # What is small comes as bytes, parts as they lie in the library's memory.
    while len(prefix) <= prefixes and socket.getsockopt(zmq.RCVMORE):
        prefix.append(socket.recv(zmq.DONTWAIT))
    frames: list[Buffer] = [prefix.pop()] if len(prefix) > prefixes else []
    more = bool(frames) and socket.getsockopt(zmq.RCVMORE)
    while more:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        frames.append(frame.buffer)
        more = frame.more
    if sender:
        prefix.append(key)
    try:
        return prefix, decode(frames)
    except RemoteProtocolError as error:
        raise BadMessage(error, prefix) from None


def receive_good(socket: Socket, *, prefixes: int = 0, from_broker: bool = False) -> Message | None:
    """The next message that can be understood; others are logged and passed over.

    Raises JoinRefused if the broker speaks another wire version: there is nobody else to ask.
    """
    while True:
        try:
            received = receive(socket, prefixes=prefixes)
        except BadMessage as error:
            if from_broker and error.wire_version:
                raise JoinRefused(str(error)) from None
            log.warning("ignored a message: %s", error)
            continue
        return received[1] if received else None


class BadMessage(RemoteProtocolError):
    """A message that could not be decoded, and from whom it came."""

    def __init__(self, error: RemoteProtocolError, prefix: list[bytes]) -> None:
        super().__init__(str(error))
        self.prefix = prefix
        self.wire_version = isinstance(error, WireVersionMismatch)


# -- connections to the shards of a run -----------------------------------------------------------


@dataclass(slots=True)
class ShardLink:
    """The sockets to one incarnation of one shard."""

    entry: ShardEntry
    stream: Socket
    control: Socket
    gradients: Socket | None
    takes: set[bytes] = field(default_factory=set)
    """Topics that are subscribed to for now, beside those that always are."""

    def take(self, topic: bytes, wanted: bool = True) -> None:
        if wanted and topic not in self.takes:
            self.takes.add(topic)
            self.stream.setsockopt(zmq.SUBSCRIBE, topic)
        elif not wanted and topic in self.takes:
            self.takes.remove(topic)
            self.stream.setsockopt(zmq.UNSUBSCRIBE, topic)

    def close(self) -> None:
        self.stream.close()
        self.control.close()
        if self.gradients is not None:
            self.gradients.close()


class ShardLinks:
    """The connections of a worker or follower, opened and moved as the directory says."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        topics: Sequence[bytes],
        with_gradients: bool,
        identity: Identity | None = None,
    ) -> None:
        self._context = context
        self._identity = identity
        self._topics = topics
        self._with_gradients = with_gradients
        self.by_shard: dict[int, ShardLink] = {}

    def __enter__(self) -> ShardLinks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for link in self.by_shard.values():
            link.close()

    def follow(self, entries: Sequence[ShardEntry], all_listed: bool) -> None:
        """Connect to what is new or has moved.

        With keys, leave a shard that is not listed where all must be: its key may be revoked.
        Raises JoinRefused if a shard is listed without a key.
        """
        if self._identity is not None and all_listed:
            for index in self.by_shard.keys() - {entry.index for entry in entries}:
                self.by_shard.pop(index).close()
        for entry in entries:
            if self._identity is not None and not entry.key:
                raise JoinRefused(f"shard {entry.index} has no key: it is not of a run with keys")
            link = self.by_shard.get(entry.index)
            if link is not None and (link.entry.addresses, link.entry.key) == (
                entry.addresses,
                entry.key,
            ):
                link.entry = entry
                continue
            if link is not None:
                if entry.incarnation < link.entry.incarnation:
                    continue
                link.close()
            self.by_shard[entry.index] = self._open(entry)

    def _open(self, entry: ShardEntry) -> ShardLink:
        gradients, parameters, control = entry.addresses
        proof = (self._identity, entry.key)
        return ShardLink(
            entry,
            subscribe(self._context, parameters, self._topics, *proof),
            dealer(self._context, control, *proof),
            push(self._context, gradients, *proof) if self._with_gradients else None,
        )
