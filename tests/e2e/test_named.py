"""Whoever is stopped, hangs or is killed is named: in the log, in a status, in the table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradmq
from gradmq.view.figures import Figures
from gradmq.view.plain import PlainLines

pytestmark = pytest.mark.e2e


def zeros() -> dict[str, npt.NDArray[np.float32]]:
    return {"weight": np.zeros(40, np.float32)}


PROGRAM = """
import sys, time, numpy, gradmq
arrays = {"weight": numpy.zeros(40, numpy.float32)}
what, address = sys.argv[1:]
if what == "follow":
    with gradmq.Follower(arrays, address, name="reader") as follower:
        while True:
            follower.update()
with gradmq.Worker(arrays, address, name=what) as worker:
    for i in range(10 ** 9):
        worker.push({"weight": numpy.zeros(40)}).verdict()
        worker.catch_up()
        if what == "hangs" and i == 20:
            time.sleep(3600)
"""


class Run:
    """A cluster, three programs, and what a person sees of them."""

    def __init__(self, cluster: gradmq.LocalCluster, folder: Path) -> None:
        self.cluster = cluster
        self.log = folder / "logs" / "broker.log"
        self.programs = {
            what: subprocess.Popen([sys.executable, "-c", PROGRAM, what, cluster.address])
            for what in ("works", "hangs", "follow")
        }
        self.figures, self.plain = Figures(), PlainLines()
        self.lines: list[str] = []

    def until(self, holds: Callable[[dict[str, Any]], object]) -> None:
        """Look on until this holds; the test's own time limit ends it."""
        while True:
            status = self.cluster.status()
            self.figures.update(status, time.monotonic())
            self.lines += self.plain.lines(self.figures)
            if holds(status):
                return
            time.sleep(0.05)

    def said(self, *beginnings: str) -> Callable[[object], bool]:
        """True once the lines of a run say all of these."""
        return lambda _: all(any(b in line for line in self.lines) for b in beginnings)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    settings = {"run.release_every": "100ms"}
    with gradmq.LocalCluster(zeros(), 2, settings=settings, folder=tmp_path) as cluster:
        run = Run(cluster, tmp_path)
        try:
            yield run
        finally:
            for program in run.programs.values():
                program.kill()
                program.wait()


def test_who_is_stopped_hangs_or_is_killed_is_named_everywhere_and_a_zombie_is_fenced(
    run: Run,
) -> None:
    run.until(lambda s: len(s["workers"]) == 2 and s["followers"] and s["followers"][0]["release"])
    session = next(w["session"] for w in run.cluster.status()["workers"] if w["name"] == "works")
    shard = run.cluster.pids("ps")[1]
    run.until(run.said("hangs waits"))
    assert any("its program: the next gradient, silent for" in line for line in run.lines)

    os.kill(run.programs["follow"].pid, signal.SIGSTOP)
    os.kill(shard, signal.SIGSTOP)
    run.until(run.said("shard 1 silent for", "reader silent for", "works waits"))
    assert any("for shard 1: verdict on push" in line for line in run.lines)
    os.kill(shard, signal.SIGCONT)
    os.kill(run.programs["follow"].pid, signal.SIGCONT)
    run.until(run.said("shard 1 goes on", "reader goes on", "works goes on"))

    os.kill(run.programs["works"].pid, signal.SIGSTOP)
    run.programs["follow"].kill()
    run.until(run.said("works silent for", "works away for", "reader away for"))
    os.kill(run.programs["works"].pid, signal.SIGCONT)
    run.until(lambda s: any(w["name"] == "works" and w["session"] > session for w in s["workers"]))
    assert not [w for w in run.cluster.status()["workers"] if w["lost"]]

    log = run.log.read_text()
    for name in ("ps-1", "works", "reader"):
        assert f"{name}: silent for" in log
    assert "ps-1: heard again after" in log
    assert "works: lease ran out" in log


def test_a_broker_that_was_stopped_is_named_and_knows_that_it_was_itself_that_stood_still(
    run: Run,
) -> None:
    run.until(lambda s: len(s["workers"]) == 2)
    (broker,) = run.cluster.pids("broker")
    os.kill(broker, signal.SIGSTOP)
    asked = subprocess.run(
        [sys.executable, "-m", "gradmq", "status", run.cluster.address],
        capture_output=True,
        text=True,
        check=False,
    )
    os.kill(broker, signal.SIGCONT)
    assert asked.returncode == 1
    assert "did not answer within 3 s; is it running there?" in asked.stderr
    run.until(lambda s: "stood still for" in run.log.read_text())
    shard_log = run.log.with_name("ps-0.log").read_text()
    assert f"waiting for broker {run.cluster.address}: silent for" in shard_log
    assert f"broker {run.cluster.address} answers" in shard_log
    assert "lease ran out" not in run.log.read_text()
