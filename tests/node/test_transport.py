"""Shared memory or TCP: the same training, whichever it is, and whoever comes or goes."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import zmq

import gradmq
from gradmq import link
from gradmq.layout import Layout, Tensor
from gradmq.ring import SLOTS, RingReader, RingView, memory_bytes, slot_vectors
from gradmq.shared_memory import SharedMemory, fence, open_segment
from gradmq.wire.codec import array_payload, payload_crc
from gradmq.wire.messages import (
    Attach,
    Attached,
    Detach,
    Directory,
    Goodbye,
    Hello,
    Message,
    Publication,
    Push,
    Renew,
    Segment,
    Verdict,
    Verdicts,
    Version,
    Welcome,
)
from gradmq.worker.session import Answered

pytestmark = pytest.mark.e2e

SIZE = 40
Arrays = dict[str, npt.NDArray[np.float32]]
Kind = TypeVar("Kind", bound=Message)


def zeros() -> Arrays:
    return {"weight": np.zeros(SIZE, np.float32)}


def ones() -> Arrays:
    return {"weight": np.ones(SIZE, np.float32)}


def new_cluster(transport: str = "auto", shards: int = 1, **settings: Any) -> gradmq.LocalCluster:
    return gradmq.LocalCluster(
        zeros(),
        shards=shards,
        optimizer=settings.pop("optimizer", gradmq.SGD(lr=1.0)),
        staleness=gradmq.Unbounded(),
        settings={"network.transport": transport, **settings.pop("more", {})},
        **settings,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    """One shard, transport auto, for tests that leave it as it is."""
    with new_cluster() as cluster:
        yield cluster


def status_once(
    cluster: gradmq.LocalCluster, ready: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """What members report is up to half a second old; the test's own time limit ends this."""
    while not ready(status := cluster.status()):
        pass
    return status


def row_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in status["workers"] if row["name"] == name]
    return row


# -- the same training ----------------------------------------------------------------------------


@pytest.mark.parametrize(("transport", "shown"), [("auto", "shm"), ("shm", "shm"), ("tcp", "tcp")])
def test_the_status_says_what_the_setting_led_to(transport: str, shown: str) -> None:
    with new_cluster(transport, shards=2) as cluster:
        with gradmq.Worker(zeros(), cluster.address, name="me") as worker:
            assert worker.push(ones()).verdict().applied
            shared = int(shown == "shm")
            status = status_once(
                cluster, lambda s: s["workers"][0]["seq"] and s["shards"][1]["version"]
            )
            assert row_of(status, "me")["transport"] == shown
            assert [shard["shared"] for shard in status["shards"]] == [shared, shared]
        status = status_once(cluster, lambda s: not s["shards"][0]["shared"])
    assert not any(Path("/dev/shm").glob("*gradmq*"))


def gradients() -> Iterator[Arrays]:
    """Of two tensors; now one is absent, now the other, now both, now none."""
    chance = np.random.default_rng(3)
    for step in range(40):
        whole = {
            "a": chance.standard_normal(1000).astype(np.float32),
            "b": chance.standard_normal((30, 7)).astype(np.float32),
        }
        yield {name: g for bit, (name, g) in enumerate(whole.items()) if step % 4 != bit + 2}


def trained(transport: str, max_in_flight: int) -> tuple[dict[str, bytes], list[str]]:
    """The parameters after some pushes, and what became of each."""
    arrays = {"a": np.ones(1000, np.float32), "b": np.ones((30, 7), np.float32)}
    optimizer = gradmq.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    with (
        gradmq.LocalCluster(
            arrays,
            shards=3,
            optimizer=optimizer,
            staleness=gradmq.Unbounded(),
            settings={"network.transport": transport},
        ) as cluster,
        gradmq.Worker(arrays, cluster.address, max_in_flight=max_in_flight) as worker,
    ):
        for gradient in gradients():
            worker.push(gradient)
        outcomes = [v.outcome for a in worker.drain(30) for v in a.verdicts]
        worker.pull()
        values = cluster.parameters()
        for name, array in values.items():
            np.testing.assert_array_equal(worker.parameters()[name], array)
            np.testing.assert_array_equal(arrays[name], array)
        return {name: array.tobytes() for name, array in values.items()}, outcomes


