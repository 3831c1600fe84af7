"""``gradmq keys`` and ``--keys`` as their user types them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

JOB = """
import torch
import gradmq

def batches(context):
    while True:
        x = torch.randn(16, 3)
        yield x, x.sum(1, keepdim=True)

def evaluate(model, context):
    return {"error": float((model(torch.eye(3)) - 1).abs().max())}

def serve():
    return gradmq.TensorModel(
        inputs=(gradmq.TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(gradmq.TensorSpec("y", "FP32", (-1, 1)),),
    )

job = gradmq.Job(name="sums", model=lambda: torch.nn.Linear(3, 1), batches=batches,
                 loss="mse_loss", evaluate=evaluate, serve=serve,
                 settings={"optimizer.lr": 0.02, "run.evaluate_every": "300ms"})
"""


def gradmq(folder: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gradmq", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
    )
    return done.returncode, done.stdout, done.stderr


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    status, out, err = gradmq(tmp_path, "keys", "list")
    assert (status, out) == (1, "")
    assert "there is no gradmq-keys/allowed; make a keys folder: gradmq keys init" in err
    assert gradmq(tmp_path, "keys", "init")[0] == 0
    status, out, _ = gradmq(tmp_path, "keys", "add", "b-1", "--role", "worker")
    assert (status, out) == (
        0,
        "gradmq-keys/b-1.key is all that the host of b-1 needs: carry it there, keep it secret\n",
    )
    status, out, err = gradmq(tmp_path, "keys", "add", "b-2", "--role", "king")
    assert status == 2 and err.count("\n") == 1
    _, out, _ = gradmq(tmp_path, "keys", "list")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["broker", "broker"],
        ["b-1", "worker"],
    ]
    assert gradmq(tmp_path, "keys", "revoke", "b-1")[0] == 0
    status, _, err = gradmq(tmp_path, "keys", "revoke", "b-1")
    assert (status, err.count("\n")) == (1, 1)


@pytest.mark.torch
@pytest.mark.timeout(120)
def test_a_run_with_keys_and_a_token_gives_its_processes_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "token").write_text("0123456789abcdef0123456789")
    (tmp_path / "token").chmod(0o600)
    assert gradmq(tmp_path, "keys", "init")[0] == 0
    run = subprocess.Popen(
        [sys.executable, "-m", "gradmq", "run", "job.py", "--keys", "gradmq-keys",
         "--set", "infer.token_file=token"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    missing = {"infer-1 serves at http://127.0.0.1:", "the best so far"}  # both followers are in
    for line in run.stdout:
        missing -= {text for text in missing if text in line and "release 0:" not in line}
        if not missing:
            break
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err, missing) == (0, "", set())
    made = {path.stem for path in (tmp_path / "gradmq-keys").glob("*.key")}
    assert made == {"broker", "ps-0", "worker-1", "worker-2", "infer-1", "evaluator"}
    logs = "".join(path.read_text() for path in (tmp_path / "runs/sums-1/logs").iterdir())
    assert "WARNING" not in logs
    secrets = [p.read_text().split('secret = "')[1][:40] for p in tmp_path.glob("*/*.key")]
    written = logs + (tmp_path / "runs/sums-1/settings.toml").read_text()
    assert not [secret for secret in [*secrets, "0123456789abcdef"] if secret in written]
