"""An environment of its own for each client: made once, with the versions that are pinned."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "clients"


class NotInstalled(Exception):
    """There is no such environment, and why."""


def pins(name: str) -> Path:
    """The file with the exact versions of a client and of all that it needs."""
    return HERE / "pins" / f"{name}.txt"


def is_made(name: str) -> bool:
    """Whether the environment is there, whole, and made of today's pins for this Python."""
    stamp = FOLDER / name / "made-of"
    return stamp.is_file() and stamp.read_text() == _made_of(name)


def environment(name: str, timeout_s: float | None = None) -> Path:
    """The folder of the environment's programs; installs what is not there yet.

    Raises ``NotInstalled`` with pip's last word, or if it takes longer than ``timeout_s``.
    """
    folder = FOLDER / name
    if is_made(name):
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    # The pins are complete: nothing is to be looked for, and nothing compiled that may never run.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    pip += ["-q", "--disable-pip-version-check", "--no-input", "--no-deps", "--no-compile"]
    _run([*pip, "-r", str(pins(name))], timeout_s)
    (folder / "made-of").write_text(_made_of(name))
    return folder / "bin"


def _run(pip: list[str], timeout_s: float | None) -> None:
    # In a session of its own: it starts itself anew in the other environment.
    process = subprocess.Popen(
        pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise NotInstalled(f"pip took more than {timeout_s:g} s") from None
    if process.returncode:
        errors = [line[7:] for line in said.splitlines() if line.startswith("ERROR: ")]
        raise NotInstalled(f"pip: {errors[-1] if errors else 'no reason given'}")


def _made_of(name: str) -> str:
    # An environment holds absolute paths: a copied one would be another folder's.
    return f"{sys.version} {FOLDER} {hashlib.sha256(pins(name).read_bytes()).hexdigest()}\n"
