"""Every listening socket is closed to whom the allow-list does not let in, and stays so."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

import gradmq
from gradmq import link
from gradmq.broker.node import BrokerNode, BrokerOptions
from gradmq.layout import Layout, Tensor
from gradmq.observer import Observer
from gradmq.ps.guard import ShardGuard
from gradmq.security import keys, self_test
from gradmq.security.access import ROLES, Access, write_allow_list
from gradmq.security.gate import Gate
from gradmq.security.keys import Identity
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import (
    AllowedKey,
    AskStop,
    Attach,
    Attached,
    Detach,
    Directory,
    Fetch,
    Hello,
    Labelled,
    Message,
    Publication,
    Push,
    Query,
    Refused,
    Seed,
    Verdicts,
    Welcome,
)

pytestmark = pytest.mark.e2e

SIZE = 300_000  # several parts: a push reaches a shard piece by piece
#: Who takes part in one test each. They are allowed from the beginning: nobody waits for that.
MEMBERS = ("gone", "owner", "thief", "leaver", "stayer", "again", "bystander")

LAYOUT = Layout((Tensor("weight", "float32", (SIZE,)),), 1)
ANSWER_S = 20.0

PEERS = {
    "broker": zmq.DEALER,
    "gradients": zmq.PUSH,
    "parameters": zmq.SUB,
    "control": zmq.DEALER,
}
DOMAINS = tuple(PEERS)

#: Of the roles that have no business at a socket; every role has some with the broker.
WRONG_ROLES = {
    "gradients": ("ps", "infer", "reader", "broker"),
    "parameters": ("ps", "broker"),
    "control": ("ps",),
}

Arrays = dict[str, npt.NDArray[np.float32]]


def zeros() -> Arrays:
    return {"weight": np.zeros(SIZE, np.float32)}


def ones() -> Arrays:
    return {"weight": np.ones(SIZE, np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("security") / "keys"
    keys.init(made)
    for role in ROLES:
        keys.add(made, "ps-7" if role == "ps" else f"a-{role}", role)
    for name in MEMBERS:
        keys.add(made, name, "worker")
    keys.add(made, "listener", "reader")
    return made


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(
        zeros(),
        optimizer=gradmq.SGD(lr=1.0),
        staleness=gradmq.Unbounded(),
        settings={"network.keys": folder, "network.transport": "tcp"},
    ) as cluster:
        yield cluster


def identity_of(folder: Path, name: str) -> Identity:
    identity = keys.load_identity(folder, name, *ROLES)
    assert identity is not None
    return identity


def with_role(folder: Path, role: str) -> Identity:
    return identity_of(folder, "ps-7" if role == "ps" else f"a-{role}")


def unknown(broker_key: str) -> Identity:
    public, secret = (half.decode() for half in zmq.curve_keypair())
    return Identity("stranger", "worker", public, secret, broker_key)


def doors(cluster: gradmq.LocalCluster, folder: Path) -> dict[str, tuple[str, str]]:
    """(address, public key) by domain."""
    shard = cluster.status()["shards"][0]
    gradients, parameters, control = ((address, shard["key"]) for address in shard["addresses"])
    return {
        "broker": (cluster.address, identity_of(folder, "broker").key),
        "gradients": gradients,
        "parameters": parameters,
        "control": control,
    }


# -- the table -------------------------------------------------------------------------------------

Case = tuple[str, str]
"""(domain, who)."""


def knock(cases: Mapping[Case, tuple[str, str, Identity | None]]) -> dict[Case, bool]:
    """Connect to (address, its key) as each of these, all at once; True for who is let in.

    Who is not is hung up on, at the latest when the listener gives up the handshake.
    """
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        poller = zmq.Poller()
        waiting = {}
        for case, (address, server_key, identity) in cases.items():
            socket = stack.enter_context(context.socket(PEERS[case[0]]))
            socket.setsockopt(zmq.LINGER, 0)
            link._as_client(socket, identity, server_key)
            events = socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | self_test.DECIDED
            )
            stack.callback(events.close)
            stack.callback(socket.disable_monitor)
            socket.connect(address)
            poller.register(events, zmq.POLLIN)
            waiting[events] = case
        let_in = {}
        while waiting:
            for events, _ in poller.poll(int(1000 * ANSWER_S)):
                event = recv_monitor_message(events)["event"]
                poller.unregister(events)
                let_in[waiting.pop(events)] = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        return let_in


@pytest.fixture(scope="module")
def let_in(cluster: gradmq.LocalCluster, folder: Path) -> dict[Case, bool]:
    """What a cluster says to everybody, at each of its sockets."""
    with raw_peer(cluster, folder, "gone") as gone:
        assert isinstance(gone.fetch(), Publication)
        keys.revoke(folder, "gone")
        gone.wait_until_cut_off()
        strangers = {
            "no key": None,
            "an unknown key": unknown(gone.identity.broker_key),
            "a revoked key": gone.identity,
            **{role: with_role(folder, role) for role in ROLES},
        }
    return knock(
        {
            (domain, who): (*door, identity)
            for domain, door in doors(cluster, folder).items()
            for who, identity in strangers.items()
        }
    )


@pytest.mark.parametrize("who", ["no key", "an unknown key", "a revoked key", *ROLES])
@pytest.mark.parametrize("domain", DOMAINS)
def test_each_socket_lets_in_those_who_have_business_there_and_nobody_else(
    let_in: dict[Case, bool], domain: str, who: str
) -> None:
    is_welcome = who in ROLES and who not in WRONG_ROLES.get(domain, ())
    assert let_in[(domain, who)] is is_welcome


@pytest.mark.parametrize("how", ["never started", "stopped"])
def test_without_its_gate_each_socket_is_closed_to_everybody(folder: Path, how: str) -> None:
    broker = identity_of(folder, "broker")
    access = Access(keys.allowed_in(folder))
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        listeners = {
            "broker": link.router(context, broker, "broker"),
            "gradients": link.pull(context, broker),
            "parameters": link.publisher(context, SIZE, broker),
            "control": link.router(context, broker, "control"),
        }
        doors = {}
        for domain, listener in listeners.items():
            stack.enter_context(listener)
            doors[domain] = (f"tcp://127.0.0.1:{link.bind(listener, '127.0.0.1', 0)}", broker.key)
        worker = with_role(folder, "worker")
        if how == "stopped":
            with Gate(context, access):
                first = knock({(domain, "worker"): (*doors[domain], worker) for domain in DOMAINS})
                assert all(first.values())
        then = knock({(domain, "worker"): (*doors[domain], worker) for domain in DOMAINS})
        assert not any(then.values())


# -- what a key may say ----------------------------------------------------------------------------


class RawPeer:
    """A member that can say anything; its sockets have proved one key."""

    def __init__(self, doors: Mapping[str, tuple[str, str]], identity: Identity) -> None:
        self.identity = identity
        self._context = zmq.Context()
        address, key = doors["broker"]
        self.broker = link.dealer(self._context, address, identity, key)
        address, key = doors["control"]
        self.control = link.dealer(self._context, address, identity, key)
        address, key = doors["gradients"]
        self.gradients = link.push(self._context, address, identity, key)
        self._sockets = (self.broker, self.control, self.gradients)
        self._ends = [socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for socket in self._sockets]

    def close(self) -> None:
        for socket, ends in zip(self._sockets, self._ends, strict=True):
            socket.disable_monitor()
            ends.close()
            socket.close()
        self._context.term()

    def ask(self, socket: link.Socket, message: Message) -> Message:
        self.say(socket, message)
        return self.hear(socket)

    def say(self, socket: link.Socket, message: Message) -> None:
        assert socket.poll(int(1000 * ANSWER_S), zmq.POLLOUT)
        assert link.send(socket, message)

    def hear(self, socket: link.Socket) -> Message:
        assert socket.poll(int(1000 * ANSWER_S)), "no answer"
        message = link.receive_good(socket)
        assert message is not None
        # What the broker tells all its members is no answer.
        return self.hear(socket) if isinstance(message, Directory) else message

    def join(self) -> int:
        """As a worker; returns the session."""
        welcome = self.ask(self.broker, hello("worker", self.identity.name))
        assert isinstance(welcome, Welcome), welcome
        return welcome.session

    def attach(self, session: int, name: str = "") -> Message:
        """Ask until there is an answer: the directory with the session may be under way."""
        message = Attach(
            run="local",
            layout=LAYOUT.hash,
            session=session,
            name=name or self.identity.name,
            oldest_unanswered=1,
            newest_seen=None,
            window=8,
        )
        while True:
            self.say(self.control, message)
            if self.control.poll(100):
                return self.hear(self.control)

    def push(self, session: int, seq: int) -> None:
        payload = array_payload(ones()["weight"])
        push = Push(
            run="local",
            shard=0,
            incarnation=1,
            session=session,
            seq=seq,
            base=(1, 0),
            layout=LAYOUT.hash,
            crc=payload_crc(payload),
            payload=payload,
        )
        self.say(self.gradients, push)

    def fetch(self) -> Message:
        return self.ask(self.control, Fetch(run="local", layout=LAYOUT.hash))

    def is_cut_off(self) -> bool:
        return all(ends.poll(0) for ends in self._ends)

    def wait_until_cut_off(self) -> None:
        for ends in self._ends:
            assert ends.poll(int(1000 * ANSWER_S)), "still connected"


def hello(role: Any, name: str, shard: int | None = None) -> Hello:
    return Hello(role=role, name=name, host="elsewhere", pid=1, shard=shard)


@contextlib.contextmanager
def raw_peer(cluster: gradmq.LocalCluster, folder: Path, name: str) -> Iterator[RawPeer]:
    peer = RawPeer(doors(cluster, folder), identity_of(folder, name))
    try:
        yield peer
    finally:
        peer.close()


def refused(answer: Message, text: str) -> None:
    assert isinstance(answer, Refused), answer
    assert answer.reason == "role"
    assert text in answer.text


def test_nobody_joins_under_another_name_or_in_another_role(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    with raw_peer(cluster, folder, "a-worker") as peer:
        refused(peer.ask(peer.broker, hello("worker", "other")), "is that of a-worker")
        refused(peer.ask(peer.broker, hello("infer", "a-worker")), "cannot join as infer")
        refused(peer.ask(peer.broker, hello("ps", "a-worker", 0)), "cannot join as ps")
        release = Labelled(release=1, shard=0, version=(1, 1), crc=0)
        refused(peer.ask(peer.broker, release), "labelled is closed")


def test_a_reader_and_a_worker_cannot_end_a_run_and_the_brokers_key_can_see_it(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    for role in ("reader", "worker", "infer"):
        with raw_peer(cluster, folder, f"a-{role}") as peer:
            refused(peer.ask(peer.broker, AskStop(reason="")), "ask_stop is closed")
    with Observer(cluster.address, folder) as observer:
        assert observer.status(ANSWER_S)["phase"] == "open"


def test_a_session_is_that_of_the_name_it_was_given_to(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    with raw_peer(cluster, folder, "owner") as owner, raw_peer(cluster, folder, "thief") as thief:
        session, its_own = owner.join(), thief.join()
        assert isinstance(thief.attach(its_own), Attached)
        refused(thief.attach(session), f"session {session} is owner's, not thief's")
        refused(thief.attach(session, "owner"), "the key is that of thief, not of 'owner'")
        assert isinstance(owner.attach(session), Attached)
        thief.push(session, 1)
        for message in (
            Query(session=session, seq=1),
            Detach(session=session),
            Seed(run="local", layout=LAYOUT.hash, shard=0, session=session, crc=0),
        ):
            refused(thief.ask(thief.control, message), "is owner's, not thief's")
        # The thief's push was read before or after this one; applied, it would be seq 1.
        before = cluster.versions()[0]
        owner.push(session, 1)
        verdicts = owner.hear(owner.control)
        assert isinstance(verdicts, Verdicts)
        assert [(v.seq, v.version) for v in verdicts.verdicts] == [(1, (1, before[1] + 1))]


def test_a_message_that_comes_piece_by_piece_is_heard_when_it_is_whole(folder: Path) -> None:
    """libzmq announces the key of a new connection before there is anything to read of it."""
    broker, worker = identity_of(folder, "broker"), with_role(folder, "worker")
    payload = tuple(bytes(1 << 20) for _ in range(32))
    push = Push(run="r", shard=0, incarnation=1, session=1, seq=1, base=(1, 0), layout="l")
    with zmq.Context() as context, zmq.Context() as elsewhere, contextlib.ExitStack() as stack:
        stack.enter_context(Gate(context, Access(keys.allowed_in(folder))))
        pull = stack.enter_context(link.pull(context, broker))
        address = f"tcp://127.0.0.1:{link.bind(pull, '127.0.0.1', 0)}"
        gradients = stack.enter_context(link.push(elsewhere, address, worker, broker.key))
        assert gradients.poll(int(1000 * ANSWER_S), zmq.POLLOUT)
        assert link.send(gradients, dataclasses.replace(push, payload=payload))
        while (received := link.receive(pull, sender=True)) is None:
            assert pull.poll(int(1000 * ANSWER_S))
        assert received[0] == [worker.key.encode()]


# -- revocation ------------------------------------------------------------------------------------


def test_a_revoked_worker_loses_every_connection_it_has_and_the_others_go_on(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    with (
        raw_peer(cluster, folder, "leaver") as leaver,
        raw_peer(cluster, folder, "stayer") as stayer,
    ):
        session, other = leaver.join(), stayer.join()
        for peer, its in ((leaver, session), (stayer, other)):
            assert isinstance(peer.attach(its), Attached)
            peer.push(its, 1)
            assert isinstance(peer.hear(peer.control), Verdicts)
        keys.revoke(folder, "leaver")
        refused(leaver.hear(leaver.broker), "leaver is not on the allow-list any more")
        leaver.wait_until_cut_off()
        stayer.wait_until_cut_off()
        before = cluster.versions()[0][1]
        assert isinstance(stayer.attach(other), Attached)
        for seq in range(2, 5):
            stayer.push(other, seq)
            assert isinstance(stayer.hear(stayer.control), Verdicts)
        assert cluster.versions()[0][1] == before + 3


def test_a_worker_trains_through_the_revocation_of_another(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    before = cluster.parameters()["weight"][0]
    with (
        raw_peer(cluster, folder, "bystander") as bystander,
        gradmq.Worker(zeros(), cluster.address, "a-worker", keys=folder) as worker,
    ):
        session, pushed = worker.session, 0
        assert isinstance(bystander.fetch(), Publication)
        keys.revoke(folder, "bystander")
        while not bystander.is_cut_off() or pushed < 5:
            assert worker.push(ones()).verdict(ANSWER_S).applied
            pushed += 1
        for _ in range(5):
            assert worker.push(ones()).verdict(ANSWER_S).applied
        worker.pull(ANSWER_S)
        assert worker.session == session
        assert worker.parameters()["weight"][0] == before - pushed - 5


def test_a_revoked_subscriber_hears_nothing_more_and_the_others_go_on(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    address, key = doors(cluster, folder)["parameters"]
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        streams = []
        for name in ("listener", "a-reader"):
            identity = identity_of(folder, name)
            topics = [link.TOPIC_BEACONS]
            streams.append(
                stack.enter_context(link.subscribe(context, address, topics, identity, key))
            )
        revoked, stays = streams
        for stream in streams:
            assert stream.poll(int(1000 * ANSWER_S))
        events = revoked.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        stack.callback(events.close)
        stack.callback(revoked.disable_monitor)
        keys.revoke(folder, "listener")
        assert events.poll(int(1000 * ANSWER_S))
        assert recv_monitor_message(events)["event"] == zmq.EVENT_DISCONNECTED
        for stream in streams:
            while link.receive_good(stream, prefixes=1):
                pass  # what was on its way
        for _ in range(4):  # beacons: the one who stays is connected anew
            assert stays.poll(int(1000 * ANSWER_S))
            assert link.receive_good(stays, prefixes=1)
        assert not revoked.poll(0)
        assert not events.poll(0) or (
            recv_monitor_message(events)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED
        )


def push_for_ever(worker: gradmq.Worker) -> None:
    while True:  # the test's own time limit ends this
        worker.push(ones()).verdict(ANSWER_S)


def test_who_is_revoked_is_told_so_and_a_new_key_lets_the_name_in_again(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    file = folder / "again.key"
    with gradmq.Worker(zeros(), cluster.address, keys=file) as worker:
        assert worker.name == "again"
        assert worker.push(ones()).verdict(ANSWER_S).applied
        keys.revoke(folder, "again")
        with pytest.raises(gradmq.JoinRefused, match="again is not on the allow-list any more"):
            push_for_ever(worker)
    keys.add(folder, "again", "worker")
    with gradmq.Worker(zeros(), cluster.address, keys=file) as worker:
        assert worker.push(ones()).verdict(ANSWER_S).applied


def test_without_the_right_key_a_broker_is_silent_and_the_error_says_what_to_look_at(
    cluster: gradmq.LocalCluster, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(gradmq.BrokerAway, match="If it has keys, name yours"):
        gradmq.Worker(zeros(), cluster.address, timeout=0.3).open()
    other = tmp_path / "other"
    keys.init(other)
    file = keys.add(other, "w", "worker")
    with pytest.raises(gradmq.BrokerAway, match="with keys, and w on its allow-list"):
        gradmq.Worker(zeros(), cluster.address, timeout=0.3, keys=file).open()


def test_a_key_that_is_allowed_while_its_owner_knocks_lets_it_in(
    cluster: gradmq.LocalCluster, folder: Path
) -> None:
    early = unknown(identity_of(folder, "broker").key)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        link._as_client(socket, early, early.broker_key)
        events = socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(cluster.address)
        assert recv_monitor_message(events)["event"] == zmq.EVENT_CONNECTED
        entry = AllowedKey(name="early", role="reader", key=early.key)
        (folder / "allowed").write_text(write_allow_list([*keys.allowed_in(folder), entry]))
        while recv_monitor_message(events)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
            pass  # the test's own time limit ends this
        socket.disable_monitor()
        events.close()
    keys.revoke(folder, "early")


# -- the self-test ---------------------------------------------------------------------------------


def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Access, "may_connect", lambda self, domain, key: True)


def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_as_listener", lambda socket, identity, domain: socket)


def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """CURVE alone: libzmq lets in whoever knows the public key if no gate answers."""

    def only_curve(socket: link.Socket, identity: Identity | None, domain: str) -> link.Socket:
        assert identity is not None
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, identity.secret.encode())
        return socket

    monkeypatch.setattr(link, "_as_listener", only_curve)
    monkeypatch.setattr("gradmq.security.gate.ADDRESS", "inproc://nowhere")


SABOTAGE = {
    "its gate lets everybody in": (open_gate, "an unknown key"),
    "it listens without CURVE": (no_curve, "no key"),
    "nobody asks its gate": (nobody_asked, "an unknown key"),
}


@pytest.fixture(params=SABOTAGE)
def sabotaged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who will get in; the settings of this process let that one in."""
    sabotage, who = SABOTAGE[request.param]
    sabotage(monkeypatch)
    return who


