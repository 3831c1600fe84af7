"""A parameter server process: the sockets and the disk around one shard.

broker  ──(DEALER)── join, labels          workers ──(PULL)─── gradients
workers, followers ──(ROUTER)── attach, query, fetch     all ◀──(PUB)── parameters, beacons
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import zmq

from gradmq import link
from gradmq.config import MetricsSettings
from gradmq.errors import (
    CheckpointError,
    JoinRefused,
    RemoteProtocolError,
    SettingsError,
)
from gradmq.exposition import Family, Stage
from gradmq.layout import Layout
from gradmq.membership import Membership
from gradmq.metrics_server import OwnedMetrics, metrics_page
from gradmq.ps import checkpoint
from gradmq.ps.disk import Disk
from gradmq.ps.effects import Append, Effect, Publish, Quarantined, Reply, Save, TellBroker
from gradmq.ps.listeners import Listeners
from gradmq.ps.metrics import families
from gradmq.ps.optim import optimizer_from
from gradmq.ps.policy import policy_from
from gradmq.ps.sessions import NOTHING_SHARED, SharedSlots
from gradmq.ps.shard import Shard
from gradmq.ps.sharing import shared_ring, slots_of
from gradmq.ps.state import ShardState
from gradmq.ring import RingWriter, own_memory
from gradmq.security.access import ps_name
from gradmq.security.keys import load_identity
from gradmq.shared_memory import SharedMemory, fence
from gradmq.wire.messages import (
    AskRelease,
    Attach,
    Detach,
    Directory,
    Fetch,
    Goodbye,
    Hello,
    Label,
    Labelled,
    Message,
    Push,
    Query,
    Refused,
    Rejoin,
    ReleaseMade,
    Renewed,
    Seed,
    Welcome,
)

log = logging.getLogger(__name__)

#: Pushes decided in one pass of the loop, before verdicts leave and control is looked at; fewer if
#: they take longer than this. The verdict on a large push must not wait for the next one's: workers
#: that are told together push together, and the shard has nothing to do while they compute.
PUSHES_PER_PASS = 64
LONGEST_PASS_S = 0.0005

#: At the end, decisions have so long to reach the disk.
JOURNAL_CLOSE_S = 5.0

#: The loop comes round at least this often, whatever it waits for: peers can send a gigabyte a
#: second, and nothing but the memory that it takes tells of some of it.
LONGEST_SLEEP_S = 0.1

#: What is queued at the end, verdicts among it, has this long to leave.
FAREWELL_MS = 500

#: Pushes that a shard leaves undecided are counted up to here, and waited for so long.
MOST_COUNTED, LAST_LOOK_MS = 1000, 100


@dataclass(frozen=True, slots=True)
class PsOptions:
    """What a parameter server must be told."""

    broker: str
    shard: int
    state: Path
    bind: str
    port: int
    """The first of three; 0: any free ones."""
    advertise: str
    insecure: bool
    push_budget_bytes: int
    restore_release: int | None
    """The release to start from; None: the newest on disk."""
    kept_checkpoints: int
    """How many of the newest stay on disk, and the journal since then; 0: all."""
    keys: Path | None = None
    """The keys folder, or this shard's key file."""
    metrics: MetricsSettings = field(default_factory=MetricsSettings.model_construct)


