"""The roles one by one, as they are started by hand on several hosts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

import gradmq
from gradmq.run.roles import RoleProcess, end_all

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]
Start = Callable[..., "subprocess.Popen[str]"]


def zeros() -> Arrays:
    return {"weight": np.zeros((3, 5), np.float32), "scale": np.zeros((), np.float32)}


def ones() -> Arrays:
    return {name: np.ones_like(array) for name, array in zeros().items()}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start("ps", "--shard", 1)``: the command in a folder of its own, ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(*words: object) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "gradmq", *map(str, words)],
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield start


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status, and what it wrote to stderr, which must be one line."""
    _, stderr = process.communicate(timeout=30)
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    assert len([line for line in lines if " INFO " not in line]) == 1, stderr
    return process.returncode, lines[-1]


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """Read what the process logs until a line says this."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended without saying {words!r}")


def test_a_run_by_hand_from_the_first_command_to_the_last(
    start: Start, free_port: int, tmp_path: Path
) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    broker = start("broker", "--name", "by-hand", "--shards", 2, "--port", free_port,
                   "--set", "optimizer.lr=1", "--state", "state")  # fmt: skip
    assert address in line_with(broker, "listening")
    shards = [start("ps", "--shard", i, "--broker", address, "--state", "state") for i in range(2)]
    arrays = ones()
    with gradmq.Worker(arrays, address, name="by-hand-1") as worker:
        # The first worker brought the parameters: nobody else had any.
        np.testing.assert_array_equal(worker.parameters()["weight"], np.ones((3, 5)))
        late = zeros()
        with gradmq.Worker(late, address) as second, gradmq.Follower(zeros(), address) as follower:
            np.testing.assert_array_equal(second.parameters()["weight"], np.ones((3, 5)))
            assert worker.push(ones(), loss=float("nan"), samples=3).verdict().applied
            second.pull()
            np.testing.assert_array_equal(late["weight"], np.zeros((3, 5)))
            release = follower.update()
            while release.versions != second.versions:
                release = follower.update(timeout=20)
            status = status_once(
                start,
                address,
                lambda s: s["workers"][0]["applied"] and s["followers"][0]["release"],
            )
    assert status["run"] == "by-hand" and status["phase"] == "open"
    assert status["waiting_for"] == ""
    assert status["release"].keys() >= {"number", "versions", "saved", "abandoned"}
    assert [shard["index"] for shard in status["shards"]] == [0, 1]
    for shard in status["shards"]:
        assert shard["incarnation"] == 1 and shard["version"] == 1 and shard["applied"] == 1
        assert shard["live"] and shard["rejected"] == {} and shard["pushed_bytes"] == 32
        assert len(shard["addresses"]) == 3
    rows = {row["name"]: row for row in status["workers"]}
    row = rows["by-hand-1"]
    assert (row["seq"], row["samples"], row["share"], row["loss"]) == (1, 3, 1.0, None)
    assert row["staleness"] == {"median": 0, "max": 0, "histogram": [[0, 2]]}
    assert row.keys() >= {"session", "applied", "rejected", "samples_per_s", "waiting_for", "live"}
    (watching,) = status["followers"]
    assert watching["age_s"] < 10
    assert status["infer"] == []

    stopping = start("stop", address)
    stdout, stderr = stopping.communicate(timeout=30)
    assert (stopping.returncode, stderr) == (0, "")
    saved = int(stdout.removeprefix("saved release "))
    for process in (*shards, broker):
        assert end(process) == 0
    for index in range(2):
        folder = tmp_path / "state" / f"shard-{index}"
        assert (folder / f"release-{saved:06d}.safetensors").exists()
        assert (folder / "incarnation").read_text() == "1\n"


def status_once(start: Start, address: str, holds: Callable[[Any], Any]) -> Any:
    while True:  # the test's own time limit ends this
        asking = start("status", address, "--json")
        stdout, stderr = asking.communicate(timeout=30)
        assert (asking.returncode, stderr) == (0, "")
        status = json.loads(stdout, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
        if holds(status):
            return status


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(timeout=20)


def test_status_for_people_names_everybody(start: Start) -> None:
    with (
        gradmq.LocalCluster(zeros(), shards=2) as cluster,
        gradmq.Worker(zeros(), cluster.address, name="here-i-am") as worker,
    ):
        worker.push(ones()).verdict()
        asking = start("status", cluster.address)
        stdout, stderr = asking.communicate(timeout=30)
        assert (asking.returncode, stderr) == (0, "")
        assert "here-i-am" in stdout
        for shard in cluster.status()["shards"]:
            libraries = Path(f"/proc/{shard['pid']}/maps").read_text()
            assert "numpy" in libraries and "torch" not in libraries


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_role_ends_in_good_order_when_told_to(
    start: Start, free_port: int, number: int
) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    broker = start("broker", "--port", free_port)
    line_with(broker, "listening")
    serving = start("ps", "--broker", address)
    with gradmq.Worker(zeros(), address) as worker:
        worker.push(ones()).verdict()
    assert end(serving, number) == 0
    # Without the broker a shard waits, says so, and ends just the same.
    assert end(broker, number) == 0
    waiting = start("ps", "--broker", address)
    assert address in line_with(waiting, "waiting for broker")
    assert end(waiting, number) == 0


JOB = """
import torch, gradmq

