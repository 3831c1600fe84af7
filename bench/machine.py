"""What a result belongs to: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import zmq

#: In the order in which they matter to the figures; those that are missing are left out.
PACKAGES = ("gradmq", "numpy", "pyzmq", "torch", "starlette", "uvicorn", "ray")

GIT_S = 10.0


def origin() -> dict[str, Any]:
    """What results are written down with: the machine, the commit, the command, the time."""
    return {
        "machine": describe(),
        "commit": commit(),
        "command": " ".join(["gradmq", *sys.argv[1:]]),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def describe() -> dict[str, Any]:
    """CPU, memory in GB (1e9 bytes), kernel, Python and library versions."""
    return {
        "cpu": _first(r"model name\s*: (.+)", "/proc/cpuinfo") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_first(r"MemTotal:\s*(\d+)", "/proc/meminfo") or 0) * 1024 / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        **dict(_versions()),
    }


def commit() -> str:
    """The commit of this code, with ``-dirty`` if files were changed; "" outside of a checkout."""
    root = Path(__file__).resolve().parents[1]
    # An environment may lie within somebody else's checkout.
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        return ""
    return _git(root, "describe", "--always", "--dirty", "--tags")


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _first(pattern: str, file: str) -> str:
    try:
        found = re.search(pattern, Path(file).read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found