def test_the_same_pushes_come_to_the_same_to_the_last_bit() -> None:
    shared, over_tcp = trained("shm", max_in_flight=4), trained("tcp", max_in_flight=4)
    assert shared == over_tcp
    assert set(shared[1]) == {"applied"}


def test_a_window_wider_than_a_shard_grants_is_shared_all_the_same(
    cluster: gradmq.LocalCluster,
) -> None:
    with gradmq.Worker(zeros(), cluster.address, name="wide", max_in_flight=100) as worker:
        handles = [worker.push(ones()) for _ in range(100)]
        assert all(handle.verdict().applied for handle in handles)
        status = status_once(cluster, lambda s: row_of(s, "wide")["seq"] == 100)
        assert row_of(status, "wide")["transport"] == "shm"


PUSHER = """
import sys, numpy, gradmq

arrays = {"weight": numpy.zeros(int(sys.argv[2]), numpy.float32)}
with gradmq.Worker(arrays, sys.argv[1], max_in_flight=4) as worker:
    print("here", flush=True)
    while not worker.stopping:
        worker.push({"weight": numpy.ones(arrays["weight"].size, numpy.float32)})
"""


@contextlib.contextmanager
def pusher(
    cluster: gradmq.LocalCluster, size: int, *before: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that pushes ones without end; it is here when this begins."""
    command = [*before, sys.executable, "-c", PUSHER, cluster.address, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.kill()


def test_no_worker_ever_sees_parts_of_two_versions() -> None:
    """Every element counts the updates, so they are all equal in every version."""
    size = 1 << 18
    arrays = {"weight": np.zeros(size, np.float32)}
    with (
        gradmq.LocalCluster(
            arrays, optimizer=gradmq.SGD(lr=1.0), staleness=gradmq.Unbounded()
        ) as cluster,
        pusher(cluster, size),
        gradmq.Worker(arrays, cluster.address) as worker,
    ):
        seen = []
        while len(set(seen)) < 50:
            ((_, version),) = worker.pull()
            assert arrays["weight"].min() == arrays["weight"].max() == -version
            seen.append(version)
        assert seen == sorted(seen)


# -- who comes and goes ---------------------------------------------------------------------------


def test_a_worker_that_is_killed_in_the_midst_of_it_leaves_nothing_and_the_others_go_on() -> None:
    with (
        new_cluster(shards=2) as cluster,
        gradmq.Worker(zeros(), cluster.address, name="left") as worker,
    ):
        with pusher(cluster, SIZE) as process:
            status_once(cluster, lambda s: all(shard["applied"] > 100 for shard in s["shards"]))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        before = cluster.status()["shards"]
        for _ in range(20):
            assert worker.push(ones()).verdict().applied
        worker.pull()
        np.testing.assert_array_equal(worker.parameters()["weight"], cluster.parameters()["weight"])
        after = status_once(
            cluster, lambda s: (row_of(s, "left")["applied"], row_of(s, "left")["seq"]) == (40, 20)
        )
        assert [s["pid"] for s in after["shards"]] == [s["pid"] for s in before]
        assert row_of(after, "left")["transport"] == "shm"
        assert all(v[1] == -x for v, x in zip(cluster.versions(), _by_shard(cluster), strict=True))
    assert not any(Path("/dev/shm").glob("*gradmq*"))


def _by_shard(cluster: gradmq.LocalCluster) -> list[float]:
    """The value that all elements of each shard have."""
    halves = np.split(cluster.parameters()["weight"], 2)
    assert all(half.min() == half.max() for half in halves)
    return [float(half[0]) for half in halves]


def test_a_worker_that_has_closed_holds_no_shared_memory(cluster: gradmq.LocalCluster) -> None:
    """Neither its own slots, a model for each push in its window, nor the shards' rings."""
    gc.collect()
    before = shared_memory_of_this_process()
    worker = gradmq.Worker(zeros(), cluster.address).open()
    assert worker.push(ones()).verdict().applied
    assert shared_memory_of_this_process() > before
    worker.close()
    gc.collect()
    assert shared_memory_of_this_process() == before
    assert worker.parameters()["weight"].shape == (SIZE,)


def shared_memory_of_this_process() -> int:
    """How many mappings it has."""
    return Path("/proc/self/maps").read_text().count("/memfd:gradmq-")


def test_a_shard_that_is_killed_comes_back_with_a_new_ring_and_nobody_goes_backwards(
    tmp_path: Path,
) -> None:
    with (
        new_cluster(
            folder=tmp_path,
            more={"run.release_every": "50ms", "run.save_every": "50ms"},
        ) as cluster,
        gradmq.Worker(zeros(), cluster.address, name="me") as worker,
    ):
        seen: list[Version] = []

        def train(pushes: int) -> None:
            for _ in range(pushes):
                worker.push(ones())
                worker.catch_up()
                seen.extend(worker.versions)

        train(5)
        for incarnation in (2, 3):
            status_once(cluster, lambda s: s["release"]["saved"] > 0)
            cluster.kill("ps-0")
            cluster.restart_shard(0)
            while worker.versions[0][0] < incarnation:  # the test's own time limit ends this
                train(1)
            train(5)
        assert seen == sorted(seen)
        worker.drain(30)
        assert worker.pull() == cluster.versions()
        np.testing.assert_array_equal(worker.parameters()["weight"], cluster.parameters()["weight"])
        pushes = len(seen)
        status = status_once(cluster, lambda s: row_of(s, "me")["seq"] == pushes)
        assert row_of(status, "me")["transport"] == "shm"


# -- torn reads -----------------------------------------------------------------------------------


class Overtaken(RingReader):
    """A reader whose every copy is overtaken, or all but every so many."""

    every = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._asked = 0

    def is_intact(self, view: RingView) -> bool:
        self._asked += 1
        return super().is_intact(view) and bool(self.every and self._asked % self.every == 0)


class OvertakenTwice(Overtaken):
    """The third try succeeds: nothing is fetched."""

    every = 3


@pytest.mark.parametrize("reader", [Overtaken, OvertakenTwice])
def test_a_worker_that_is_always_overtaken_trains_exactly_all_the_same(
    cluster: gradmq.LocalCluster, reader: type[Overtaken], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradmq.worker.node.RingReader", reader)
    name = reader.__name__
    with gradmq.Worker(zeros(), cluster.address, name=name, max_in_flight=1) as worker:
        start, ((_, version),) = worker.parameters()["weight"][0], worker.versions
        answers: list[Answered] = []
        for step in range(1, 8):
            worker.push(ones())
            answers += worker.catch_up().verdicts
            assert worker.versions == ((1, version + step),)
            np.testing.assert_array_equal(worker.parameters()["weight"], start - step)
        assert [answer.verdicts[0].staleness for answer in answers] == [0] * 7
        tries = 3 if reader is Overtaken else 2
        status = status_once(cluster, lambda s: row_of(s, name)["torn_reads"] >= 8 * tries)
        assert row_of(status, name)["torn_reads"] == 8 * tries
        assert row_of(status, name)["transport"] == "shm"


# -- a session by hand ----------------------------------------------------------------------------


class Peer:
    """A worker that speaks the wire itself, with one session on one shard."""

    def __init__(self, context: zmq.Context[Any], address: str, name: str) -> None:
        self.layout = Layout((Tensor("weight", "float32", (SIZE,)),), 1)
        self.name = name
        self.broker = link.dealer(context, address)
        hello = Hello(
            role="worker", name=name, host="here", pid=1, payload=(self.layout.to_bytes(),)
        )
        self.say(self.broker, hello)
        self.session = self.hear(self.broker, Welcome).session
        directory = self.hear(self.broker, Directory)
        while self.session not in directory.sessions:
            directory = self.hear(self.broker, Directory)
        self.incarnation = directory.shards[0].incarnation
        gradients, parameters, control = directory.shards[0].addresses
        self.stream = link.subscribe(context, parameters, [link.TOPIC_NEWEST])
        self.gradients = link.push(context, gradients)
        self.control = link.dealer(context, control)
        self.seq = 0

    def close(self) -> None:
        self.say(self.control, Detach(session=self.session))
        self.say(self.broker, Goodbye())
        for socket in (self.broker, self.stream, self.gradients, self.control):
            socket.close(linger=1000)

    def say(self, socket: link.Socket, message: Message) -> None:
        assert socket.poll(10_000, zmq.POLLOUT)
        assert link.send(socket, message)

    def hear(self, socket: link.Socket, kind: type[Kind]) -> Kind:
        """The next message of this kind."""
        while True:
            assert socket.poll(10_000)
            message = link.receive_good(socket, prefixes=int(socket is self.__dict__.get("stream")))
            if isinstance(message, kind):
                return message

    def attach(self, segment: Segment | None = None, window: int = 2) -> Attached:
        # The shard does not answer before it has the directory that lists the session.
        while True:
            message = Attach(
                run="local",
                layout=self.layout.hash,
                session=self.session,
                name=self.name,
                oldest_unanswered=self.seq + 1,
                newest_seen=None,
                window=window,
                segment=segment,
            )
            self.say(self.control, message)
            self.say(self.broker, Renew(report={}))
            if self.control.poll(100):
                return self.hear(self.control, Attached)

    def push(self, base: Version, values: Sequence[float] = (), **changes: Any) -> Verdict:
        self.seq += 1
        payload = array_payload(np.array(values, np.float32))
        fields: dict[str, Any] = {
            "run": "local", "shard": 0, "incarnation": self.incarnation, "session": self.session,
            "seq": self.seq, "base": base, "layout": self.layout.hash, "payload": payload,
            "crc": payload_crc(payload),
        }  # fmt: skip
        self.say(self.gradients, Push(**{**fields, **changes}))
        (verdict,) = self.hear(self.control, Verdicts).verdicts
        assert verdict.seq == self.seq
        return verdict


NewPeer = Callable[[str], Peer]


@pytest.fixture
def new_peer(cluster: gradmq.LocalCluster) -> Iterator[NewPeer]:
    with zmq.Context() as context, contextlib.ExitStack() as stack:

        def new_peer(name: str) -> Peer:
            peer = Peer(context, cluster.address, name)
            stack.callback(peer.close)
            return peer

        yield new_peer


def unsealed(nbytes: int) -> tuple[int, Segment]:
    """A descriptor, and its segment: right but for its seals."""
    fd = os.memfd_create("gradmq-gradients", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, bytes(range(16)))
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return fd, Segment(pid=os.getpid(), fd=fd, nonce=bytes(range(16)), nbytes=nbytes)


def wrong_segment(what: str, right: SharedMemory, opened: contextlib.ExitStack) -> Segment:
    segment = right.segment
    if what == "nonce":
        return replace(segment, nonce=bytes(16))
    if what == "size said":
        return replace(segment, nbytes=segment.nbytes + 4096)
    if what == "size":
        small = SharedMemory("gradients", 4096)
        opened.callback(lambda: small)
        return replace(small.segment, nbytes=segment.nbytes)
    if what == "seals":
        fd, unsealed_segment = unsealed(segment.nbytes)
        opened.callback(os.close, fd)
        return unsealed_segment
    if what == "process":
        return replace(segment, pid=(1 << 22) + 1)
    fd = os.open(os.devnull, os.O_RDONLY)
    opened.callback(os.close, fd)
    return replace(segment, fd=fd)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("nonce", "holds another nonce"),
        ("size said", "bytes where 12288 belong"),
        ("size", "has 4096 bytes, not 12288"),
        ("seals", "is not sealed"),
        ("process", "No such file"),
        ("descriptor", "is no segment"),
    ],
)
def test_a_session_whose_segment_is_wrong_is_told_why_and_pushes_over_tcp(
    cluster: gradmq.LocalCluster, new_peer: NewPeer, what: str, why: str
) -> None:
    nbytes = memory_bytes(SIZE, 2)
    right = SharedMemory("gradients", nbytes)
    with (
        contextlib.ExitStack() as opened,
        gradmq.Worker(zeros(), cluster.address, name="unmoved") as worker,
    ):
        ((_, version),) = worker.versions
        value = worker.parameters()["weight"][0]
        peer = new_peer(what.replace(" ", "-"))
        attached = peer.attach(wrong_segment(what, right, opened))
        assert attached.ring is None
        assert why in attached.not_shared
        assert peer.push((1, version), [1.0] * SIZE).version == (1, version + 1)
        rejected = peer.push((1, version), slot=0, crc=0)
        assert (rejected.outcome, rejected.reason) == ("rejected", "malformed")
        assert worker.push(ones()).verdict().applied
        worker.pull()
        np.testing.assert_array_equal(worker.parameters()["weight"], value - 2)
        assert worker.versions == cluster.versions() == ((1, version + 2),)


