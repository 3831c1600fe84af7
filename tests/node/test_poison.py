"""A worker that keeps sending bad gradients is found out, shown, and let back by a person."""

from __future__ import annotations

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
from gradmq.run.local import start_broker
from gradmq.run.roles import end_all
from gradmq.view.figures import Figures
from gradmq.view.plain import PlainLines

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]


def values(value: float) -> Arrays:
    return {"weight": np.full(40, value, np.float32)}


@pytest.fixture
def cluster(tmp_path: Path, free_port: int) -> Iterator[gradmq.LocalCluster]:
    settings = {"ps.max_gradient_norm": 10.0, "network.port": free_port, "run.save_every": "100ms"}
    with gradmq.LocalCluster(
        values(0), 2, gradmq.SGD(lr=1.0), settings=settings, folder=tmp_path
    ) as cluster:
        yield cluster


def reasons(worker: gradmq.Worker, value: float) -> set[str]:
    return set(worker.push(values(value)).verdict().reasons)


def row(cluster: gradmq.LocalCluster, name: str) -> dict[str, Any]:
    return next((w for w in cluster.status()["workers"] if w["name"] == name), {})


def readmit(cluster: gradmq.LocalCluster, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradmq", "readmit", name, "--broker", cluster.address]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def until(holds: Callable[[], object]) -> None:
    while not holds():  # the test's own time limit ends this
        time.sleep(0.02)


def test_a_poisoner_is_quarantined_shown_and_let_back_through_restarts_of_everybody(
    cluster: gradmq.LocalCluster, tmp_path: Path, free_port: int
) -> None:
    with (
        gradmq.Worker(values(0), cluster.address, name="good") as good,
        gradmq.Worker(values(0), cluster.address, name="bad") as bad,
    ):
        assert good.push(values(1)).verdict().applied
        while reasons(bad, 100) == {"norm"}:
            pass
        assert reasons(bad, 1) == {"quarantined"}
        assert good.push(values(1)).verdict().applied
        bad.pull()
        np.testing.assert_array_equal(bad.parameters()["weight"], values(-2)["weight"])

        until(lambda: row(cluster, "bad").get("quarantine"))
        assert "were rejected: 5 norm" in row(cluster, "bad")["quarantine"]
        assert row(cluster, "good")["quarantine"] == ""
        figures, plain = Figures(), PlainLines()
        figures.update(cluster.status(), 0.0)
        assert any("bad in quarantine for" in line for line in plain.lines(figures))
        shown = subprocess.run(
            [sys.executable, "-m", "gradmq", "status", cluster.address],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "in quarantine for" in shown.stdout
        for role in ("broker", "ps-0"):
            assert (
                "bad is in quarantine: 5 of its last 5 pushes"
                in (tmp_path / "logs" / f"{role}.log").read_text()
            )

        # Neither joining again, nor a restart of shard or broker, launders it.
        with gradmq.Worker(values(0), cluster.address, name="bad") as again:
            assert reasons(again, 1) == {"quarantined"}
        cluster.kill("ps-0")
        cluster.restart_shard(0)
        until(lambda: cluster.status()["shards"][0]["incarnation"] == 2)
        with gradmq.Worker(values(0), cluster.address, name="bad") as again:
            assert reasons(again, 1) == {"quarantined"}
            since = row(cluster, "bad")["quarantined_s"]
            cluster.kill("broker")
            broker, _ = start_broker(tmp_path, tmp_path / "settings.toml", "local", free_port)
            try:
                until(lambda: row(cluster, "bad").get("quarantine"))
                assert row(cluster, "bad")["quarantined_s"] > since
                assert reasons(again, 1) == {"quarantined"}

                told = readmit(cluster, "nobody")
                assert (told.returncode, told.stderr) == (
                    1,
                    "gradmq: no worker 'nobody' is in quarantine; in quarantine: bad\n",
                )
                told = readmit(cluster, "bad")
                assert (told.returncode, told.stdout) == (0, "bad is let back\n")
                until(lambda: again.push(values(1)).verdict().applied)
                assert row(cluster, "bad")["quarantine"] == ""
            finally:
                good.close()
                again.close()
                end_all([broker])
