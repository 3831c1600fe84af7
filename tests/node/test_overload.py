"""Peers that stop reading, or send without end, use up neither memory nor descriptors for long."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import zmq

import gradmq
from gradmq import link
from gradmq.memory_guard import MemoryGuard

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

SIZE = 250_000
PORTS = ("broker", "gradients", "parameters", "control")

#: What a peer says before its first frame: a greeting, and READY with its socket type.
GREETING = b"\xff" + 8 * b"\0" + b"\x7f\x03\x00NULL" + 48 * b"\0"
SPEAKS_AS = {"broker": b"DEALER", "gradients": b"PUSH", "parameters": b"XSUB", "control": b"DEALER"}


def zeros() -> dict[str, npt.NDArray[np.float32]]:
    return {"weight": np.zeros(SIZE, np.float32)}


def ones() -> dict[str, npt.NDArray[np.float32]]:
    return {"weight": np.ones(SIZE, np.float32)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[gradmq.LocalCluster]:
    settings = {"network.transport": "tcp", "ps.push_budget_mb": 32, "run.save_every": "1h"}
    with gradmq.LocalCluster(
        zeros(), 1, gradmq.SGD(lr=1.0), gradmq.Unbounded(), settings, tmp_path
    ) as cluster:
        yield cluster


@pytest.fixture
def worker(cluster: gradmq.LocalCluster) -> Iterator[gradmq.Worker]:
    with gradmq.Worker(zeros(), cluster.address, name="unmoved") as worker:
        assert worker.push(ones()).verdict().applied
        yield worker


def process_and_address(cluster: gradmq.LocalCluster, port: str) -> tuple[psutil.Process, str]:
    addresses = [cluster.address, *cluster.status()["shards"][0]["addresses"]]
    (pid,) = cluster.pids("broker" if port == "broker" else "ps")
    return psutil.Process(pid), addresses[PORTS.index(port)]


def connect(address: str) -> socket.socket:
    host, _, number = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(number)), timeout=5)


@pytest.mark.parametrize("port", PORTS)
def test_a_message_without_end_costs_its_sender_the_connection_and_nobody_the_run(
    cluster: gradmq.LocalCluster, worker: gradmq.Worker, port: str, tmp_path: Path
) -> None:
    process, address = process_and_address(cluster, port)
    ready = b"\x05READY\x0bSocket-Type" + len(SPEAKS_AS[port]).to_bytes(4, "big") + SPEAKS_AS[port]
    frame = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)
    peak = 0
    with connect(address) as attacker, contextlib.suppress(OSError):
        attacker.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
        while True:  # until the other side hangs up
            attacker.sendall(frame)
            peak = max(peak, process.memory_info().rss)
    assert peak < 1 << 30
    for _ in range(3):
        assert worker.push(ones()).verdict().applied
    worker.pull()
    np.testing.assert_array_equal(worker.parameters()["weight"], -4 * ones()["weight"])
    log = tmp_path / "logs" / ("broker.log" if port == "broker" else "ps-0.log")
    assert "are allowed: drops all connections" in log.read_text()
    while process.memory_info().rss > 200 << 20:
        time.sleep(0.02)  # the test's own time limit ends this
    session = worker.session
    with gradmq.Worker(zeros(), cluster.address) as late:
        assert late.push(ones()).verdict().applied
    assert worker.session == session, "nobody was fenced for it"


def test_readers_that_are_stopped_are_dropped_and_the_others_go_on(
    cluster: gradmq.LocalCluster, worker: gradmq.Worker
) -> None:
    process, address = process_and_address(cluster, "parameters")
    with zmq.Context() as context:
        stopped = []
        for _ in range(5):
            reader = context.socket(zmq.SUB)
            reader.setsockopt(zmq.LINGER, 0)
            reader.setsockopt(zmq.RCVHWM, 1)
            reader.setsockopt(zmq.RCVBUF, 1 << 16)
            reader.setsockopt(zmq.RECONNECT_IVL, -1)
            reader.setsockopt(zmq.SUBSCRIBE, link.TOPIC_NEWEST)
            reader.connect(address)
            stopped.append(reader)
        for reader in stopped:
            while not reader.poll(50):
                assert worker.push(ones()).verdict().applied
        connected, before = process.num_fds(), process.memory_info().rss
        applied = 0
        while process.num_fds() > connected - len(stopped):  # until the kernel gives them up
            assert worker.push(ones()).verdict().applied
            worker.catch_up()
            applied += 1
        assert applied > 20
        # Four publications of one version or another, and what malloc keeps of them.
        assert process.memory_info().rss - before < 5 * 4 * 4 * SIZE + (64 << 20)
        for reader in stopped:
            reader.close()


@pytest.mark.parametrize("port", PORTS)
def test_when_descriptors_are_used_up_those_who_are_there_go_on_and_later_ones_join(
    cluster: gradmq.LocalCluster, worker: gradmq.Worker, port: str
) -> None:
    process, address = process_and_address(cluster, port)
    few = process.num_fds() + 10
    process.rlimit(psutil.RLIMIT_NOFILE, (few, few))
    crowd = [connect(address) for _ in range(30)]
    while process.num_fds() < few:
        time.sleep(0.01)
    for _ in range(5):
        assert worker.push(ones()).verdict().applied
    for connection in crowd:
        connection.close()
    with gradmq.Worker(zeros(), cluster.address) as late:
        assert late.push(ones()).verdict().applied


def test_five_hundred_connections_that_say_nothing_are_dropped(
    cluster: gradmq.LocalCluster, worker: gradmq.Worker
) -> None:
    process, address = process_and_address(cluster, "gradients")
    before = process.num_fds()
    crowd = [connect(address) for _ in range(500)]
    assert worker.push(ones()).verdict().applied
    while process.num_fds() > before + 20:  # they have five seconds for a handshake
        assert worker.push(ones()).verdict().applied
    for connection in crowd:
        connection.close()


@pytest.mark.parametrize(("soft", "hard", "warned"), [(512, 8192, False), (256, 512, True)])
def test_a_role_takes_all_descriptors_it_may_and_says_so_if_they_are_few(
    soft: int, hard: int, warned: bool, tmp_path: Path
) -> None:
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "from gradmq.cli import main; main(['broker', '--port', '0'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as broker:
        assert broker.stderr is not None
        lines = []
        while not any("listening" in line for line in lines):
            lines.append(broker.stderr.readline())
        assert psutil.Process(broker.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
        assert any(f"only {hard} descriptors" in line for line in lines) == warned
        broker.terminate()
        assert broker.wait() == 0


def test_a_context_has_room_for_the_sockets_of_a_thousand_shards() -> None:
    with link.new_context() as context:
        assert context.get(zmq.MAX_SOCKETS) > 3 * 4096


# -- the guard ------------------------------------------------------------------------------------


def test_the_guard_says_what_is_too_much_and_what_came_back() -> None:
    with MemoryGuard(allowed_bytes=32 << 20) as guard:
        assert not guard.is_too_much()
        held = np.ones(16 << 20, np.float32)
        assert guard.is_too_much()
        assert "where" in guard.trouble()
        del held
        assert guard.recover()
        assert not guard.is_too_much()


def test_what_closing_sockets_does_not_free_is_allowed_from_then_on() -> None:
    with MemoryGuard(allowed_bytes=32 << 20) as guard:
        held = np.ones(16 << 20, np.float32)
        assert not guard.recover()
        assert not guard.is_too_much()
        assert held.size