class PsNode:
    """Serves one shard until ``stopped`` says so; one thread, and one that writes checkpoints."""

    def __init__(self, options: PsOptions) -> None:
        link.require_closed(options.bind, options.insecure, options.keys is not None)
        link.check_address(options.broker)
        if options.shard < 0:
            raise SettingsError(f"--shard is {options.shard}; shards are counted from 0")
        if not 0 <= options.port <= 65_533:
            raise SettingsError(f"--port is {options.port}; use 1 to 65533, three are taken, or 0")
        self._identity = load_identity(options.keys, ps_name(options.shard), "ps")
        self._options = options
        self._disk = Disk(options.state, options.shard, options.kept_checkpoints)
        self._shard: Shard | None = None
        self._layout: Layout | None = None
        self._restored: ShardState | None = None
        self._ring: SharedMemory | None = None
        self._run_name: str | None = None
        self._addresses: tuple[str, ...] = ()
        self._told_of_news = False
        self._pushes = Stage()
        """Received and decided."""
        self._metrics = OwnedMetrics(options.metrics, options.insecure, metrics_page)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Join, serve, leave; raises JoinRefused, CheckpointError or SettingsError.

        A SettingsError too if a stranger would get in.
        """
        options = self._options
        with ExitStack() as stack:
            self._disk.lock(stack)
            self._metrics.open(stack)
            self._begin_life(stack)
            self._context = stack.enter_context(link.new_context())
            self._stack = stack
            self._broker = stack.enter_context(
                link.broker(self._context, options.broker, self._identity)
            )
            self._member = Membership(self._hello)
            self._poller = zmq.Poller()
            self._poller.register(self._broker, zmq.POLLIN)
            while not stopped():
                sleep_s = self._sleep_s(time.monotonic())
                ready = dict(self._poller.poll(int(1000 * sleep_s) + 1))
                if not stopped():
                    self._pass(ready)
            self._leave()

    def _begin_life(self, stack: ExitStack) -> None:
        options = self._options
        found = self._disk.begin_life(stack, options.restore_release)
        if found is None:
            return
        self._run_name, self._layout, self._restored = found.run, found.layout, found.state
        log.info(
            "restored shard %d at version %d, release %d",
            options.shard,
            self._restored.version,
            self._restored.release,
        )

    def _leave(self) -> None:
        """Intake stops; what was decided is told, what was not, or is not on disk, is named."""
        journal, saving = self._disk.journal, self._disk.saving
        unwritten = 0
        if journal is not None:
            unwritten = journal.close(JOURNAL_CLOSE_S)
            self._say_what_is_durable()
        saving.close()
        self._tell_of_saves()
        if self._shard is not None:
            undecided = self._listeners.count_undecided(MOST_COUNTED, LAST_LOOK_MS)
            version = self._shard.version[1]
            unsaved = version - saving.version if journal is None else unwritten
            if undecided or unsaved:
                log.warning(
                    "left with %d pushes received and not decided, which are sent again to who "
                    "serves this shard next, and %d updates not on disk, at version %d",
                    undecided,
                    unsaved,
                    version,
                )
            self._listeners.control.setsockopt(zmq.LINGER, FAREWELL_MS)
        link.send(self._broker, Goodbye())
        self._broker.setsockopt(zmq.LINGER, FAREWELL_MS)

    # -- joining ----------------------------------------------------------------------------------

    def _hello(self) -> Hello:
        shard = self._shard
        return Hello(
            role="ps",
            name=ps_name(self._options.shard),
            host=link.this_host(),
            pid=os.getpid(),
            run=self._run_name,
            shard=self._options.shard,
            incarnation=self._disk.incarnation,
            ready=shard is not None and shard.ready,
            # A run that went back to an older release does not use the newer ones' numbers again.
            release=max(self._disk.newest_saved, shard.release if shard else 0),
            addresses=self._addresses,
            payload=(self._layout.to_bytes(),) if self._layout else (),
        )

    def _open_shard(self, welcome: Welcome, layout: Layout) -> None:
        """The layout is known: from here on this process can be pushed to."""
        options = self._options
        part = layout.parts[options.shard]
        self._ring = shared_ring(part.size, welcome.settings.get("transport", "auto"))
        memory = self._ring.memory if self._ring else own_memory(part.size)
        journalled = welcome.settings.get("durability", "memory") == "journal"
        self._shard = Shard(
            welcome.run,
            layout,
            options.shard,
            self._disk.incarnation,
            optimizer_from(welcome.settings["optimizer"]),
            policy_from(welcome.settings["staleness"]),
            options.push_budget_bytes,
            RingWriter(memory, part.size, fence),
            self._ring.segment if self._ring else None,
            journalled=journalled,
            max_gradient_norm=welcome.settings.get("max_gradient_norm"),
        )
        if self._restored is not None:
            self._shard.restore(self._restored)
            self._restored = None
        if journalled:
            news = self._disk.open_journal(self._stack, self._shard, layout)
            self._poller.register(news, zmq.POLLIN)
        listeners = self._listeners = Listeners(
            self._context, self._poller, self._shard, self._identity, options.push_budget_bytes
        )
        ports = [options.port + i if options.port else 0 for i in range(3)]
        listeners.listen(self._stack, options.bind, ports)
        self._addresses = tuple(f"tcp://{options.advertise}:{port}" for port in listeners.ports)
        self._member.rejoin(time.monotonic())
        log.info("serving %d parameters of shard %d", self._shard.part.size, options.shard)

    # -- the loop ---------------------------------------------------------------------------------

    def _sleep_s(self, now: float) -> float:
        wake_at = self._member.next_deadline()
        if self._shard is not None:
            wake_at = min(wake_at, self._shard.next_deadline(now))
        return max(0.0, min(wake_at - now, LONGEST_SLEEP_S))

    def _pass(self, ready: Collection[object]) -> None:
        """Hear what the ready sockets have, gradients first, and do what time asks for."""
        if self._shard is not None:
            if self._listeners.gradients in ready:
                self._receive_pushes(self._shard)
            if self._listeners.control in ready:
                for peer, message in self._listeners.requests():
                    self._on_control(self._shard, peer, message)
            if self._listeners.parameters in ready:
                self._listeners.hear_subscriptions()
        if self._broker in ready:
            self._receive_from_broker()
        if self._disk.has_news(ready):
            self._say_what_is_durable()
        if self._shard is not None:
            now = time.monotonic()
            self._listeners.look_at_leaving(now)
            self._perform(self._shard.on_time(now, self._listeners.push_waiting))
            self._listeners.drop_if_too_much()
            self._tell_of_news(self._shard, now)
        self._tell_of_saves()
        self._metrics.give_if_asked(self._families)
        news = self._member.news(self._options.broker, time.monotonic())
        if news:
            log.warning("%s", news)
        due = self._member.on_time(time.monotonic(), self._report)
        if due is not None and not link.send(self._broker, due):
            self._member.not_sent(time.monotonic())

    def _say_what_is_durable(self) -> None:
        journal = self._disk.journal
        assert journal is not None and self._shard is not None
        self._perform(self._shard.on_durable(journal.durable))
        if journal.error is not None:
            raise journal.error

    def _tell_of_news(self, shard: Shard, now: float) -> None:
        """The broker waits for the first update after a label to begin the next release."""
        has_news = shard.is_unlabelled
        if has_news and not self._told_of_news:
            self._member.renew_soon(now)
        self._told_of_news = has_news

    def _tell_of_saves(self) -> None:
        for saved in self._disk.saving.finished():
            link.send(self._broker, saved)

    def _report(self) -> dict[str, object]:
        where = {"metrics": self._metrics.address}
        if self._shard is None:
            return {"waiting_for": "the layout", **where}
        return {**self._shard.report(time.monotonic()), "saved": self._disk.saved, **where}

    def _families(self) -> list[Family]:
        shard, disk, now = self._shard, self._disk, time.monotonic()
        listeners = self._listeners if shard is not None else None
        index = self._options.shard
        found = families(index, shard, listeners, disk.saving, disk.journal, self._pushes, now)
        return list(found)

    def _receive_pushes(self, shard: Shard) -> None:
        began = now = time.monotonic()
        for _ in range(PUSHES_PER_PASS):
            message = self._listeners.receive_push()
            if message is None:
                break
            if isinstance(message, Push):
                self._perform(shard.on_push(message, now))
                self._pushes.count += 1
            else:
                log.warning("a %s on the gradient socket was ignored", message.KIND)
            now = time.monotonic()
            if now - began > LONGEST_PASS_S:
                break
        self._pushes.seconds += now - began
        self._perform(shard.take_verdicts())

    def _on_control(self, shard: Shard, peer: bytes, message: Message) -> None:
        now = time.monotonic()
        match message:
            case Attach():
                self._perform(shard.on_attach(peer, message, self._shared_with(shard, message)))
            case Query():
                self._perform(shard.on_query(peer, message, self._listeners.push_waiting))
            case Fetch():
                self._perform(shard.on_fetch(peer, message))
            case Detach():
                shard.on_detach(message)
            case Seed():
                self._on_seed(shard, peer, message, now)
            case _:
                text = f"a {message.KIND} is not for a shard"
                self._perform([Reply(peer, Refused(reason="wire", text=text))])

    def _shared_with(self, shard: Shard, attach: Attach) -> SharedSlots:
        return NOTHING_SHARED if self._ring is None else slots_of(attach, shard.part.size)

    def _on_seed(self, shard: Shard, peer: bytes, seed: Seed, now: float) -> None:
        try:
            self._perform(shard.on_seed(peer, seed))
        except RemoteProtocolError as error:
            log.warning("refused initial parameters: %s", error)
        if shard.ready:
            self._member.renew_soon(now)

    def _receive_from_broker(self) -> None:
        while (message := link.receive_good(self._broker, from_broker=True)) is not None:
            now = time.monotonic()
            self._member.on_heard(now)
            match message:
                case Welcome():
                    self._on_welcome(message, now)
                case Directory():
                    self._on_directory(message, now)
                case Label() if self._shard is not None:
                    self._on_label(self._shard, message, now)
                case Rejoin():
                    self._member.rejoin(now)
                case Renewed():
                    self._member.on_renewed(message, now)
                case ReleaseMade():
                    if message.error:
                        log.warning("the checkpoint that was asked for: %s", message.error)
                case Refused(reason="run"):
                    raise JoinRefused(
                        f"the state in {self._options.state} is of run {self._run_name}; "
                        f"use another --state (broker {self._options.broker}: {message.text})"
                    )
                case Refused(reason="wire") if self._member.joined:
                    log.warning(
                        "the broker could not read a message of this shard: %s", message.text
                    )
                case Refused():
                    raise JoinRefused(f"broker {self._options.broker}: {message.text}")
                case _:
                    log.warning("a %s of the broker was ignored", message.KIND)

    def _on_label(self, shard: Shard, label: Label, now: float) -> None:
        contents: ShardState | None = None
        if label.contents_of is not None:
            options = self._options
            try:
                _, _, contents = checkpoint.load(options.state, options.shard, label.contents_of)
            except CheckpointError as error:
                log.error("cannot go back to release %d: %s", label.contents_of, error)
                return  # the broker abandons the release, and says so to whoever asked
            log.warning("going back to release %d, as release %d", label.contents_of, label.release)
        self._perform(shard.on_label(label, contents, now))

    def _on_welcome(self, welcome: Welcome, now: float) -> None:
        self._run_name = welcome.run
        self._member.on_welcome(welcome, now)
        if self._shard is None and self._layout is not None:
            self._open_shard(welcome, self._layout)

    def _on_directory(self, directory: Directory, now: float) -> None:
        self._member.on_directory(directory, now)
        if directory.payload and self._layout is None:
            self._layout = Layout.from_bytes(b"".join(directory.payload))
            assert self._member.welcome is not None
            self._open_shard(self._member.welcome, self._layout)
        if self._shard is not None:
            self._listeners.on_directory(directory)
            self._shard.on_directory(directory, now)

    # -- effects ----------------------------------------------------------------------------------

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply():
                    # Lost if the peer is gone or does not read; it asks again.
                    link.send(self._listeners.control, effect.message, prefix=[effect.peer])
                case Publish():
                    self._listeners.publish(effect)
                case TellBroker():
                    link.send(self._broker, _as_of(effect, time.monotonic()))
                case Save():
                    assert self._layout is not None and self._run_name is not None
                    self._disk.saving.write(self._run_name, self._layout, effect.state)
                case Append():
                    assert self._disk.journal is not None
                    self._disk.journal.append(effect.position, effect.record)
                case Quarantined():
                    log.warning("%s is in quarantine: %s", effect.name, effect.why)
                    self._member.renew_soon(time.monotonic())


def _as_of(effect: TellBroker, now: float) -> Labelled | AskRelease:
    """The message as it leaves: it may have waited, for the journal or for a copy."""
    message = effect.message
    if isinstance(message, Labelled) and effect.applied_at is not None:
        return replace(message, since_applied_s=now - effect.applied_at)
    return message
