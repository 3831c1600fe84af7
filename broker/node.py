"""The broker's only socket, and the loop around the directory and the releases."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from gradmq import link
from gradmq.broker.directory import Member, Members, Tell
from gradmq.broker.metrics import families, targets
from gradmq.broker.releases import AnswerRelease, Begin, Close, ReleaseEffect, Releases
from gradmq.broker.silence import Silence
from gradmq.broker.status import compose
from gradmq.config import MetricsSettings
from gradmq.durable import next_incarnation, read_number, write_text
from gradmq.exposition import Family
from gradmq.memory_guard import MemoryGuard
from gradmq.metrics_server import OwnedMetrics, Pages, metrics_page
from gradmq.security.access import Access
from gradmq.security.allow_list import AllowList
from gradmq.security.gate import Gate
from gradmq.security.keys import BROKER, load_identity
from gradmq.security.self_test import prove_closed
from gradmq.wire.messages import (
    AskReadmit,
    AskRelease,
    AskStatus,
    AskStop,
    Evaluated,
    Goodbye,
    Hello,
    Labelled,
    Message,
    Refused,
    Renew,
    Renewed,
    Saved,
    Status,
)

log = logging.getLogger(__name__)

#: Leases and releases are looked at this often.
TICK_S = 0.1

#: Who has not come round for this long was stopped, or its host was.
STOOD_STILL_S = 1.0

#: What a broker may hold beside what it begins with: members' reports, and their messages.
ALLOWED_BYTES = 256 << 20

EVALUATIONS_KEPT = 256

#: Who was revoked is told so, and then cut off.
DROP_S = 0.3


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What a broker must be told."""

    run: str
    shards: int
    state: Path
    bind: str
    port: int
    advertise: str
    insecure: bool
    release_every_s: float
    save_every_s: float
    settings: dict[str, Any]
    """Sent to every member at join: optimizer, staleness, …"""
    keys: Path | None = None
    """The keys folder, or the broker's key file with the allow-list beside it."""
    metrics: MetricsSettings = field(default_factory=MetricsSettings.model_construct)