def batches(context):
    while True:
        yield torch.ones(4, 1), torch.ones(4, 1)

job = gradmq.Job(
    name="line",
    model=lambda: torch.nn.Linear(1, 1),
    batches=batches,
    loss="mse_loss",
    serve=lambda: gradmq.TensorModel(
        inputs=(gradmq.TensorSpec("x", "FP32", (-1, 1)),),
        outputs=(gradmq.TensorSpec("y", "FP32", (-1, 1)),),
    ),
)
"""


@pytest.mark.torch
def test_a_worker_and_an_inference_node_by_hand(
    start: Start, free_port: int, tmp_path: Path
) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    (tmp_path / "line.py").write_text(JOB)
    line_with(start("broker", "--port", free_port), "listening")
    start("ps", "--broker", address)
    worker = start("worker", "line.py", "--broker", address, "--name", "a")
    node = start("infer", "line.py", "--broker", address)
    line_with(node, "serves release")
    status = status_once(start, address, lambda s: s["workers"] and s["workers"][0]["applied"])
    assert [row["name"] for row in status["workers"]] == ["a"]
    (served,) = status["infer"]
    assert served["url"].startswith("http://127.0.0.1:")
    for process in (worker, node):
        assert end(process) == 0


def test_a_shard_started_again_by_hand_goes_on(start: Start, free_port: int) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    line_with(start("broker", "--port", free_port, "--set", "optimizer.lr=1"), "listening")
    shard = start("ps", "--broker", address)
    with gradmq.Worker(zeros(), address) as worker:
        assert worker.push(ones()).verdict().applied
        os.kill(shard.pid, signal.SIGKILL)
        shard.wait()
        with pytest.raises(gradmq.ShardAway, match="shard 0"):
            worker.pull(timeout=0.2)
        # Nothing was saved yet: it has no parameters, and this worker, the only one, gives its own.
        start("ps", "--broker", address)
        worker.push(ones(), timeout=30).verdict(timeout=30)
        assert worker.pull(timeout=30)[0][0] == 2


@pytest.mark.parametrize("role", ["broker", "ps", "worker", "infer"])
def test_a_role_is_also_a_module(role: str) -> None:
    command = [sys.executable, "-m", f"gradmq.{role}", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert f"gradmq {role}" in told.stdout
    assert "--config" in told.stdout


def test_a_role_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A launcher that is killed takes its roles along: their stdin closes."""
    program = f"""
import os, numpy, gradmq
cluster = gradmq.LocalCluster({{"w": numpy.zeros(3, numpy.float32)}}, folder={str(tmp_path)!r})
cluster.open()
print(*[s["pid"] for s in cluster.status()["shards"]], flush=True)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    pids = {int(pid) for pid in ended.stdout.split()}
    shards = [process for process in psutil.process_iter() if process.pid in pids]
    _, alive = psutil.wait_procs(shards, timeout=20)
    assert pids and not alive


def test_others_go_before_a_role_that_is_nice(tmp_path: Path) -> None:
    words = ["--broker", "tcp://127.0.0.1:9", "--state", str(tmp_path)]
    role = RoleProcess("ps", "gradmq.ps", words, tmp_path / "log", nice=3)
    try:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, role.pid) == min(19, own + 3)
        session = Path(f"/proc/{role.pid}/autogroup")  # where the kernel has them
        assert not session.exists() or session.read_text().endswith(" nice 3\n")
    finally:
        end_all([role])
