"""Two hosts, made of namespaces: bind and advertise addresses, and a worker elsewhere.

Network namespaces alone are still one host: shared memory is found through its processes. So the
worker has a process namespace of its own, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.root]

WORKER = """
import sys, numpy, gradmq

arrays = {"w": numpy.zeros(300_000, numpy.float32)}
with gradmq.Worker(arrays, sys.argv[1], name="elsewhere") as worker:
    for _ in range(20):
        answer = worker.push({"w": numpy.ones(300_000, numpy.float32)}, samples=1).verdict(20)
        assert answer.applied, answer
        worker.pull(20)
    print(sorted(set(arrays["w"].tolist())), answer.seq)
    follower = gradmq.Follower({"w": numpy.zeros(300_000, numpy.float32)}, sys.argv[1])
    with follower:
        release = follower.update()
        while release.versions != worker.versions:
            release = follower.update(timeout=10)
        print(release.number > 0)
"""

#: In a process namespace of its own, which ends with the process.
APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces joined by a cable; the first is 10.99.0.1."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for command, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(command) is None:
            pytest.skip(f"namespaces need the command {command} (Debian: {package})")
    one, two = f"gradmq-{os.getpid()}-a", f"gradmq-{os.getpid()}-b"
    cable = (f"gq{os.getpid()}a", f"gq{os.getpid()}b")
    with contextlib.ExitStack() as stack:
        for name in (one, two):
            made = _ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
            stack.callback(_ip, "netns", "del", name)  # takes the cable's end along
        made = _ip("link", "add", cable[0], "netns", one, "type", "veth",
                   "peer", "name", cable[1], "netns", two)  # fmt: skip
        if made.returncode:
            pytest.skip(f"virtual cables cannot be made here: {made.stderr.strip()}")
        for name, end, address in ((one, cable[0], "10.99.0.1"), (two, cable[1], "10.99.0.2")):
            for words in (
                ("addr", "add", f"{address}/24", "dev", end),
                ("link", "set", end, "up"),
                ("link", "set", "lo", "up"),
            ):
                done = _ip("-n", name, *words)
                assert done.returncode == 0, done.stderr
        yield one, two


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)


def _on(host: str, *words: object) -> list[str]:
    return ["ip", "netns", "exec", host, sys.executable, *map(str, words)]


ENDLESS = """
import sys, numpy, gradmq
with gradmq.Worker({"w": numpy.zeros(9, numpy.float32)}, sys.argv[1], name="elsewhere") as worker:
    while True:
        worker.push({"w": numpy.ones(9, numpy.float32)}, timeout=600).verdict(600)
        worker.catch_up(600)
"""


def _until(log: Path, *texts: str) -> None:
    while not all(text in log.read_text() for text in texts):
        time.sleep(0.05)  # the test's own time limit ends this


def test_a_host_that_is_cut_off_is_named_on_both_sides_and_goes_on_when_it_is_back(
    two_hosts: tuple[str, str], tmp_path: Path
) -> None:
    here, there = two_hosts
    address = "tcp://10.99.0.1:5550"
    listen = ["--bind", "10.99.0.1", "--insecure", "--state", "state"]
    with contextlib.ExitStack() as stack:

        def start(name: str, command: list[str]) -> Path:
            log = tmp_path / f"{name}.log"
            stream = stack.enter_context(log.open("w"))
            role = stack.enter_context(subprocess.Popen(command, cwd=tmp_path, stderr=stream))
            stack.callback(role.kill)
            return log

        broker = start("broker", _on(here, "-m", "gradmq", "broker", *listen))
        start("ps", _on(here, "-m", "gradmq", "ps", "--broker", address, *listen))
        worker = start("worker", [*APART, *_on(there, "-c", ENDLESS, address)])
        asking = _on(here, "-m", "gradmq", "status", address, "--json")

        def status() -> dict[str, Any]:
            asked = subprocess.run(asking, capture_output=True, text=True, timeout=20)
            found: dict[str, Any] = json.loads(asked.stdout or "{}")
            return found

        while not any(w["applied"] for w in status().get("workers", ())):
            pass
        cable = f"gq{os.getpid()}a"
        assert _ip("-n", here, "link", "set", cable, "down").returncode == 0
        _until(broker, "elsewhere: silent for 2.")
        _until(worker, f"waiting for broker {address}: silent for 2.")
        assert _ip("-n", here, "link", "set", cable, "up").returncode == 0
        _until(broker, "elsewhere: heard again after")
        _until(worker, f"broker {address} answers")
        applied = status()["workers"][0]["applied"]
        while status()["workers"][0]["applied"] <= applied:
            pass
        assert "lease ran out" not in broker.read_text()


def test_a_worker_on_another_host_trains_and_follows(
    two_hosts: tuple[str, str], tmp_path: Path
) -> None:
    here, there = two_hosts
    address = "tcp://10.99.0.1:5550"
    listen = ["--bind", "0.0.0.0", "--advertise", "10.99.0.1", "--insecure", "--state", "state"]
    with contextlib.ExitStack() as stack:
        for words in (
            ["broker", "--shards", 2, "--set", "optimizer.lr=1", *listen],
            ["ps", "--shard", 0, "--broker", address, "--port", 5560, *listen],
            ["ps", "--shard", 1, "--broker", address, *listen],
        ):
            role = stack.enter_context(
                subprocess.Popen(
                    _on(here, "-m", "gradmq", *words), cwd=tmp_path, stderr=subprocess.DEVNULL
                )
            )
            stack.callback(role.kill)
        worked = subprocess.run(
            [*APART, *_on(there, "-c", WORKER, address)],
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert worked.returncode == 0, worked.stderr
        assert worked.stdout == "[-20.0] 20\nTrue\n"
        status = {"shards": []}
        # What the shards report is up to half a second old; the test's own time limit ends this.
        while [shard["version"] for shard in status["shards"]] != [20, 20]:
            asked = subprocess.run(
                _on(there, "-m", "gradmq", "status", address, "--json"),
                capture_output=True,
                text=True,
                timeout=20,
            )
            status = json.loads(asked.stdout)
    (worker,) = status["workers"]
    assert (worker["name"], worker["transport"]) == ("elsewhere", "tcp")
    assert status["shards"][0]["addresses"] == [f"tcp://10.99.0.1:{p}" for p in (5560, 5561, 5562)]
