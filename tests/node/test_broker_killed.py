"""The broker is no part of the data path: training survives it, and everybody finds it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradmq
from gradmq.run.local import start_broker
from gradmq.run.roles import end_all

pytestmark = pytest.mark.e2e

Arrays = dict[str, npt.NDArray[np.float32]]


def zeros() -> Arrays:
    return {"weight": np.zeros(40, np.float32)}


def ones() -> Arrays:
    return {"weight": np.ones(40, np.float32)}


@pytest.fixture
def cluster(tmp_path: Path, free_port: int) -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(
        zeros(),
        shards=2,
        optimizer=gradmq.SGD(lr=1.0),
        staleness=gradmq.Unbounded(),
        settings={"network.port": free_port, "run.release_every": "100ms"},
        folder=tmp_path,
    ) as cluster:
        yield cluster


def worker_rows(cluster: gradmq.LocalCluster) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in cluster.status()["workers"]}


def test_training_goes_on_without_a_broker_and_a_new_one_takes_everybody_in(
    cluster: gradmq.LocalCluster, tmp_path: Path, free_port: int
) -> None:
    with (
        gradmq.Worker(zeros(), cluster.address, name="left") as left,
        gradmq.Worker(zeros(), cluster.address, name="right") as right,
        gradmq.Follower(zeros(), cluster.address, name="watching") as follower,
    ):
        left.push(ones()).verdict()
        right.push(ones()).verdict()
        before = follower.update()
        sessions = (left.session, right.session)
        cluster.kill("broker")
        for _ in range(20):
            assert left.push(ones()).verdict().applied
        left.pull()
        np.testing.assert_array_equal(left.parameters()["weight"], np.full(40, -22))
        with pytest.raises(gradmq.BrokerAway, match=r"did not answer.*is it running there"):
            gradmq.Worker(zeros(), cluster.address, timeout=0.3).open()
        early = gradmq.Worker(zeros(), cluster.address, name="early")
        joining = threading.Thread(target=early.open)
        joining.start()

        again, address = start_broker(tmp_path, tmp_path / "settings.toml", "local", free_port)
        try:
            assert address == cluster.address
            joining.join()
            assert early.session > max(sessions)
            assert early.push(ones()).verdict().applied
            early_session = early.session
            early.close()
            while not {"left", "right"} <= worker_rows(cluster).keys():
                assert left.push(ones()).verdict().applied
            rows = worker_rows(cluster)
            assert (left.session, right.session) == sessions
            assert (rows["left"]["session"], rows["right"]["session"]) == sessions
            while cluster.status()["phase"] != "open":
                pass
            assert [shard["incarnation"] for shard in cluster.status()["shards"]] == [1, 1]
            # Numbers are not used again, and the follower hears of new releases.
            right.push(ones()).verdict()
            after = follower.update(timeout=20)
            assert after.number > before.number
            assert after.age_s < 5
            with gradmq.Worker(zeros(), cluster.address) as late:
                assert late.session > early_session
                assert late.push(ones()).verdict().applied
        finally:
            left.close()
            right.close()
            follower.close()
            end_all([again])


def _push_for_ever(worker: gradmq.Worker) -> None:
    while True:
        worker.push(ones()).verdict()


WORKER = """
import sys, numpy, gradmq
with gradmq.Worker({"weight": numpy.zeros(40, numpy.float32)}, sys.argv[1], "doomed") as worker:
    while True:
        worker.push({"weight": numpy.ones(40, numpy.float32)}).verdict()
        print(worker.session, flush=True)
"""


def test_a_killed_workers_session_is_fenced_and_the_others_go_on(
    cluster: gradmq.LocalCluster,
) -> None:
    with gradmq.Worker(zeros(), cluster.address, name="steady") as steady:
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, cluster.address], stdout=subprocess.PIPE, text=True
        ) as doomed:
            assert doomed.stdout is not None
            session = int(doomed.stdout.readline())
            os.kill(doomed.pid, signal.SIGKILL)
        assert worker_rows(cluster)["doomed"]["session"] == session
        applied = 0
        while worker_rows(cluster)["doomed"]["live"]:  # until its lease has run out
            assert steady.push(ones()).verdict().applied
            applied += 1
        assert applied
        assert worker_rows(cluster)["doomed"]["applied"] > 0, "its share stays visible"
        assert steady.push(ones()).verdict().applied
        with gradmq.Worker(zeros(), cluster.address, name="doomed") as successor:
            assert successor.session > session
            assert successor.push(ones()).verdict().applied


def test_a_name_belongs_to_the_newest_who_takes_it(cluster: gradmq.LocalCluster) -> None:
    with gradmq.Worker(zeros(), cluster.address, name="only") as first:
        first.push(ones()).verdict()
        with gradmq.Worker(zeros(), cluster.address, name="only") as second:
            with pytest.raises(gradmq.Fenced, match=rf"'only' was taken over.*{os.getpid()}"):
                _push_for_ever(first)
            assert second.session > first.session
            assert second.push(ones()).verdict().applied
            with pytest.raises(gradmq.Fenced):
                first.pull()
            with pytest.raises(gradmq.Fenced):
                first.drain()
