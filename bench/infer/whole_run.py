"""Runs ``gradmq run JOB`` as its user does, until the parent says that it is enough."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gradmq.bench.child import Parent, run
from gradmq.errors import RoleFailed, WaitTimeout

NAME = "measured"

#: To start, and to end after Ctrl-C; seconds.
START_S, END_S = 60.0, 15.0


def main(parent: Parent, spec: dict[str, Any]) -> None:
    folder = Path(spec["folder"])
    sets = [word for k, v in spec["settings"].items() for word in ("--set", f"{k}={v}")]
    words = [spec["job"], "--for", "1h", "--name", NAME, "--set", f"run.folder={folder}", *sets]
    log, address = folder / "run.log", folder / NAME / "broker" / "address"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gradmq", "run", *words], stdout=stream, stderr=stream
        )
    deadline = time.monotonic() + START_S
    while not (address.exists() and address.read_text().strip()):
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RoleFailed(said[-1])
        if time.monotonic() > deadline:
            raise WaitTimeout(f"waited {START_S:g} s for the broker of a run")
        time.sleep(0.05)
    parent.say("up", address=address.read_text().strip())
    parent.await_word("leave")
    process.send_signal(signal.SIGINT)
    process.wait(END_S)


if __name__ == "__main__":
    run(main)
