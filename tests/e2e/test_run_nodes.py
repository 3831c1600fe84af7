"""Several inference nodes of one ``gradmq run``: where they answer; a lost one comes back."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(120)]

JOB = """
import torch
from gradmq import Job, TensorModel, TensorSpec

def batches(context):
    while True:
        x = torch.randn(16, 3)
        yield x, x.sum(1, keepdim=True)

def serve():
    return TensorModel((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 1)),))

job = Job(name="sums", model=lambda: torch.nn.Linear(3, 1), batches=batches, loss="mse_loss",
          serve=serve, settings={"optimizer.lr": 0.02, "run.release_every": "200ms"})
"""


def two_free_ports() -> int:
    """The first of two neighbours that nobody listens at."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def release_at(port: int) -> int:
    """The release that answers there; 0 while none does."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5)
    except httpx.TransportError:
        return 0
    return int(answer.headers["x-gradmq-release"]) if answer.status_code == 200 else 0


def test_both_nodes_follow_and_one_that_is_killed_answers_again_where_it_did(
    tmp_path: Path,
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    port = two_free_ports()
    words = ["--set", "run.infer=2", "--set", f"infer.port={port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gradmq", "run", "job.py", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (release_at(port) and release_at(port + 1)):
            assert process.poll() is None
        newest = release_at(port)
        while min(release_at(port), release_at(port + 1)) <= newest:
            assert process.poll() is None
        children = psutil.Process(process.pid).children()
        node = next(child for child in children if "infer-1" in child.cmdline())
        node.kill()
        assert process.stdout is not None
        line = next(line for line in process.stdout if "killed" in line)
        assert line.startswith("infer-1 was killed by SIGKILL (log: ")
        assert line.endswith("; it is started again\n")
        while release_at(port) <= newest:
            assert release_at(port + 1) > newest, "the other one is not disturbed"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
