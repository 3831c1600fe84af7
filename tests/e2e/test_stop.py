"""``gradmq stop``: the end of a run that was started role by role."""

from __future__ import annotations

import subprocess
import sys
import threading
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