def test_one_shard_serves_one_session_over_tcp_and_another_through_shared_memory(
    cluster: gradmq.LocalCluster, new_peer: NewPeer
) -> None:
    with gradmq.Worker(zeros(), cluster.address, name="near") as near:
        far = new_peer("far")
        assert far.attach().ring is None
        ((_, version),) = near.versions
        value = near.parameters()["weight"][0]
        for step in range(1, 21):
            if step % 2:
                assert near.push(ones()).verdict().applied
            else:
                assert far.push((1, version), [1.0] * SIZE).outcome == "applied"
            newest = far.hear(far.stream, Publication)
            while newest.version < (1, version + step):
                newest = far.hear(far.stream, Publication)
            assert newest.crc == payload_crc(newest.payload)
            values = np.frombuffer(b"".join(newest.payload), np.float32)
            np.testing.assert_array_equal(values, value - step)
            assert near.pull() == ((1, version + step),)
            np.testing.assert_array_equal(near.parameters()["weight"], value - step)
        status = status_once(cluster, lambda s: row_of(s, "near")["seq"] == 10)
        assert row_of(status, "near")["transport"] == "shm"


def test_a_session_by_hand_pushes_from_its_slots_and_reads_the_ring(
    cluster: gradmq.LocalCluster, new_peer: NewPeer
) -> None:
    """As docs/wire.md says it, without a line of the worker."""
    mine = SharedMemory("gradients", memory_bytes(SIZE, 2))
    slots = slot_vectors(mine.memory, SIZE, 2)
    peer = new_peer("by-hand")
    attached = peer.attach(mine.segment)
    assert attached.not_shared == ""
    assert attached.ring is not None
    nbytes = memory_bytes(SIZE, SLOTS)
    ring = RingReader(open_segment(attached.ring, nbytes), SIZE, fence)
    before = ring.newest()
    value = before.values[0]
    slots[1][:] = 3.0
    assert peer.push((1, before.version), slot=1, crc=0).outcome == "applied"
    view = ring.newest()
    assert view.version == before.version + 1
    np.testing.assert_array_equal(view.values, value - 3.0)
    assert ring.is_intact(view)
    for wrong in ({"slot": 2}, {"slot": 1 << 40}, {"slot": 0, "payload": (bytes(4 * SIZE),)}):
        assert peer.push((1, view.version), **{"crc": 0, **wrong}).reason == "malformed"
    assert ring.newest() == view


