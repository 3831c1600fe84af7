"""Real inference nodes, each started with the command that a user types."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from gradmq.jobs import load

READY_S = 40.0


@contextlib.contextmanager
def running_node(
    job: str, folder: Path, settings: Sequence[str] = (), under: Sequence[str] = ()
) -> Iterator[str]:
    """A node that serves ``job`` with its first parameters; gives its URL.

    What it says goes to a file in ``folder``. ``under`` is a command that starts it. Raises
    ``AssertionError`` with that if it ends, is not ready in time, or tells of a fault of its own.
    """
    stem = Path(job).stem
    checkpoint, log = folder / f"{stem}.pth", folder / f"{stem}.log"
    torch.manual_seed(0)
    torch.save(load(job).model().state_dict(), checkpoint)
    command = [
        *under,
        sys.executable,
        "-m",
        "gradmq",
        "infer",
        job,
        "--checkpoint",
        str(checkpoint),
    ]
    command += ["--port", "0", *(word for setting in settings for word in ("--set", setting))]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_environment())
    try:
        yield _ready(process, log)
        assert process.poll() is None, f"the node ended: {log.read_text()}"
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GRADMQ_")}


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"answers at (http://\S+)", log.read_text())
        if found is not None:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"{found[1]}/v2/health/ready", timeout=5).close()
                return found[1]
        time.sleep(0.05)
    raise AssertionError(f"no node is ready after {READY_S:g} s: {log.read_text()}")