def test_a_broker_that_lets_strangers_in_does_not_start(
    folder: Path, tmp_path: Path, sabotaged: str
) -> None:
    broker = BrokerNode(broker_options(folder, tmp_path))
    with pytest.raises(gradmq.SettingsError, match=f"did not refuse a peer with {sabotaged}"):
        broker.run(lambda: True)


def test_a_broker_whose_settings_are_right_starts(folder: Path, tmp_path: Path) -> None:
    BrokerNode(broker_options(folder, tmp_path)).run(lambda: True)
    assert (tmp_path / "broker" / "address").exists()


@pytest.mark.parametrize("wrong", ["gradients", "parameters", "control"])
def test_a_shard_proves_each_of_its_sockets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    identity = with_role(folder, "ps")
    with zmq.Context() as context, Gate(context, Access()) as gate:
        guard = ShardGuard(gate, identity)
        made = {
            "gradients": lambda who: link.pull(context, who),
            "parameters": lambda who: link.publisher(context, SIZE, who),
            "control": lambda who: link.router(context, who),
        }
        with contextlib.ExitStack() as stack:
            sockets = []
            for name, make in made.items():
                socket = stack.enter_context(make(None if name == wrong else identity))
                link.bind(socket, "127.0.0.1", 0)
                sockets.append(socket)
            with pytest.raises(gradmq.SettingsError, match=f"the {wrong} socket .* with no key"):
                guard.prove_closed(*sockets)