def test_what_is_no_subscription_stops_no_publication(
    cluster: gradmq.LocalCluster, new_peer: NewPeer
) -> None:
    _, parameters, _ = cluster.status()["shards"][0]["addresses"]
    peer = new_peer("reader")
    peer.attach()
    ((_, version),) = cluster.versions()
    peer.push((1, version), [1.0] * SIZE)
    while peer.hear(peer.stream, Publication).version < (1, version + 1):
        pass
    with zmq.Context() as context, context.socket(zmq.XSUB) as hostile:
        hostile.setsockopt(zmq.LINGER, 1000)
        hostile.connect(parameters)
        for first in (b"\x02", b"\x05", b"\xff"):
            hostile.send(first + link.TOPIC_NEWEST)
        # An answer to this comes after that has been read.
        hostile.send(b"\x01" + link.TOPIC_BEACONS)
        assert hostile.poll(10_000)
        for step in (2, 3):
            peer.push((1, version), [1.0] * SIZE)
            while peer.hear(peer.stream, Publication).version < (1, version + step):
                pass


# -- as root --------------------------------------------------------------------------------------

#: In a process namespace of its own, which ends with the process.
APART = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture
def apart() -> tuple[str, ...]:
    if os.geteuid() != 0:
        pytest.skip("process namespaces need root")
    if shutil.which(APART[0]) is None:
        pytest.skip("process namespaces need the command unshare (Debian: util-linux)")
    probe = subprocess.run([*APART, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"process namespaces cannot be made here: {probe.stderr.strip()}")
    return APART


@pytest.mark.root
def test_a_worker_in_another_container_uses_tcp_beside_one_that_does_not(
    apart: tuple[str, ...],
) -> None:
    with (
        new_cluster() as cluster,
        gradmq.Worker(zeros(), cluster.address, name="near") as near,
        pusher(cluster, SIZE, *apart),
    ):
        status = status_once(
            cluster,
            lambda s: (
                near.push(ones()).verdict().applied
                and all(row["applied"] > 20 and row["seq"] for row in s["workers"])
            ),
        )
        ways = {row["name"]: row["transport"] for row in status["workers"]}
        assert ways.pop("near") == "shm"
        assert list(ways.values()) == ["tcp"]


@pytest.mark.root
def test_a_worker_that_must_share_memory_and_cannot_says_why(apart: tuple[str, ...]) -> None:
    with new_cluster("shm") as cluster:
        refused = subprocess.run(
            [*apart, sys.executable, "-c", PUSHER, cluster.address, str(SIZE)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert "JoinRefused: network.transport is shm, but shard 0: " in last
    assert "/proc/" in last


OTHER_USER = """
import os, sys
import numpy, gradmq
from gradmq.worker.client import Worker

os.setgid(65534)
os.setuid(65534)
arrays = {"weight": numpy.zeros(int(sys.argv[2]), numpy.float32)}
with gradmq.Worker(arrays, sys.argv[1], name="other-user") as worker:
    print(worker.versions, flush=True)
    ones = {"weight": numpy.ones(arrays["weight"].size, numpy.float32)}
    for _ in range(3):
        assert worker.push(ones).verdict().applied
        sys.stdin.readline()
        print(worker.pull(), float(arrays["weight"][0]), flush=True)
"""


@pytest.mark.root
def test_a_worker_of_another_user_than_the_shards_gets_all_that_others_push() -> None:
    """Root's shard may open its segment, but it may not open the shard's."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with (
        new_cluster() as cluster,
        gradmq.Worker(zeros(), cluster.address, name="root") as worker,
        subprocess.Popen(
            [sys.executable, "-c", OTHER_USER, cluster.address, str(SIZE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "((1, 0),)\n"
            for step in (1, 2, 3):
                status_once(cluster, lambda s, n=step: s["shards"][0]["version"] == 5 * n - 4)
                for _ in range(4):
                    assert worker.push(ones()).verdict().applied
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == f"((1, {5 * step}),) {-5.0 * step}\n"
            assert process.wait(20) == 0
        finally:
            process.kill()
