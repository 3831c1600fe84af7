"""``gradmq run`` as its user starts it: ended, resumed, begun from a file, stopped, refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from gradmq.history.rebuild import Target, rebuild
from gradmq.observer import Observer

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(120)]

JOB = """
import torch
from gradmq import Job

def batches(context):
    chance = torch.Generator().manual_seed(context.seed)
    while True:
        x = torch.randn(16, 3, generator=chance)
        yield x, x.sum(1, keepdim=True)

def evaluate(model, context):
    x = torch.eye(3)
    return {"error": float((model(x) - 1).abs().max())}

job = Job(name="sums", model=lambda: torch.nn.Linear(3, 1), batches=batches, loss="mse_loss",
          evaluate=evaluate, settings={"optimizer.lr": 0.02, "run.evaluate_every": "500ms"})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gradmq", "run", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 90) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, out, err


def test_a_run_ends_by_its_metric_is_resumed_and_begun_from_its_best(folder: Path) -> None:
    status, out, err = finish(start(folder, "job.py", "--until", "error<0.05", "--for", "60s"))
    assert (status, err) == (0, "")
    assert "ended: error<0.05 reached" in out
    run = folder / "runs" / "sums-1"
    assert {path.name for path in run.iterdir()} >= {
        "settings.toml", "run.json", "metrics.jsonl", "logs", "checkpoints", "best.safetensors",
    }  # fmt: skip
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["run"] == "sums-1"
    assert set(load_file(run / "best.safetensors")) == {"weight", "bias"}

    # The metric of the first run holds already: whichever comes first would be a matter of luck.
    never = ("--until", "error<0")
    status, out, err = finish(start(folder, "--resume", "runs/sums-1", "--updates", "50", *never))
    assert (status, err) == (0, "")
    assert "ended: 50 updates" in out and " before" in out

    best = "runs/sums-1/best.safetensors"
    status, out, err = finish(start(folder, "job.py", "--init", best, "--until", "error<0.06"))
    assert (status, err) == (0, "")
    assert "ended: error<0.06 reached" in out


def test_ctrl_c_writes_a_checkpoint_and_leaves_no_process(folder: Path) -> None:
    process = start(folder, "job.py")
    assert process.stdout is not None
    for line in process.stdout:
        if "release" in line and "error" in line and "release 0:" not in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 5
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, timeout_s=20)
    assert (status, err) == (0, "")
    assert "ended: Ctrl-C" in out
    saved = sorted(path.name for path in (folder / "runs/sums-1/checkpoints/shard-0").glob("*.s*"))
    assert len(saved) >= 2, "release 0 and the last one"
    assert not any(child.is_running() for child in children)


def test_ctrl_c_while_the_model_is_built_ends_at_once_and_leaves_nothing(folder: Path) -> None:
    slow = "def slow():\n    open('begun', 'w').close()\n    import time; time.sleep(3600)\n"
    (folder / "slow.py").write_text(slow + JOB.replace("lambda: torch.nn.Linear(3, 1)", "slow"))
    process = start(folder, "slow.py")
    while not (folder / "begun").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout_s=20) == (130, "", "")
    assert list(folder.glob("runs/*")) == []


def test_a_run_goes_on_without_its_broker_and_a_lost_worker_and_says_so(folder: Path) -> None:
    process = start(folder, "job.py", "--set", "run.workers=2")

    def until(words: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if words in line:
                return
        raise AssertionError(f"it ended without saying {words!r}")

    until("sums-1 has started")
    with Observer((folder / "runs/sums-1/broker/address").read_text().strip()) as observer:
        while sum(worker["applied"] > 0 for worker in observer.status()["workers"]) < 2:
            pass
    children = psutil.Process(process.pid).children()
    broker = next(child for child in children if "gradmq.broker" in child.cmdline())
    worker = next(child for child in children if "worker-2" in child.cmdline())
    broker.suspend()
    until("broker silent for 3 s; training goes on without it")
    broker.resume()
    worker.kill()
    until("worker-2 was killed by SIGKILL")
    until("worker-2 silent for")
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, timeout_s=20)
    assert status == 1 and "ended: Ctrl-C" in out
    assert err.startswith("gradmq: worker-2 was killed by SIGKILL")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere.py"], "does not exist"),
        (["job.py", "--until", "acuracy"], "run.until is 'acuracy'"),
        (["job.py", "--init", "job.py"], "neither .safetensors nor .pth"),
        (["--resume", "runs"], "is not a run folder"),
        (["job.py", "--keys", "nowhere"], "nowhere is no keys folder; `gradmq keys init"),
        (["job.py", "--set", "infer.token_file=job.py"], "job.py can be read by others"),
    ],
)
def test_what_cannot_run_is_one_line_and_leaves_no_folder(
    folder: Path, words: list[str], reason: str
) -> None:
    status, out, err = finish(start(folder, *words))
    assert (status, out) == (1, "")
    assert reason in err and err.count("\n") == 1
    assert list(folder.glob("runs/*")) == []


def test_a_run_with_a_journal_that_broke_goes_on_where_it_was_and_serves_that(folder: Path) -> None:
    process = start(folder, "job.py", "--set", "run.durability=journal", "--set", "run.workers=1")
    run = folder / "runs/sums-1"
    assert process.stdout is not None
    for line in process.stdout:
        if "has started" in line:
            break
    with Observer((run / "broker/address").read_text().strip()) as observer:
        while sum(worker["applied"] for worker in observer.status()["workers"]) < 50:
            pass
    children = psutil.Process(process.pid).children()
    next(child for child in children if "gradmq.ps" in child.cmdline()).kill()
    status, _, err = finish(process)
    assert status == 1 and "ps-0" in err
    had = rebuild(run, Target()).versions[0][1]
    assert had >= 50

    status, out, err = finish(start(folder, "--resume", "runs/sums-1", "--updates", "20"))
    assert (status, err) == (0, "")
    assert "ended: 20 updates" in out
    assert rebuild(run, Target()).versions[0][1] >= had + 20
    assert not list((run / "checkpoints/shard-0").glob("journal.given-up*"))