class BrokerNode:
    """Serves one run until ``stopped`` says so; one thread."""

    def __init__(self, options: BrokerOptions) -> None:
        link.require_closed(options.bind, options.insecure, options.keys is not None)
        self._options = options
        self._identity = load_identity(options.keys, BROKER, "broker")
        self._allow_list = AllowList(options.keys) if options.keys else None
        self._drop_at = float("inf")
        """When the connections of revoked keys end, and for a moment everybody's."""
        self._evaluations: deque[Evaluated] = deque(maxlen=EVALUATIONS_KEPT)
        self._silence = Silence()
        self._lost = 0
        """Members whose lease ran out."""
        self._metrics = OwnedMetrics(options.metrics, options.insecure, _pages)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Listen, write the address to ``broker/address`` in the state folder, and serve.

        Raises SettingsError if the port is taken or a stranger would get in, CheckpointError if the
        folder cannot be used.
        """
        options = self._options
        with ExitStack() as stack:
            context = stack.enter_context(link.new_context())
            self._gate = stack.enter_context(self._guarded(context))
            listener = stack.enter_context(ExitStack())
            self._socket = listener.enter_context(link.router(context, self._identity, "broker"))
            port = link.bind(self._socket, options.bind, options.port)
            if self._gate is not None and self._identity is not None:
                prove_closed({"broker": self._socket}, self._identity, self._gate)
            link.say_if_open(options.bind, self._gate is not None)
            incarnation = next_incarnation(options.state / "broker" / "incarnation")
            self._members = Members(
                options.run, options.shards, incarnation, options.settings, time.monotonic()
            )
            if self._gate is not None:
                self._members.on_access(self._gate.access)
            self._releases = Releases(options.shards, options.release_every_s, options.save_every_s)
            self._newest_release = options.state / "broker" / "newest-release"
            self._releases.on_known(read_number(self._newest_release))
            self._metrics.open(stack)
            address = f"tcp://{options.advertise}:{port}"
            write_text(options.state / "broker" / "address", f"{address}\n")
            log.info("run %s: listening, members connect to %s", options.run, address)
            guard = self._guard = stack.enter_context(MemoryGuard(ALLOWED_BYTES))
            came_round_at = time.monotonic()
            while not stopped():
                readable = self._socket.poll(int(1000 * TICK_S))
                now = time.monotonic()
                if now - came_round_at > STOOD_STILL_S:
                    log.warning("stood still for %.1f s", now - came_round_at)
                    self._members.on_stopped(now - came_round_at, now)
                came_round_at = now
                if readable:
                    self._receive_all()
                self._on_time(time.monotonic())
                self._metrics.give_if_asked(self._snapshot)
                if guard.is_too_much():
                    log.error("%s: drops all connections", guard.trouble())
                    listener.close()
                    if not guard.recover():
                        log.error("that did not help; it may hold more from now on")
                    self._socket = listener.enter_context(
                        link.router(context, self._identity, "broker")
                    )
                    link.bind_again(self._socket, options.bind, port)
            left = sorted(member.name for member in self._members.members.values())
            if left:
                log.warning("left while these go on without a broker: %s", ", ".join(left))

    def _guarded(self, context: zmq.Context[link.Socket]) -> AbstractContextManager[Gate | None]:
        """What lets in only those on the allow-list; nothing in a run without keys."""
        if self._allow_list is None:
            return nullcontext()
        return Gate(context, self._allow_list.read())

    def _receive_all(self) -> None:
        for _ in range(256):  # then look at the clock, whoever shouts
            try:
                received = link.receive(self._socket, prefixes=1, sender=self._gate is not None)
            except link.BadMessage as error:
                log.warning("refused a message: %s", error)
                if error.prefix:
                    self._send(error.prefix[0], Refused(reason="wire", text=str(error)))
                continue
            if received is None:
                return
            (peer, *sender), message = received
            key = sender[0].decode() if sender else ""
            refusal = self._refusal(peer, key, message)
            if refusal:
                log.warning("refused a %s: %s", message.KIND, refusal)
                self._send(peer, Refused(reason="role", text=refusal))
                continue
            self._on_message(peer, message, time.monotonic(), key)

    def _refusal(self, peer: bytes, key: str, message: Message) -> str:
        """Why the owner of this key may not say this; "" if it may, or there are no keys."""
        if self._gate is None:
            return ""
        member = self._members.members.get(peer)
        if member is not None and member.key != key:
            return f"this connection is that of {member.name}"
        return self._gate.access.refusal("broker", key, message)

    def _on_message(self, peer: bytes, message: Message, now: float, key: str) -> None:
        match message:
            case Renew():
                self._on_renew(peer, message, now)
            case Hello():
                self._on_hello(peer, message, now, key)
            case Labelled():
                self._perform(self._releases.on_labelled(message, now))
            case Saved():
                if message.error:
                    log.error("shard %d: %s", message.shard, message.error)
                self._perform(self._releases.on_saved(message))
            case Evaluated():
                self._evaluations.append(message)
            case AskStatus() | AskRelease() | AskStop() | AskReadmit():
                self._on_ask(peer, message, now)
            case Goodbye():
                self._members.on_goodbye(peer)
            case _:
                text = f"a {message.KIND} is not for the broker"
                self._send(peer, Refused(reason="wire", text=text))

    def _on_ask(
        self, peer: bytes, message: AskStatus | AskRelease | AskStop | AskReadmit, now: float
    ) -> None:
        match message:
            case AskStatus():
                self._send(peer, Status(status=self.status(now)))
            case AskRelease():
                on_disk = self._members.saved_releases()
                effects = self._releases.on_ask(peer, message.save, message.contents_of, on_disk)
                self._perform(effects)
            case AskStop():
                log.info("stopping all workers: %s", message.reason)
                self._members.on_stop()
            case AskReadmit():
                if self._members.on_readmit(message.name, now):
                    log.warning("%s is out of quarantine", message.name)

    def _on_hello(self, peer: bytes, hello: Hello, now: float, key: str) -> None:
        shards_before = {m.shard: m.incarnation for m in self._members.shard_members()}
        answers = self._members.on_hello(peer, hello, now, key)
        self._releases.on_known(self._members.newest_known_release)
        for answer in answers:
            if isinstance(answer.message, Refused):
                log.warning("refused %s %r: %s", hello.role, hello.name, answer.message.text)
        self._tell(answers)
        self._tell(self._members.on_time(now))
        member = self._members.members.get(peer)
        if member is not None and member.shard is not None:
            if member.incarnation != shards_before.get(member.shard):
                self._releases.on_new_life(member.shard)
        elif self._releases.manifest is not None and self._follows(peer):
            self._send(peer, self._releases.manifest)  # what it needs to begin

    def _follows(self, peer: bytes) -> bool:
        return any(member.peer == peer for member in self._members.followers())

    def _on_renew(self, peer: bytes, renew: Renew, now: float) -> None:
        before = {quarantined.name for quarantined in self._members.standings.quarantined()}
        rejoin = self._members.on_renew(peer, renew.report, now)
        for new in self._members.standings.quarantined():
            if new.name not in before:
                log.warning("%s is in quarantine: %s", new.name, new.why)
        if rejoin is not None:
            self._tell([rejoin])
            return
        manifest = self._releases.manifest if self._follows(peer) else None
        self._send(peer, Renewed(serial=self._members.serial, manifest=manifest))

    def _on_time(self, now: float) -> None:
        if self._gate is not None and self._allow_list is not None:
            access = self._allow_list.changed(now)
            if access is not None:
                self._on_access(self._gate, access, now)
            if now >= self._drop_at:
                # libzmq cannot end the connections of one peer: those who may come back at once.
                self._drop_at = float("inf")
                link.disconnect_all(self._socket)
        before = {m.peer: m for m in self._members.members.values()}
        self._tell(self._members.on_time(now))
        for peer in before.keys() - self._members.members.keys():
            self._lost += 1
            log.warning("%s: lease ran out", before[peer].name)
        for news in self._silence.look(self._members.members.values(), now):
            log.warning("%s", news)
        open_for_releases = self._members.phase != "waiting"
        versions = self._members.versions() if open_for_releases else None
        followed = any(self._members.followers())
        self._perform(self._releases.on_time(now, versions, followed))

    def _on_access(self, gate: Gate, access: Access, now: float) -> None:
        if access.revoked_since(gate.access):
            self._drop_at = now + DROP_S
        gate.access = access
        for member in self._members.on_access(access):
            log.warning("%s: its key was revoked", member.name)
            text = f"the key of {member.name} is not on the allow-list any more"
            self._send(member.peer, Refused(reason="role", text=text))

    def status(self, now: float) -> dict[str, Any]:
        metrics = self._metrics.address
        return compose(self._members, self._releases, self._evaluations, now, metrics)

    def _snapshot(self) -> tuple[list[Family], bytes]:
        members, releases = self._members, self._releases
        found = list(families(members, releases, self._evaluations, self._lost))
        found += self._guard.families()
        where = targets(members.run, members.members.values(), self._metrics.address)
        return found, where

    # -- effects ----------------------------------------------------------------------------------

    def _perform(self, effects: Iterable[ReleaseEffect]) -> None:
        for effect in effects:
            match effect:
                case Begin():
                    self._remember(effect.label.release)
                    self._send_all(self._members.shard_members(), effect.label)
                case Close():
                    self._send_all(self._members.followers(), effect.manifest)
                case AnswerRelease():
                    self._send(effect.peer, effect.message)

    def _remember(self, release: int) -> None:
        """On disk before anybody hears of it: a number is never used again, though this process
        and every member that knew it are gone."""
        try:
            write_text(self._newest_release, f"{release}\n")
        except OSError as error:
            log.error("cannot write %s: %s", self._newest_release, error.strerror)

    def _tell(self, effects: Iterable[Tell]) -> None:
        for effect in effects:
            self._send(effect.peer, effect.message)

    def _send_all(self, members: Iterable[Member], message: Message) -> None:
        for member in members:
            self._send(member.peer, message)

    def _send(self, peer: bytes, message: Message) -> None:
        # A peer that cannot be reached asks again, or its lease runs out.
        link.send(self._socket, message, prefix=[peer])


def _pages(snapshot: tuple[list[Family], bytes]) -> Pages:
    """In the thread that serves metrics."""
    found, where = snapshot
    return {**metrics_page(found), "/targets": ("application/json", where)}
