"""The end of a run that was started role by role: ``gradmq stop``, and what signals do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gradmq
from gradmq.ps.checkpoint import load_newest

pytestmark = pytest.mark.e2e


def test_stop_lets_workers_finish_and_saves_what_they_did(tmp_path: Path) -> None:
    weights = {"weight": np.zeros(8, np.float32)}
    with gradmq.LocalCluster(
        weights, optimizer=gradmq.SGD(lr=1.0), settings={"run.save_every": "1h"}, folder=tmp_path
    ) as cluster:
        pushed = 0
        joined = threading.Event()

        def work() -> None:
            nonlocal pushed
            with gradmq.Worker(weights, cluster.address) as worker:
                joined.set()
                while not worker.stopping:
                    worker.push({"weight": np.ones(8)})
                    worker.catch_up()
                    pushed += 1

        thread = threading.Thread(target=work)
        thread.start()
        assert joined.wait(30)
        stopped = subprocess.run(
            [sys.executable, "-m", "gradmq", "stop", cluster.address],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        thread.join(10)
        assert (stopped.returncode, stopped.stderr) == (0, "")
        saved = load_newest(tmp_path / "checkpoints", 0)
        assert saved is not None
        state = saved[2]
        assert stopped.stdout == f"saved release {state.release}\n"
        assert state.version == pushed > 0
        assert np.array_equal(state.parameters, np.full(8, -pushed, np.float32))


def test_an_address_that_nobody_can_connect_to_is_refused(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "gradmq", "broker", "--bind", "0.0.0.0", "--insecure"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr == (
        "gradmq broker: nobody can connect to 0.0.0.0: "
        "give --advertise the address that others use\n"
    )


def zeros() -> dict[str, np.ndarray]:
    return {"weight": np.zeros(8, np.float32)}


def ones() -> dict[str, np.ndarray]:
    return {"weight": np.ones(8, np.float32)}


def test_a_shard_that_is_told_to_end_says_what_it_leaves_and_its_workers_send_it_again(
    tmp_path: Path,
) -> None:
    settings = {"network.transport": "tcp", "run.save_every": "1h"}
    with (
        gradmq.LocalCluster(zeros(), settings=settings, folder=tmp_path) as cluster,
        gradmq.Worker(zeros(), cluster.address) as worker,
    ):
        for _ in range(3):
            assert worker.push(ones()).verdict().applied
            worker.catch_up()
        (shard,) = cluster.pids("ps")
        os.kill(shard, signal.SIGSTOP)
        under_way = [worker.push(ones()) for _ in range(2)]
        with pytest.raises(gradmq.ShardAway):
            worker.catch_up(timeout=0.5)
        os.kill(shard, signal.SIGTERM)
        os.kill(shard, signal.SIGCONT)
        log = tmp_path / "logs" / "ps-0.log"
        while "left with 2 pushes received and not decided" not in log.read_text():
            pass  # the test's own time limit ends this
        assert "and 3 updates not on disk, at version 3" in log.read_text()
        cluster.kill("ps-0")  # it has ended: this only waits for it
        cluster.restart_shard(0)
        for push in under_way:
            verdict = push.verdict().verdicts[0]
            assert verdict.reason in ("", "lost_base"), "decided, by its next life"


JOB = """
import torch, gradmq
job = gradmq.Job(
    name="line",
    model=lambda: torch.nn.Linear(1, 1),
    batches=lambda context: iter(lambda: (torch.ones(4, 1), torch.ones(4, 1)), None),
    loss="mse_loss",
)
"""


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "line.py"
    path.write_text(JOB)
    return str(path)


def role(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gradmq", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}")


@pytest.mark.torch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_to_join_ends_when_told_to(
    job: str, number: int, free_port: int
) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    with role("worker", job, "--broker", address, "--set", "run.join_timeout=1h") as worker:
        said(worker, "waiting for broker")
        worker.send_signal(number)
        assert worker.wait() == 0


@pytest.fixture
def stuck(job: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker whose shard does not answer."""
    import torch

    with (
        gradmq.LocalCluster(torch.nn.Linear(1, 1), folder=tmp_path / "run") as cluster,
        role("worker", job, "--broker", cluster.address, "--name", "stuck") as worker,
    ):
        while not any(w["applied"] for w in cluster.status()["workers"]):
            pass
        (shard,) = cluster.pids("ps")
        os.kill(shard, signal.SIGSTOP)
        said(worker, "step waited 1 s for shard 0: verdict on push")
        yield worker
        os.kill(shard, signal.SIGCONT)


@pytest.mark.torch
def test_a_worker_lists_the_pushes_that_were_not_answered(stuck: subprocess.Popen[str]) -> None:
    stuck.terminate()
    said(stuck, "closed with pushes unanswered: [")
    assert stuck.wait() == 0


@pytest.mark.torch
def test_a_second_signal_ends_a_role_at_once(stuck: subprocess.Popen[str]) -> None:
    stuck.terminate()
    stuck.send_signal(signal.SIGINT)
    assert stuck.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def test_a_broker_that_is_told_to_end_says_who_goes_on_without_it(tmp_path: Path) -> None:
    with (
        gradmq.LocalCluster(zeros(), folder=tmp_path) as cluster,
        gradmq.Worker(zeros(), cluster.address, name="here-i-am") as worker,
    ):
        (broker,) = cluster.pids("broker")
        os.kill(broker, signal.SIGTERM)
        log = tmp_path / "logs" / "broker.log"
        while "go on without a broker: here-i-am, ps-0" not in log.read_text():
            pass
        assert worker.push(ones()).verdict().applied
