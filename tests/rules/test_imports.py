"""What a process loads when it starts, seen from a fresh interpreter in the repository's root.

There, and only there, a bare ``import ps`` would find the folder and go unnoticed.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

BARE_NAMES = {"bench", "broker", "infer", "ps", "worker"}

#: Loading torch takes 2.5 s; these start in a fifth of a second.
START_WITHOUT_TORCH = ["gradmq", "gradmq.cli", "gradmq.broker.node", "gradmq.ps.node"]


@pytest.mark.parametrize("module", START_WITHOUT_TORCH)
def test_starts_without_torch_and_without_a_web_server(module, root):
    heavy = {"torch", "starlette", "uvicorn"}
    assert not heavy & modules_loaded_by(f"import {module}", root)


@pytest.mark.torch
def test_no_role_is_loaded_under_a_bare_name(root):
    loaded = modules_loaded_by(
        "import gradmq, gradmq.cli, gradmq.broker.node, gradmq.ps.node, "
        "gradmq.worker.node, gradmq.infer.node",
        root,
    )
    assert loaded & BARE_NAMES == set()
    assert {"gradmq.worker.node", "gradmq.infer.node"} <= loaded


def modules_loaded_by(code, root):
    """The names in sys.modules after ``code`` ran in a fresh interpreter."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