def broker_options(folder: Path, state: Path) -> BrokerOptions:
    return BrokerOptions(
        run="r",
        shards=1,
        state=state,
        bind="127.0.0.1",
        port=0,
        advertise="127.0.0.1",
        insecure=False,
        release_every_s=1.0,
        save_every_s=1.0,
        settings={},
        keys=folder,
    )


def test_a_gate_that_does_not_answer_is_no_closed_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could come in: it is better to say so than to listen to nobody."""
    monkeypatch.setattr(self_test, "PROVE_S", 0.5)
    answered = threading.Event()
    monkeypatch.setattr(Gate, "_answer", lambda self, question: answered.wait() and [])
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        identity = identity_of(folder, "broker")
        gate = stack.enter_context(Gate(context, Access()))
        stack.callback(answered.set)
        router = stack.enter_context(link.router(context, identity, "broker"))
        link.bind(router, "127.0.0.1", 0)
        with pytest.raises(gradmq.SettingsError, match="did not refuse a peer with an unknown key"):
            self_test.prove_closed({"broker": router}, identity, gate)


# -- beyond this host ------------------------------------------------------------------------------


def test_with_keys_a_role_may_listen_beyond_this_host_and_without_it_may_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link.require_closed("0.0.0.0", insecure=False, closed=True)
    with pytest.raises(gradmq.SettingsError, match="--keys, or --insecure on a network you trust"):
        link.require_closed("0.0.0.0", insecure=False, closed=False)
    link.require_closed("10.0.0.1", insecure=True, closed=False)
    link.say_if_open("10.0.0.1", closed=True)
    assert caplog.records == []
    link.say_if_open("10.0.0.1", closed=False)
    assert "INSECURE: nothing is encrypted and nobody is checked" in caplog.text
