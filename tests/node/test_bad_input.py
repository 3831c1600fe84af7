"""Whatever is thrown at a port, its process lives, and the others train on and notice nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import psutil
import pytest
import zmq

import gradmq
from gradmq.layout import Layout, Tensor
from gradmq.ps.node import PsNode, PsOptions
from gradmq.wire.codec import decode, encode
from gradmq.wire.messages import (
    AskStatus,
    Attach,
    Fetch,
    Hello,
    Message,
    Push,
    Query,
    Reattach,
    Refused,
    Rejoin,
    Renew,
    Seed,
    Welcome,
)

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]


def zeros() -> Arrays:
    return {"weight": np.zeros(40, np.float32)}


def ones() -> Arrays:
    return {"weight": np.ones(40, np.float32)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(
        zeros(),
        shards=2,
        optimizer=gradmq.SGD(lr=1.0),
        staleness=gradmq.Unbounded(),
        settings={"network.transport": "tcp"},  # so that everything goes through these ports
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def worker(cluster: gradmq.LocalCluster) -> Iterator[gradmq.Worker]:
    """Trains through all of it."""
    with gradmq.Worker(zeros(), cluster.address, name="unmoved") as worker:
        yield worker


@pytest.fixture
def still_trains(cluster: gradmq.LocalCluster, worker: gradmq.Worker) -> Iterator[None]:
    """The same processes, the same session, and every push applied once, before and after."""
    before = [(s["pid"], s["incarnation"]) for s in cluster.status()["shards"]]
    session = worker.session
    value = cluster.parameters()["weight"]
    assert worker.push(ones()).verdict().applied
    yield
    assert worker.push(ones()).verdict().applied
    worker.pull()
    np.testing.assert_array_equal(worker.parameters()["weight"], value - 2)
    assert worker.session == session
    assert [(s["pid"], s["incarnation"]) for s in cluster.status()["shards"]] == before
    with gradmq.Worker(zeros(), cluster.address) as newcomer:
        np.testing.assert_array_equal(newcomer.parameters()["weight"], value - 2)


def ports(cluster: gradmq.LocalCluster) -> dict[str, str]:
    gradients, parameters, control = cluster.status()["shards"][0]["addresses"]
    return {
        "broker": cluster.address,
        "gradients": gradients,
        "parameters": parameters,
        "control": control,
    }


PORTS = ("broker", "gradients", "parameters", "control")

GREETING = b"\xff" + 8 * b"\0" + b"\x7f\x03\x00NULL" + 48 * b"\0"

BYTES = {
    "zeros": bytes(4096),
    "noise": np.random.default_rng(0).bytes(70_000),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a greeting": GREETING[:11],
    "unknown mechanism": b"\xff" + 8 * b"\0" + b"\x7f\x03\x00MAGIC" + 47 * b"\0",
    "a frame without end": GREETING[:64] + b"\x02\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(1000),
    "a command that is none": GREETING[:64] + b"\x04\x05\x04nope",
}


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.usefixtures("still_trains")
def test_bytes_that_are_no_zmtp(cluster: gradmq.LocalCluster, port: str) -> None:
    host, _, number = ports(cluster)[port].removeprefix("tcp://").rpartition(":")
    for data in BYTES.values():
        with socket.create_connection((host, int(number))) as connection:
            connection.settimeout(0.2)
            with contextlib.suppress(OSError):  # it may hang up in the midst of it
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass  # what it says until it hangs up, or waits for more


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.usefixtures("still_trains")
def test_many_connections_that_say_nothing(cluster: gradmq.LocalCluster, port: str) -> None:
    host, _, number = ports(cluster)[port].removeprefix("tcp://").rpartition(":")
    silent = [socket.create_connection((host, int(number))) for _ in range(50)]
    for connection in silent:
        connection.close()


def header(**fields: Any) -> list[bytes]:
    packed: bytes = msgpack.packb({"w": 1, **fields})
    return [packed]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


FRAMES: dict[str, list[bytes]] = {
    "an empty frame": [b""],
    "many empty frames": 5000 * [b""],
    "noise": [np.random.default_rng(1).bytes(3000)],
    "pickle": [b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94."],
    "a list": [msgpack.packb([1, 2, 3])],
    "nil": [msgpack.packb(None)],
    "half a map": [msgpack.packb({"w": 1, "k": "hello"})[:-3]],
    "a map of a million entries": [b"\xdf\x00\x0f\x42\x40" + bytes(100)],
    "no version": [msgpack.packb({"k": "hello"})],
    "another version": [msgpack.packb({"w": 99, "k": "hello"})],
    "a version that is a string": [msgpack.packb({"w": "1", "k": "hello"})],
    "no kind": header(),
    "an unknown kind": header(k="format_disk"),
    "a kind that is a list": header(k=["hello"]),
    "a hello without fields": header(k="hello"),
    "a nested bomb": header(k="renew", report={"x": deep(500)}),
    "a message of the other side": header(
        k="welcome", run="x", name="", session=1, shards=1, lease_s=1.0, settings={}
    ),
    "a part that is too long": [*header(k="ask_status"), bytes((1 << 20) + 1)],
    "parts where none belong": [*header(k="ask_status"), b"abc"],
    "a header that is too long": [bytes((1 << 20) + 1)],
    "a frame that is too long": [bytes(3 << 20)],
    "negative numbers": header(k="query", session=-1, seq=-1),
    "numbers without end": header(k="query", session=1 << 63, seq=1),
    "not a number": header(k="query", session=float("nan"), seq=1),
}


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.usefixtures("still_trains")
def test_messages_that_are_none(cluster: gradmq.LocalCluster, port: str) -> None:
    kind = {"gradients": zmq.PUSH, "parameters": zmq.XSUB}.get(port, zmq.DEALER)
    with zmq.Context() as context:
        for frames in FRAMES.values():
            with context.socket(kind) as hostile:
                hostile.setsockopt(zmq.LINGER, 200)
                hostile.setsockopt(zmq.SNDTIMEO, 2000)
                hostile.connect(ports(cluster)[port])
                hostile.send_multipart(frames)


Ask = Callable[[str, list[Any]], Message]


@pytest.fixture
def ask(cluster: gradmq.LocalCluster) -> Iterator[Ask]:
    """Send frames to a port as a peer nobody knows; returns the answer."""
    with zmq.Context() as context:

        def ask(port: str, frames: list[Any]) -> Message:
            with context.socket(zmq.DEALER) as stranger:
                stranger.setsockopt(zmq.LINGER, 0)
                stranger.setsockopt(zmq.RCVTIMEO, 10_000)
                stranger.connect(ports(cluster)[port])
                stranger.send_multipart(frames)
                return decode(stranger.recv_multipart())

        yield ask


@pytest.mark.parametrize("port", ["broker", "control"])
def test_another_wire_version_is_answered_with_both_numbers(ask: Ask, port: str) -> None:
    answer = ask(port, FRAMES["another version"])
    assert isinstance(answer, Refused) and answer.reason == "wire"
    assert "99" in answer.text and "speaks 1" in answer.text


def hello(**changes: Any) -> list[Any]:
    fields: dict[str, Any] = {"role": "follower", "name": "", "host": "here", "pid": 1}
    return encode(Hello(**{**fields, **changes}))


def test_a_member_of_another_run_is_told_both_names(ask: Ask) -> None:
    answer = ask("broker", hello(run="other"))
    assert isinstance(answer, Refused) and answer.reason == "run"
    assert "local" in answer.text and "other" in answer.text


def test_a_message_for_somebody_else_is_refused_by_name(ask: Ask) -> None:
    answer = ask("broker", encode(Query(session=1, seq=1)))
    assert isinstance(answer, Refused) and "query is not for the broker" in answer.text
    answer = ask("control", encode(AskStatus()))
    assert isinstance(answer, Refused) and "ask_status is not for a shard" in answer.text


def test_an_impossible_shard_is_refused(ask: Ask) -> None:
    answer = ask("broker", hello(role="ps", shard=7, incarnation=1))
    assert isinstance(answer, Refused) and "no shard 7 in a run of 2" in answer.text


def test_a_second_process_for_a_shard_is_told_who_serves_it(
    cluster: gradmq.LocalCluster, ask: Ask
) -> None:
    pid = cluster.status()["shards"][0]["pid"]
    answer = ask("broker", hello(role="ps", shard=0, incarnation=1))
    assert isinstance(answer, Refused) and f"process {pid}" in answer.text


def test_a_stranger_who_renews_is_asked_to_say_hello(ask: Ask) -> None:
    assert isinstance(ask("broker", encode(Renew(report={}))), Rejoin)


def test_a_layout_that_is_none_is_refused(ask: Ask) -> None:
    answer = ask("broker", hello(role="worker", payload=(b"\x92\x01\x91\x00",)))
    assert isinstance(answer, Refused) and answer.reason == "layout"


def test_a_shard_attaches_nobody_whom_the_broker_does_not_know(
    cluster: gradmq.LocalCluster, worker: gradmq.Worker, ask: Ask
) -> None:
    layout = Layout((Tensor("weight", "float32", (40,)),), 2).hash

    def attach(**changes: Any) -> Message:
        fields = {"run": "local", "layout": layout, "session": worker.session, "name": "stranger",
                  "oldest_unanswered": 1, "newest_seen": None, "window": 1}  # fmt: skip
        return ask("control", encode(Attach(**{**fields, **changes})))

    for changes, reason in (({"run": "x"}, "run"), ({"layout": "x"}, "layout")):
        answer = attach(**changes)
        assert isinstance(answer, Refused) and answer.reason == reason
    answer = ask("control", encode(Query(session=12345, seq=1)))
    assert isinstance(answer, Reattach) and answer.session == 12345
    answer = ask("control", encode(Fetch(run="local", layout="x")))
    assert isinstance(answer, Refused) and answer.reason == "layout"
    answer = ask("control", encode(Fetch(run="local", layout=layout, release=1 << 40)))
    assert isinstance(answer, Refused) and answer.reason == "release"


@pytest.mark.usefixtures("still_trains")
def test_pushes_that_cannot_be_right_are_not_applied(
    cluster: gradmq.LocalCluster, ask: Ask
) -> None:
    """As well formed as can be, but for one thing each."""
    layout = Layout((Tensor("weight", "float32", (40,)),), 2)
    shard = cluster.status()["shards"][0]
    good: dict[str, Any] = {
        "run": "local", "shard": 0, "incarnation": 1, "session": 77, "seq": 1,
        "base": (1, 0), "layout": layout.hash, "payload": (bytes(80),),
    }  # fmt: skip
    wrong: list[dict[str, Any]] = [
        {},  # a session that never attached
        {"run": "other"},
        {"shard": 1},
        {"incarnation": 9},
        {"seq": 1 << 62},
        {"base": (9, 9)},
        {"layout": "0" * 16},
        {"codec": "gzip"},
        {"present": b""},
        {"payload": (bytes(79),)},
        {"payload": (np.full(20, np.nan, np.float32).tobytes(),)},
    ]
    version = cluster.versions()
    with zmq.Context() as context, context.socket(zmq.PUSH) as hostile:
        hostile.setsockopt(zmq.LINGER, 1000)
        hostile.connect(shard["addresses"][0])
        for changes in wrong:
            hostile.send_multipart(encode(Push(**{**good, **changes})))
    seed = Seed(run="local", layout=layout.hash, shard=0, session=77, crc=0, payload=(bytes(80),))
    with zmq.Context() as context, context.socket(zmq.DEALER) as hostile:
        hostile.setsockopt(zmq.LINGER, 1000)
        hostile.connect(shard["addresses"][2])
        hostile.send_multipart(encode(seed))
    assert cluster.versions() == version


def test_a_broker_of_another_wire_version_is_named_at_once() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def answer_in_another_version() -> None:
            peer = router.recv_multipart()[0]
            router.send_multipart([peer, msgpack.packb({"w": 2, "k": "welcome"})])

        broker = threading.Thread(target=answer_in_another_version)
        broker.start()
        try:
            with pytest.raises(gradmq.JoinRefused, match="wire version 2, this side speaks 1"):
                gradmq.Worker(zeros(), f"tcp://127.0.0.1:{port}").open()
        finally:
            broker.join()


@pytest.mark.usefixtures("still_trains")
def test_a_member_goes_on_after_the_broker_could_not_read_one_of_its_messages(
    cluster: gradmq.LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """What is damaged on the way is refused; that the member belongs to the run is settled."""
    with gradmq.Worker(zeros(), cluster.address) as worker:
        with worker._io.lock:
            worker._io.tell_broker(Query(session=1, seq=1))
        while "could not read a message" not in caplog.text:  # the test's own limit ends this
            cluster.status()
        before = cluster.parameters()["weight"]
        assert worker.push(ones()).verdict().applied
        worker.push({"weight": -ones()["weight"]}).verdict()
        np.testing.assert_array_equal(cluster.parameters()["weight"], before)


def test_a_shard_goes_on_after_the_broker_could_not_read_one_of_its_messages(
    tmp_path: Path,
) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as broker:
        port = broker.bind_to_random_port("tcp://127.0.0.1")
        broker.setsockopt(zmq.RCVTIMEO, 10_000)
        address = f"tcp://127.0.0.1:{port}"
        stop = threading.Event()
        options = PsOptions(address, 0, tmp_path, "127.0.0.1", 0, "127.0.0.1", False, 1, None, 3)
        node = PsNode(options)
        shard = threading.Thread(target=node.run, args=(stop.is_set,))
        shard.start()
        try:
            peer, *hello = broker.recv_multipart()
            assert isinstance(decode(hello), Hello)
            welcome = Welcome(run="r", name="ps-0", session=0, shards=1, lease_s=10.0, settings={})
            for answer in (welcome, Refused(reason="wire", text="labelled without 'shard'")):
                broker.send_multipart([peer, *encode(answer)])
            for _ in range(2):
                assert isinstance(decode(broker.recv_multipart()[1:]), Renew)
        finally:
            stop.set()
            shard.join()


@pytest.mark.usefixtures("still_trains")
def test_connections_that_were_dropped_take_no_descriptors(cluster: gradmq.LocalCluster) -> None:
    shard = psutil.Process(cluster.status()["shards"][0]["pid"])
    host, _, number = ports(cluster)["gradients"].removeprefix("tcp://").rpartition(":")
    for _ in range(100):
        with socket.create_connection((host, int(number))) as connection:
            connection.sendall(BYTES["half a greeting"])
    while shard.num_fds() > 60:  # the test's own time limit ends this
        cluster.status()
